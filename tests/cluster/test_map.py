"""What is asked of Ray for the tasks of an evaluation and of a search's timing."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from documents import TUNE, changed
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.remote_function import RemoteFunction

from distrib.cluster.map import Workers, map_tasks
from distrib.config.cluster import Cluster
from distrib.errors import RunError

FULL = (Path(__file__).parent / "out_of_memory.txt").read_text()
"""What Ray 2.60 says where its memory monitor has ended an evaluation's task."""


class Asked(Exception):
    """Raised in the place of the first task."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray would start the first task with."""
    found: dict[str, Any] = {}

    def start(self: Any, args: object = None, kwargs: object = None, **options: Any) -> None:
        found.update(self._default_options | options | {"max_calls": self._max_calls})
        raise Asked

    monkeypatch.setattr(RemoteFunction, "_remote", start)
    monkeypatch.setattr(ray, "put", lambda shared: shared)
    return found


def test_processes_of_a_search_s_timing_leave_the_gpu(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Each held its memory on the GPU while the trials trained."""
    from distrib.search import run

    job: Any = changed(TUNE, {"cluster": {"device": "cuda"}})
    monkeypatch.setattr(run.cost, "kinds", lambda job: {"kind": None})
    monkeypatch.setattr(run, "open_split", lambda *args: type("Split", (), {"card": None}))
    search = run.Tune.model_validate(job, strict=False)
    opened: Any = SimpleNamespace(job=search, data=None, use_gpu=True, workers=Workers(search.cluster, True))
    with pytest.raises(Asked):
        run._weigh(opened, 1, 1)
    assert (asked["num_gpus"], asked["max_calls"]) == (1, 1)


@pytest.mark.parametrize(("cuda", "sharing", "gpus"), [(False, 2, None), (True, 1, 1), (True, 3, 0.3333)])
def test_a_task_takes_a_worker_s_place(cuda: bool, sharing: int, gpus: float | None, asked: dict[str, Any]):
    cluster = Cluster(cpus_per_worker=3, workers_per_gpu=sharing, max_failures=5)
    with pytest.raises(Asked):
        next(map_tasks(lambda shared, n: n, None, [(1,)], Workers(cluster, cuda)))
    assert asked.get("num_gpus") == gpus
    assert (asked["num_cpus"], asked["max_calls"]) == (3, 0)
    assert asked["max_retries"] == 0, "Ray would begin a task that its memory monitor ended again without end"


def answers(monkeypatch: pytest.MonkeyPatch, answer: Callable[[int, int], object], **fields: int) -> list:
    """What comes of items 1, 2 and 3 where the n-th try of an item answers so, and Ray itself tries nothing again."""
    tries: dict[int, int] = {}

    def start(self: Any, args: tuple, kwargs: object = None, **options: Any) -> tuple[int, int]:
        tries[args[1]] = tries.get(args[1], 0) + 1
        return args[1], tries[args[1]]

    def get(reference: tuple[int, int]) -> object:
        result = answer(*reference)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(RemoteFunction, "_remote", start)
    monkeypatch.setattr(ray, "put", lambda shared: shared)
    monkeypatch.setattr(ray, "wait", lambda waiting, timeout: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(ray, "get", get)
    workers = Workers(Cluster(num_workers=2, **fields), False)
    return [found for _, found in map_tasks(lambda shared, n: n, None, [(1,), (2,), (3,)], workers)]


def test_a_task_whose_process_is_lost_is_begun_again_after_the_others(monkeypatch: pytest.MonkeyPatch):
    lost = {(1, 1): OutOfMemoryError(FULL), (1, 2): WorkerCrashedError()}
    assert answers(monkeypatch, lambda item, n: lost.get((item, n), (item, n))) == [(2, 1), (3, 1), (1, 3)]


def test_a_task_that_does_not_fit_into_memory_ends_the_evaluation_in_a_line(monkeypatch: pytest.MonkeyPatch):
    def answer(item: int, n: int) -> object:
        assert n <= 3, "without end"
        return OutOfMemoryError(FULL) if item == 2 else item

    with pytest.raises(RunError) as caught:
        answers(monkeypatch, answer, max_failures=2)
    assert str(caught.value) == (
        "evaluation failed 3 times: node 10.0.0.7 ran out of memory (7.41 of 7.8 GB in use), so Ray ended 2 processes "
        "there (the largest judge, pid 6361, with 3.25 GB); lower cluster.num_workers, evaluation.batch_size or "
        "evaluation.shard_size, or give the machine more memory. What is done is kept"
    )


def test_an_error_of_the_work_itself_is_not_tried_again(monkeypatch: pytest.MonkeyPatch):
    def answer(item: int, n: int) -> object:
        assert n == 1
        return RayTaskError("judge", "Traceback", ValueError("no such thing"))

    with pytest.raises(RunError, match=r"^evaluation failed: no such thing$"):
        answers(monkeypatch, answer)

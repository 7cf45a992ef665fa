"""What is asked of Ray for the tasks of an evaluation and of a search's timing."""

from typing import Any

import pytest
import ray
from documents import TUNE, changed
from ray.remote_function import RemoteFunction

from distrib.cluster.spread import spread
from distrib.job import Cluster


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
    display: Any = None
    with pytest.raises(Asked):
        run._weigh(run.Tune.model_validate(job, strict=False), job, True, 1, 1, display)
    assert (asked["num_gpus"], asked["max_calls"]) == (1, 1)


@pytest.mark.parametrize(("cuda", "sharing", "gpus"), [(False, 2, None), (True, 1, 1), (True, 3, 0.3333)])
def test_a_task_takes_a_worker_s_place(cuda: bool, sharing: int, gpus: float | None, asked: dict[str, Any]):
    cluster = Cluster(cpus_per_worker=3, workers_per_gpu=sharing, max_failures=5)
    with pytest.raises(Asked):
        next(spread(lambda shared, n: n, None, [(1,)], cluster, cuda))
    assert asked.get("num_gpus") == gpus
    assert (asked["num_cpus"], asked["max_retries"], asked["max_calls"]) == (3, 5, 0)

"""A train job from its checkpoints to the registry, where MLflow is away when the training ends. Ray is left out."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from documents import TRAIN, changed
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from distrib import checkpoints
from distrib.checkpoints import save_checkpoint
from distrib.cli.dispatch import run
from distrib.cluster import evaluate, messages, preflight, session
from distrib.cluster import train as training
from distrib.cluster.session import Node, Resources
from distrib.commands import opened
from distrib.config.file import parse
from distrib.config.job import Train, digest, dump
from distrib.errors import JobError, RunError
from distrib.registry import store
from distrib.registry.store import Registered
from distrib.state import State
from distrib.tracking import tracker
from distrib.tracking.display import Display
from distrib.trainer import EpochEnd

CALLS = ("get_run", "get_metric_history", "log_batch", "log_artifact", "log_text", "set_tag", "update_run",
         "set_terminated", "search_model_versions")  # fmt: skip
METRICS = {
    "train_loss": 2.0, "validation_clean_accuracy": 0.5, "validation_robust_accuracy": 0.25, "train_seconds": 1.0,
    "images_per_second": 100.0, "data_wait_share": 0.0, "validation_seconds": 1.0, "learning_rate": 0.1,
}  # fmt: skip

HISTORY = [METRICS, METRICS | {"validation_robust_accuracy": 0.3}]


class Lines(Display):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def job(tmp_path: Path, uri: str) -> Train:
    """Two epochs on the digits; a quick evaluation."""
    changes = {
        "name": tmp_path.name[-40:], "storage": str(tmp_path), "tracking.uri": uri, "loader": "memory",
        "data.store": str(tmp_path), "data.limit": 300, "evaluation": {"attacks": [{"attack": "fgsm"}], "n": 20},
        "model.width": 0.25,
    }  # fmt: skip
    return parse(changed(TRAIN, changes), [], "here")


def take_away(patch: pytest.MonkeyPatch) -> None:
    """From now on MLflow fails, until the patch ends."""

    def fail(*values: object, **named: object):
        raise MlflowException("the server is away", TEMPORARILY_UNAVAILABLE)

    for call in CALLS:
        patch.setattr(MlflowClient, call, fail)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """What Ray does is done here; ``at_first`` is called before the first epoch is told of."""
    at_first: list[Callable[[], None]] = []

    @contextmanager
    def joined(*values: object, **named: object) -> Iterator[Resources]:
        yield Resources((Node(2),), local=True)

    @contextmanager
    def listening(listen: Callable) -> Iterator[Callable]:
        yield listen

    def fit(order: training.WorkOrder, use_gpu: bool, tell: Callable) -> None:
        at_first[0]()
        for phase, part in order.phases.items():
            torch.manual_seed(0)
            state = State(part.model.build((1, 8, 8), 10, [0.3], [0.4]), part.optim, 2)
            for epoch in (1, 2):
                folder = checkpoints.folder_for(order.run / phase, epoch)
                save_checkpoint(state, folder, HISTORY[:epoch], dump(part), digest(part))
                tell(phase, EpochEnd(epoch, HISTORY[epoch - 1]))

    def map_tasks(part: Callable, shared: object, items: list, *others: object) -> Iterator[tuple]:
        for item in items:
            yield item, part(shared, *item)

    monkeypatch.setattr(session, "session", joined)
    monkeypatch.setattr(preflight, "check_nodes", lambda *values: None)
    monkeypatch.setattr(messages, "listening", listening)
    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(evaluate, "map_tasks", map_tasks)
    monkeypatch.setattr(evaluate, "post", lambda mailbox, phase, message: mailbox(phase, message))
    return at_first.append


def test_a_model_is_judged_without_mlflow_and_recorded_once_when_it_is_back(
    job: Train, uri: str, without_ray: Callable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    folder = Path(job.storage) / job.name
    display = Lines()
    with monkeypatch.context() as patch:
        without_ray(lambda: take_away(patch))
        with pytest.raises(RunError, match="the server is away") as caught:
            run(job, display)
    told = str(caught.value)
    assert "the robust model is judged (clean " in told and f"kept in {folder}" in told
    assert "but not registered" in told and "the same command does the rest" in told
    assert sum("does not take the metrics" in line for line in display.lines) == 1
    assert not any("cannot be told" in line for line in display.lines), "one error says it"
    assert list((folder / "evaluation").glob("*.json")) and (folder / "card" / "card.html").exists()
    assert not (folder / "result.json").exists()

    known = json.loads((folder / "job.json").read_text())["run_id"]
    monkeypatch.setattr(store, "register", lambda entry, name, tracker: Registered(name, "1", "champion"))
    monkeypatch.setattr(training, "fit", None)  # there is nothing left to train
    result = run(job, display)
    stored = MlflowClient(uri)
    assert result["run_id"] == known and stored.get_run(known).info.status == "FINISHED"
    for metric, steps in (("train/loss", [1, 2]), ("test/robust_accuracy", [2]), ("test/fgsm", [2])):
        assert [point.step for point in stored.get_metric_history(known, metric)] == steps, metric


def test_end_results_are_logged_once_though_a_kill_came_before_they_were_noted(
    job: Train, uri: str, without_ray: Callable, monkeypatch: pytest.MonkeyPatch
):
    def killed(*values: object) -> None:
        raise KeyboardInterrupt

    without_ray(lambda: None)
    monkeypatch.setattr(store, "register", lambda entry, name, tracker: Registered(name, "1", "champion"))
    with monkeypatch.context() as patch:
        patch.setattr(opened, "write_result", killed)
        with pytest.raises(KeyboardInterrupt):
            run(job, Lines())
    monkeypatch.setattr(training, "fit", None)
    result = run(job, Lines())
    history = MlflowClient(uri).get_metric_history(result["run_id"], "test/robust_accuracy")
    assert [point.step for point in history] == [2]


def test_a_batch_that_the_images_do_not_fill_is_refused_before_anything_starts(
    job: Train, monkeypatch: pytest.MonkeyPatch
):
    for module, name in ((session, "session"), (tracker, "MLflowRun")):
        monkeypatch.setattr(module, name, None)
    few = job.model_copy(update={"data": job.data.model_copy(update={"limit": 100})})
    with pytest.raises(JobError, match=r"^optim.batch_size: batches of 128 images, but there are 90 to train on; set"):
        run(few, Lines())
    smaller = few.model_copy(update={"optim": few.optim.model_copy(update={"batch_size": 90})})
    monkeypatch.setattr(session, "session", reached)
    with pytest.raises(Reached):
        run(smaller, Lines())


class Reached(Exception):
    """Ray would start now."""


def reached(*values: object, **named: object) -> None:
    raise Reached

"""Metrics on their way to MLflow, heard in one thread and caught up in another."""

import threading
import time

import pytest

from distrib.tracking.display import Display
from distrib.tracking.epochs import EpochLog, metric_name


class Slow:
    """A tracking server that takes its time."""

    def __init__(self):
        self.sent: list[int] = []

    def attempt(self, what, say) -> bool:
        what()
        return True

    def metrics(self, points: list[tuple[str, float, int, int]]) -> None:
        time.sleep(0.02)
        self.sent += [step for _, _, step, _ in points]

    def logged(self, metric: str) -> int:
        return 0


def test_every_epoch_is_logged_once_whoever_logs_it():
    server = Slow()
    journal = EpochLog(server, Display())  # pyright: ignore[reportArgumentType]
    history = [{"train_loss": float(epoch)} for epoch in range(1, 21)]

    def hear() -> None:
        for epoch, metrics in enumerate(history, 1):
            journal.add("robust", epoch, metrics)

    listener = threading.Thread(target=hear)
    listener.start()
    time.sleep(0.05)
    journal.catch_up("robust", history)
    journal.settle()
    listener.join(timeout=30)
    assert server.sent == list(range(1, 21))


class Away(Slow):
    """One that is not asked for a while after a failure."""

    away = True

    def attempt(self, what, say) -> bool:
        return not self.away and super().attempt(what, say)


def test_what_could_not_be_sent_is_kept_in_order_and_sent_when_the_server_answers():
    server = Away()
    journal = EpochLog(server, Display())  # pyright: ignore[reportArgumentType]
    for epoch in (1, 2, 3):
        journal.add("robust", epoch, {"train_loss": 1.0})
    assert server.sent == []
    server.away = False
    journal.add("robust", 4, {"train_loss": 1.0})
    journal.add("robust", 4, {"train_loss": 1.0})
    journal.settle()
    assert server.sent == [1, 2, 3, 4]


def test_the_tags_say_where_the_workers_are_and_in_what_they_compute():
    class Tagged(Slow):
        found: dict[str, str]

        def tags(self, values: dict[str, str]) -> None:
            self.found = values

    server = Tagged()
    journal = EpochLog(server, Display())  # pyright: ignore[reportArgumentType]
    journal.started(1, 2, "b", "float32, convolutions in TF32")
    assert not hasattr(server, "found"), "one is not up yet"
    journal.started(0, 2, "a", "float32, convolutions in TF32")
    assert server.found == {"distrib.nodes": "a b", "distrib.precision": "float32, convolutions in TF32"}


def test_tags_that_could_not_be_sent_are_sent_when_the_server_answers():
    class Tagged(Away):
        def __init__(self):
            super().__init__()
            self.found: list[dict[str, str]] = []

        def tags(self, values: dict[str, str]) -> None:
            self.found.append(values)

    for end in (lambda journal: journal.add("robust", 1, {"train_loss": 1.0}), EpochLog.settle):
        server = Tagged()
        journal = EpochLog(server, Display())  # pyright: ignore[reportArgumentType]
        journal.started(0, 1, "lost", "float32")
        journal.started(0, 1, "a", "float32")
        assert server.found == []
        server.away = False
        end(journal)
        journal.settle()
        assert server.found == [{"distrib.nodes": "a", "distrib.precision": "float32"}], "those that train now, once"


def test_the_bar_keeps_the_last_validation_and_the_line_says_where_there_was_none(
    monkeypatch: pytest.MonkeyPatch,
):
    said: list[str] = []
    display = Display()
    monkeypatch.setattr(display, "say", said.append)
    journal = EpochLog(Slow(), display)  # pyright: ignore[reportArgumentType]
    plain = {"train_loss": 1.0, "images_per_second": 9.0, "data_wait_share": 0.0}
    validated = plain | {"validation_clean_accuracy": 0.75, "validation_robust_accuracy": 0.5}
    assert journal.latest("robust") == ""
    for epoch, metrics in enumerate((validated, plain), 1):
        journal.add("robust", epoch, metrics)
        journal.shown = -9.0  # long ago
        journal.tell("robust", epoch, 9)
    assert journal.latest("robust") == ", clean 75.0%, robust 50.0%"
    first, second = said
    assert "validation clean 75.00% robust 50.00%" in first and "not validated" in second


@pytest.mark.parametrize(
    ("name", "phase", "main", "shown"),
    [
        ("train_loss", "robust", "robust", "train/loss"),
        ("validation_robust_accuracy", "robust", "robust", "validation/robust_accuracy"),
        ("learning_rate", "robust", "robust", "train/learning_rate"),
        ("test/pgd-20", "robust", "robust", "test/pgd-20"),
        ("train_loss", "natural", "robust", "baseline/train_loss"),
        ("test/pgd-20", "natural", "robust", "baseline/test_pgd-20"),
        ("train_loss", "natural", "natural", "train/loss"),  # a run of its own: its charts are those of a robust run
        ("train_loss", "pgd-2", "", "pgd-2/train_loss"),
    ],
)
def test_metrics_stand_in_groups_and_those_of_the_main_model_are_the_same_in_every_run(
    name: str, phase: str, main: str, shown: str
):
    assert metric_name(name, phase, main) == shown

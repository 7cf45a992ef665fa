"""What a trial's process leaves when it cannot train."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from searches import tune

from distrib.errors import DistribError, NoRoom, RunError
from distrib.search import process
from distrib.search.process import ERROR_FILE, NO_ROOM_FILE, TrialConfig, trial_main


@pytest.fixture
def work(tmp_path: Path) -> dict:
    """The configuration of a trial whose folder is there."""
    run = tmp_path / "trials" / "search-0001"
    run.mkdir(parents=True)
    order: Any = SimpleNamespace(run=run)
    return {"number": 1, "work": TrialConfig(order, False, tune().score, 1)}


def never(*values: object) -> None:
    raise AssertionError("it trains")


@pytest.mark.parametrize(
    ("error", "own", "common"),
    [(RunError("it broke"), ERROR_FILE, set()), (NoRoom("a machine is missing"), NO_ROOM_FILE, {NO_ROOM_FILE})],
)
def test_an_error_of_our_own_is_left_in_the_trials_folder(
    work: dict, monkeypatch: pytest.MonkeyPatch, error: DistribError, own: str, common: set[str]
):
    """Ray Tune would begin the trial again. Missing machines say nothing of a trial; no other waits for them."""

    def fail(*values: object) -> None:
        raise error

    monkeypatch.setattr(process, "fit", fail)
    monkeypatch.setattr(process, "TuneReporter", lambda *values: None)  # Ray's own wants a session of Tune
    run = work["work"].order.run
    for stale in (ERROR_FILE, NO_ROOM_FILE):
        (run / stale).write_text("of the time before")
    nobody: Any = None
    trial_main(work, nobody)
    assert {one.name: one.read_text() for one in run.iterdir()} == {own: str(error)}
    assert {one.name for one in run.parent.iterdir()} == {run.name} | common


def test_no_trial_begins_after_one_that_found_no_room(work: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "fit", never)
    run, nobody = work["work"].order.run, Any
    (run.parent / NO_ROOM_FILE).write_text("a machine is missing")
    trial_main(work, nobody)  # pyright: ignore[reportArgumentType]
    assert (run / NO_ROOM_FILE).read_text() == "a machine is missing"


def test_a_trial_whose_settings_do_not_go_together_trains_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "fit", never)
    nobody: Any = None
    trial_main({"number": 1, "work": None}, nobody)

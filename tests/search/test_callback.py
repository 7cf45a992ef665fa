"""What becomes of a trial as Ray Tune begins and ends it."""

from pathlib import Path
from types import SimpleNamespace

from searches import Kept, epoch, tune

from distrib.search.callback import Events, TrialCallback
from distrib.search.process import ERROR_FILE, NO_ROOM_FILE


class Told:
    """A callback's trials, and what it told the driver."""

    def __init__(self, folder: Path):
        self.trials = Kept(tune(), folder, [("waiting", [epoch(0.5)] * 4), ("waiting", [epoch(0.5)] * 2)])
        self.events: list[tuple[str, int]] = []
        self.callback = TrialCallback(self.trials, Events(self.note("started"), self.note("ended")))
        for number in (1, 2):
            self.trials.run(number).mkdir(parents=True)

    def note(self, what: str):
        return lambda trial: self.events.append((what, trial.number))

    def complete(self, config: dict) -> None:
        self.callback.on_trial_complete(1, [], SimpleNamespace(config=config))

    def states(self) -> list[tuple[str, str]]:
        return [(trial.state, trial.error) for trial in self.trials.values()]


def test_a_trial_is_finished_with_all_its_epochs_and_else_stopped(tmp_path: Path):
    told = Told(tmp_path)
    for config in ({"number": 1}, {"trial": {"number": 2}}):  # as Optuna's and as the grid's are given to Ray Tune
        told.callback.on_trial_start(1, [], SimpleNamespace(config=config))
    assert told.states() == [("running", ""), ("running", "")]
    told.complete({"number": 1})
    told.complete({"trial": {"number": 2}})
    assert told.states() == [("finished", ""), ("stopped", "")]
    assert told.events == [("started", 1), ("started", 2), ("ended", 1), ("ended", 2)]


def test_a_trial_that_left_an_error_failed_and_one_without_room_waits(tmp_path: Path):
    told = Told(tmp_path)
    (told.trials.run(1) / ERROR_FILE).write_text("it broke")
    (told.trials.run(2) / NO_ROOM_FILE).write_text("a machine is missing")
    told.complete({"number": 1})
    told.complete({"number": 2})
    assert told.states() == [("failed", "it broke"), ("waiting", "a machine is missing")]
    assert told.events == [("ended", 1)], "one that waits has not ended"


def test_a_process_that_died_too_often_fails_its_trial(tmp_path: Path):
    told = Told(tmp_path)
    trial = SimpleNamespace(config={"number": 2}, get_error=lambda: "a traceback\nActorDiedError: gone\n")
    told.callback.on_trial_error(1, [], trial)
    assert told.states()[1] == ("failed", "ActorDiedError: gone") and told.events == [("ended", 2)]

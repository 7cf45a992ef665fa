"""What the driver does as Ray Tune begins and ends trials."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback

from distrib.cluster.memory import shortage
from distrib.search.process import ERROR_FILE, NO_ROOM_FILE
from distrib.search.space import trial_job
from distrib.search.trials import Trial, Trials


@dataclass(frozen=True)
class Events:
    """What is called as trials begin and end."""

    started: Callable[[Trial], None]
    ended: Callable[[Trial], None]


def number_of(config: dict) -> int:
    """The number of the trial that Ray Tune runs with this configuration."""
    return config.get("trial", config)["number"]


class TrialCallback(TrialProgressCallback):
    """Records what Ray Tune does with each trial. It takes the place of Ray's own callback, which prints it."""

    def __init__(self, trials: Trials, events: Events):
        super().__init__()
        self.trials, self.events = trials, events

    def __getstate__(self) -> dict:
        """Nothing: Ray keeps a copy for Tuner.restore, which is not used here."""
        return {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """An epoch is over: nothing to do."""

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        number = number_of(trial.config)
        if self.trials[number].state != "running":
            self.trials.note(number, "running")
        self.events.started(self.trials[number])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial came to its end, was stopped, or failed with an error of our own."""
        number = number_of(trial.config)
        run = self.trials.run(number)
        if (run / NO_ROOM_FILE).exists():
            self.trials.note(number, "waiting", (run / NO_ROOM_FILE).read_text())
        elif (run / ERROR_FILE).exists():
            self._end(number, "failed", (run / ERROR_FILE).read_text())
        else:
            epochs = len(self.trials.history(number))
            whole = trial_job(self.trials.job, number, self.trials[number].settings).optim.epochs
            self._end(number, "finished" if epochs >= whole else "stopped")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial's process died too often."""
        text = str(trial.get_error() or "its process died").strip()
        self._end(number_of(trial.config), "failed", str(shortage(text) or text.splitlines()[-1]))

    def _end(self, number: int, state: str, error: str = "") -> None:
        self.trials.note(number, state, error)
        self.events.ended(self.trials[number])

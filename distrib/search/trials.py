"""The trials of a search: which there are, what each was set to, and how it ended."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from distrib import checkpoints
from distrib.config.job import Tune
from distrib.config.moved import new_settings
from distrib.config.search import Score
from distrib.errors import InputError
from distrib.search.space import Settings
from distrib.tracking.folder import ROBUST, read_trials, trial_folder, write_trials

Ending = Literal["finished", "stopped", "failed"]
"""finished: all its epochs; stopped: early, by the stopping rule; failed: with an error."""


@dataclass(frozen=True)
class TrialSlots:
    """The room that the cluster has for trials."""

    concurrent: int
    """Trials that run at a time."""
    use_gpu: bool


@dataclass(frozen=True)
class Trial:
    """One trial."""

    number: int
    """From 1."""
    settings: Settings
    state: Literal["waiting", "running"] | Ending = "waiting"
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state not in ("waiting", "running")


class Trials(Mapping[int, Trial]):
    """The trials of a search, by number; every change is on disk before it counts."""

    def __init__(self, job: Tune, folder: Path, units: float):
        """Reads those of the run in ``folder``, if it was begun; a trial takes so many ``units`` (cores or GPUs).

        Raises :class:`InputError` if the file is damaged.
        """
        self.job, self.folder, self.units = job, folder, units
        try:
            self._known = {one.number: one for one in (_trial(plain) for plain in read_trials(folder))}
        except (TypeError, AttributeError) as error:
            raise InputError(f"{folder / 'trials.json'}: damaged ({error}); delete {folder} to search anew") from None

    def __getitem__(self, number: int) -> Trial:
        return self._known[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def add(self, settings: Settings, *more: Settings) -> Trial:
        """Adds new trials, all in one write, and returns the last of them."""
        for one in (settings, *more):
            number = max(self._known, default=0) + 1
            self._known[number] = Trial(number, one)
        self._write()
        return self._known[number]

    def note(self, number: int, state: str, error: str = "") -> None:
        """Records what became of a trial."""
        self._known[number] = replace(self._known[number], state=state, error=error)
        self._write()

    def _write(self) -> None:
        write_trials(self.folder, [asdict(one) for one in self._known.values()])

    def name(self, number: int) -> str:
        """The name of a trial's run."""
        return f"{self.job.name}-{number:04d}"

    def run(self, number: int) -> Path:
        """The folder of a trial's run."""
        return trial_folder(self.folder, self.name(number))

    def history(self, number: int) -> list[dict]:
        """The metrics of every epoch of a trial that has a checkpoint."""
        return checkpoints.history(self.run(number) / ROBUST, lambda text: None)

    def outcomes(self) -> list["TrialOutcome"]:
        """Every trial that has an epoch behind it, in the order of their numbers."""
        found = [(trial, self.history(trial.number)) for trial in self._known.values()]
        return [TrialOutcome.of(self.job, trial, history, self.units) for trial, history in found if history]


def _trial(plain: dict) -> Trial:
    """A trial as the file says it; of a search that an older distrib began, too."""
    trial = Trial(**plain)
    return replace(trial, settings=new_settings(trial.settings))


@dataclass(frozen=True)
class TrialOutcome:
    """What a trial came to: its best epoch by the score, which is the one that is kept."""

    trial: Trial
    epochs: int
    """Trained."""
    best_epoch: int
    robust_accuracy: float
    clean_accuracy: float
    score: float
    cost_hours: float
    """Core-hours of training and validation (GPU-hours on GPUs)."""

    @classmethod
    def of(cls, job: Tune, trial: Trial, history: list[dict], units: float) -> "TrialOutcome":
        """From the metrics of its epochs."""
        best = checkpoints.best_epoch(history, job.score.min_clean_accuracy)
        found = trial_metrics(job.score, history, units)
        return cls(trial, found["epoch"], best, found["robust"], found["clean"], found["score"], found["cost"])

    def value(self, objective: str) -> float:
        """The trial's value of one of the score's objectives."""
        return {"robust": self.robust_accuracy, "clean": self.clean_accuracy, "cost": self.cost_hours}[objective]


def trial_metrics(score: Score, history: list[dict], units: float) -> dict:
    """What a trial with this history has reached: its best epoch by the score, and the cost of all of them."""
    floor = score.min_clean_accuracy
    best = history[checkpoints.best_epoch(history, floor) - 1]
    cost = sum(epoch["train_seconds"] + epoch["validation_seconds"] for epoch in history) * units / 3600
    return {
        "epoch": len(history), "score": checkpoints.epoch_score(best, floor),
        "robust": best[checkpoints.ROBUST], "clean": best[checkpoints.CLEAN], "cost": cost,
    }  # fmt: skip


def best_trial(outcomes: list[TrialOutcome]) -> TrialOutcome:
    """The trial with the highest score; the cheaper, then the earlier one of equals.

    One that was stopped early is it only where none was finished: the rule has called others better.
    """
    finished = [one for one in outcomes if one.trial.state == "finished"]
    return max(finished or outcomes, key=lambda one: (one.score, -one.cost_hours, -one.trial.number))


def front(outcomes: list[TrialOutcome], objectives: tuple[str, ...]) -> list[TrialOutcome]:
    """Those of the finished trials that no other of them equals in everything and beats in something (Pareto).

    One that was stopped early came to what it is worth in fewer epochs: it is neither on the front nor beats another.
    """
    finished = [one for one in outcomes if one.trial.state == "finished"]

    def values(one: TrialOutcome) -> list[float]:
        return [-one.value(name) if name == "cost" else one.value(name) for name in objectives]

    def dominated(one: TrialOutcome) -> bool:
        mine = values(one)
        return any(
            all(theirs >= own for theirs, own in zip(values(other), mine, strict=True)) and values(other) != mine
            for other in finished
        )

    return [one for one in finished if not dominated(one)]

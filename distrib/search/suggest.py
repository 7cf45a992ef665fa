"""Optuna as Ray Tune's searcher: it chooses each trial in the light of those before it."""

from collections.abc import Callable
from pathlib import Path

from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from distrib.search.process import ERROR_FILE, NO_ROOM_FILE
from distrib.search.sampler import DIRECTIONS, STUDY, distributions, memory, sampler, settings_of
from distrib.search.trials import Trial, Trials


class RecordedOptuna(OptunaSearch):
    """Optuna, as Ray Tune asks it. Every trial that it chooses is recorded before it starts."""

    def __init__(self, trials: Trials, config: Callable[[Trial], dict], left: list[Trial]):
        """``config`` gives Ray Tune's configuration of a trial; those ``left`` by an earlier process come first."""
        job = trials.job
        several = len(job.score.objectives) > 1
        ended = [one for one in trials.outcomes() if one.trial.state in ("finished", "stopped")]
        super().__init__(
            distributions(job.space),
            metric=list(job.score.objectives) if several else "score",
            mode=[DIRECTIONS[name][:3] for name in job.score.objectives] if several else "max",
            sampler=sampler(job.search, several, len(trials)),
            storage=memory(job, ended, left),
            study_name=STUDY,
        )
        self.trials, self.config, self.left = trials, config, list(left)
        self.numbers: dict[str, int] = {}
        """The number of each trial by Ray Tune's id of it."""

    def save(self, checkpoint_path: str) -> None:
        """An empty file: Ray would read it in Tuner.restore, which is not used here; trials.json holds every trial."""
        Path(checkpoint_path).touch()

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Tells Optuna what a trial came to; one that failed, at whatever epoch, counts neither as bad nor as good."""
        sound = (
            result is not None
            and "score" in result
            and not (self.trials.run(self.numbers[trial_id]) / ERROR_FILE).exists()
        )
        super().on_trial_complete(trial_id, result if sound else None, error or not sound)

    def suggest(self, trial_id: str) -> dict:
        """The configuration of the next trial: one that was begun before a restart, else a new one."""
        if (self.trials.folder / "trials" / NO_ROOM_FILE).exists():
            return Searcher.FINISHED  # pyright: ignore[reportReturnType]  # as Ray's own searchers do
        chosen = super().suggest(trial_id)
        assert chosen is not None
        new = self.left.pop(0) if self.left else self.trials.add(settings_of(self.trials.job.space, chosen))
        self.numbers[trial_id] = new.number
        return self.config(new)

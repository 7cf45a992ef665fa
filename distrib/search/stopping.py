"""The rules that stop trials early, by Ray Tune; they remember what was trained before a restart."""

import math
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from distrib.config.search import Asha, Median
from distrib.search.callback import number_of
from distrib.search.trials import Trials, trial_metrics


def stopping_rule(trials: Trials) -> TrialScheduler:
    """The rule that the job names, told of every epoch of the trials that have ended."""
    job = trials.job
    match job.stopping:
        case Asha():
            rule = ResumableAsha(
                trials,
                time_attr="epoch", metric="score", mode="max", max_t=job.train.optim.epochs,
                grace_period=job.stopping.grace_epochs, reduction_factor=job.stopping.reduction_factor,
                stop_last_trials=False,
            )  # fmt: skip
        case Median():
            # With a finite time slice it would pause trials while it knows too little; a training cannot be paused
            rule = ResumableMedian(
                time_attr="epoch", metric="score", mode="max", grace_period=job.stopping.grace_epochs,
                min_samples_required=job.stopping.min_trials,
                min_time_slice=math.inf,  # pyright: ignore[reportArgumentType]
            )  # fmt: skip
        case _:
            return FIFOScheduler()
    for number, trial in trials.items():
        history = trials.history(number)
        if not trial.ended or not history:
            continue
        ended: Any = EndedTrial(f"ended-{number}")
        nobody: Any = None
        rule.on_trial_add(nobody, ended)
        for epochs in range(1, len(history) + 1):
            said = rule.on_trial_result(nobody, ended, trial_metrics(job.score, history[:epochs], trials.units))
            if said == TrialScheduler.STOP and isinstance(rule, ResumableMedian):
                break  # it refuses further results of a trial that it has stopped
    return rule


class ResumableAsha(ASHAScheduler):
    """Successive halving (ASHA) that is told which epochs a resumed trial has behind it.

    So no rung is judged twice, or late. A rung at the trial's newest epoch is the exception: nobody knows whether it
    was judged before the restart, so it is judged at the next epoch.
    """

    def __init__(self, trials: Trials, **fields: Any):
        super().__init__(**fields)
        self.trials = trials

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Called when a trial is new to this process."""
        super().on_trial_add(tune_controller, trial)
        if not isinstance(trial, EndedTrial):
            score, units = self.trials.job.score, self.trials.units
            history = self.trials.history(number_of(trial.config))
            for epochs in range(1, len(history)):
                self.on_trial_result(tune_controller, trial, trial_metrics(score, history[:epochs], units))


class ResumableMedian(MedianStoppingRule):
    """Median stopping that accepts a trial which failed before its first epoch; Ray's own raises an error there."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        """Called at the end of a trial."""
        if "epoch" in result:
            super().on_trial_complete(tune_controller, trial, result)


@dataclass(frozen=True)
class EndedTrial:
    """A trial that ended before this process began: all of it that a stopping rule looks at."""

    trial_id: str

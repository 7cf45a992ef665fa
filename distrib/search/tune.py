"""Trials on Ray Tune. Each is a small process that trains by Ray Train, through the same code as ``kind: train``.

The books (:mod:`distrib.search.trials`) say what there is to do, not Ray's own record of the experiment: a search that
was killed begins a new experiment with the trials that have not ended, and tells the stopping rule and the sampler
what the others came to.
"""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from distrib import checkpoints
from distrib.cluster.memory import shortage
from distrib.cluster.resources import TRIAL_BYTES
from distrib.cluster.train import WorkOrder, fit
from distrib.config.job import Tune
from distrib.config.search import Asha, Median, Optuna, Score
from distrib.errors import DistribError, JobError, NoRoom, RunError
from distrib.files import write_bytes
from distrib.search.sampler import DIRECTIONS, STUDY, distributions, memory, sampler, settings_of
from distrib.search.space import trial_job
from distrib.search.trials import Trial, Trials
from distrib.tracking.folder import ROBUST

ERROR = "error.txt"
NO_ROOM = "no_room.txt"


@dataclass(frozen=True)
class TrialConfig:
    """What a trial's process is told."""

    order: WorkOrder
    use_gpu: bool
    score: Score
    units: float
    """Cores or GPUs that the trial takes."""


@dataclass(frozen=True)
class Events:
    """What the driver does as trials begin and end."""

    started: Callable[[Trial], None]
    ended: Callable[[Trial], None]


def trial_main(config: dict, board: ActorHandle) -> None:
    """A trial, as Ray Tune runs it: the whole distributed training.

    An error of our own is left in ``error.txt``; in ``no_room.txt`` where machines lacked, which says nothing of it:
    then also beside the trials, so that none begins after it, to wait as long.
    """
    ticket: TrialConfig | None = config["ticket"]
    if ticket is None:
        return
    run = ticket.order.run
    for name in (ERROR, NO_ROOM):
        (run / name).unlink(missing_ok=True)
    common = run.parent / NO_ROOM
    if common.exists():
        shutil.copy(common, run / NO_ROOM)
        return
    try:
        fit(ticket.order, ticket.use_gpu, board, [Scored(ticket.score, run / ROBUST, ticket.units)])
    except NoRoom as error:
        for folder in (run.parent, run):
            write_bytes(folder / NO_ROOM, str(error).encode())
    except DistribError as error:  # the same would happen again: not for Tune, which would start the trial anew
        write_bytes(run / ERROR, str(error).encode())


def reserved(memories: list[float], concurrent: int) -> dict[str, float]:
    """What Tune reserves for a trial's own process, so that Ray spreads them over the nodes, which have ``memories``.

    It is the memory that such a process takes, or as much less as lets ``concurrent`` of them run at a time: a node
    with little memory has to do with what it has. A share of a CPU would be missing where the workers need every CPU.
    """
    share = TRIAL_BYTES
    while share > 1 and sum(memory // share for memory in memories) < concurrent:
        share //= 2
    return {"memory": share}


class Scored(TuneReportCallback):
    """Tells Ray Tune after every epoch what the trial is worth so far: its best epoch by robust accuracy."""

    def __init__(self, score: Score, run: Path, units: float):
        super().__init__()
        self.score, self.run, self.units = score, run, units

    def after_report(self, run_context: Any, metrics: list[dict], checkpoint: Any) -> None:
        """Called by Ray Train with what each rank reported."""
        epoch = metrics[0]["epoch"]  # its checkpoint is stored already; a report may be lost, a checkpoint is not
        history = checkpoints.history(self.run, lambda text: None)[:epoch]
        super().after_report(run_context, [worth(self.score, history, self.units)], checkpoint)


def worth(score: Score, history: list[dict], units: float) -> dict:
    """What Ray Tune is told of a trial with this history."""
    floor = score.min_clean_accuracy
    best = history[checkpoints.best_epoch(history, floor) - 1]
    clean, robust = best["validation_clean_accuracy"], best["validation_robust_accuracy"]
    cost = sum(epoch["train_seconds"] + epoch["validation_seconds"] for epoch in history) * units / 3600
    return {
        "epoch": len(history), "score": checkpoints.epoch_score(best, floor),
        "robust": robust, "clean": clean, "cost": cost,
    }  # fmt: skip


def search(
    job: Tune, books: Trials, data: Path, concurrent: int, use_gpu: bool, board: ActorHandle, events: Events
) -> None:
    """Runs every trial of the books that has not ended; the sampler adds trials of its own to them.

    Raises :class:`NoRoom` where machines lacked for some of them: those wait, for the search to go on.
    """
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is for distrib's own
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its own tables, which verbose=0 does not turn off
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # else a trial without an epoch ends the search

    def config(trial: Trial) -> dict:
        try:
            order = trial_job(job, trial.number, trial.settings)
        except JobError as error:  # only Optuna can choose what does not go together: space.check tried the rest
            books.run(trial.number).mkdir(parents=True, exist_ok=True)
            write_bytes(books.run(trial.number) / ERROR, str(error).encode())
            return {"number": trial.number, "ticket": None}
        told = WorkOrder(order, data, books.run(trial.number), {ROBUST: order}, f"{trial.number}/")
        return {"number": trial.number, "ticket": TrialConfig(told, use_gpu, job.score, books.units)}

    left = [trial for trial in books.trials.values() if not trial.ended]
    several = len(job.score.objectives) > 1
    if isinstance(job.search, Optuna):
        algorithm = Chosen(job, books, config, left)
        space, count = {}, job.search.num_trials - len(books.trials) + len(left)
    else:
        algorithm, space, count = None, {"trial": tune.grid_search([config(trial) for trial in left])}, 1
    if not left and (algorithm is None or count < 1):
        return
    memories = [node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]]
    # nodes that an autoscaling cluster will add are not there yet
    resources = reserved(memories, 1 if job.cluster.autoscaling else concurrent)
    experiment = books.folder / ".tune"
    shutil.rmtree(experiment, ignore_errors=True)
    (books.folder / "trials" / NO_ROOM).unlink(missing_ok=True)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial_main if algorithm else _of_grid, board=board), resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=count,
            max_concurrent_trials=concurrent,
            search_alg=algorithm,
            scheduler=FIFOScheduler() if several else scheduler(job, books),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(experiment),
            failure_config=tune.FailureConfig(max_failures=job.cluster.max_failures),
            callbacks=[TrialCallback(job, books, events)],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except (tune.TuneError, RuntimeError) as error:
        raise RunError(f"the search failed: {str(error).strip().splitlines()[-1]}") from None
    finally:
        shutil.rmtree(experiment, ignore_errors=True)
    waiting = [trial for trial in books.trials.values() if not trial.ended]
    if waiting:
        why = next((trial.error for trial in waiting if trial.error), "they were not begun")
        raise NoRoom(f"{len(waiting)} of {len(books.trials)} trials wait: {why}")


def _of_grid(config: dict, board: ActorHandle) -> None:
    trial_main(config["trial"], board)


def number_of(config: dict) -> int:
    """Of the trial that Ray Tune runs with this configuration."""
    return config.get("trial", config)["number"]


class TrialCallback(TrialProgressCallback):
    """Writes into the books what Ray Tune does, in the place of Ray's own callback, which prints it."""

    def __init__(self, job: Tune, books: Trials, events: Events):
        super().__init__()
        self.job, self.books, self.events = job, books, events

    def __getstate__(self) -> dict:
        """Nothing: Ray keeps a copy for Tuner.restore, which is not used here."""
        return {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """An epoch is over: nothing to do."""

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        number = number_of(trial.config)
        if self.books.trials[number].state != "running":
            self.books.note(number, "running")
        self.events.started(self.books.trials[number])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial came to its end, was stopped, or failed with an error of our own."""
        number = number_of(trial.config)
        run = self.books.run(number)
        if (run / NO_ROOM).exists():
            self.books.note(number, "waiting", (run / NO_ROOM).read_text())
        elif (run / ERROR).exists():
            self._end(number, "failed", (run / ERROR).read_text())
        else:
            epochs = len(self.books.history(number))
            whole = trial_job(self.job, number, self.books.trials[number].settings).optim.epochs
            self._end(number, "finished" if epochs >= whole else "stopped")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial's process died too often."""
        text = str(trial.get_error() or "its process died").strip()
        self._end(number_of(trial.config), "failed", str(shortage(text) or text.splitlines()[-1]))

    def _end(self, number: int, state: str, error: str = "") -> None:
        self.books.note(number, state, error)
        self.events.ended(self.books.trials[number])


def scheduler(job: Tune, books: Trials) -> TrialScheduler:
    """The stopping rule, told of every epoch that is in the books."""
    match job.stopping:
        case Asha():
            rule = Rungs(
                job, books,
                time_attr="epoch", metric="score", mode="max", max_t=job.train.optim.epochs,
                grace_period=job.stopping.grace_epochs, reduction_factor=job.stopping.reduction_factor,
                stop_last_trials=False,
            )  # fmt: skip
        case Median():
            # Less time than for ever, and it would pause trials while it knows too little: they cannot be paused
            rule = Medians(
                time_attr="epoch", metric="score", mode="max", grace_period=job.stopping.grace_epochs,
                min_samples_required=job.stopping.min_trials,
                min_time_slice=math.inf,  # pyright: ignore[reportArgumentType]
            )  # fmt: skip
        case _:
            return FIFOScheduler()
    for number, trial in books.trials.items():
        history = books.history(number)
        if not trial.ended or not history:
            continue
        known: Any = Known(f"known-{number}")
        nobody: Any = None
        rule.on_trial_add(nobody, known)
        for epochs in range(1, len(history) + 1):
            said = rule.on_trial_result(nobody, known, worth(job.score, history[:epochs], books.units))
            if said == TrialScheduler.STOP and isinstance(rule, Medians):
                break  # it takes no more of a trial that it has stopped
    return rule


class Rungs(ASHAScheduler):
    """Successive halving that knows what a resumed trial has behind it: no rung is judged twice, or late.

    But for one at its newest epoch: whether that was judged nobody knows, so it is at the next one.
    """

    def __init__(self, job: Tune, books: Trials, **fields: Any):
        super().__init__(**fields)
        self.job, self.books = job, books

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Called when a trial is new to this process."""
        super().on_trial_add(tune_controller, trial)
        if not isinstance(trial, Known):
            history = self.books.history(number_of(trial.config))
            for epochs in range(1, len(history)):
                self.on_trial_result(tune_controller, trial, worth(self.job.score, history[:epochs], self.books.units))


class Medians(MedianStoppingRule):
    """Median stopping that bears a trial which failed before its first epoch."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        """Called at the end of a trial."""
        if "epoch" in result:
            super().on_trial_complete(tune_controller, trial, result)


@dataclass(frozen=True)
class Known:
    """A trial that ended before this process began, as far as a stopping rule looks at it."""

    trial_id: str


class Chosen(OptunaSearch):
    """Optuna, with every trial that it chooses written into the books first."""

    def __init__(self, job: Tune, books: Trials, config: Callable[[Trial], dict], left: list[Trial]):
        several = len(job.score.objectives) > 1
        ended = [one for one in books.outcomes() if one.trial.state in ("finished", "stopped")]
        super().__init__(
            distributions(job.space),
            metric=list(job.score.objectives) if several else "score",
            mode=[DIRECTIONS[name][:3] for name in job.score.objectives] if several else "max",
            sampler=sampler(job.search, several, len(books.trials)),
            storage=memory(job, ended, left),
            study_name=STUDY,
        )
        self.job, self.books, self.config, self.left = job, books, config, list(left)
        self.numbers: dict[str, int] = {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Ray would keep it for Tuner.restore, which is not used; the books remember."""
        Path(checkpoint_path).touch()

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """A trial that failed, before its first epoch or later, is neither a bad nor a good one."""
        sound = (
            result is not None and "score" in result and not (self.books.run(self.numbers[trial_id]) / ERROR).exists()
        )
        super().on_trial_complete(trial_id, result if sound else None, error or not sound)

    def suggest(self, trial_id: str) -> dict:
        """The configuration of the next trial: of one that was begun before a restart, else of a new one."""
        if (self.books.folder / "trials" / NO_ROOM).exists():
            return Searcher.FINISHED  # pyright: ignore[reportReturnType]  # as Ray's own searchers do
        chosen = super().suggest(trial_id)
        assert chosen is not None
        new = self.left.pop(0) if self.left else self.books.add(settings_of(self.job.space, chosen))
        self.numbers[trial_id] = new.number
        return self.config(new)

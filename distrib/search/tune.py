"""Runs the trials of a search on Ray Tune; each trains by Ray Train, through the same code as ``kind: train``.

What there is to do stands in trials.json (:mod:`distrib.search.trials`), not in Ray's own record of the experiment. A
search that was killed begins a new experiment with the trials that have not ended, and tells the stopping rule and
Optuna what the others came to.
"""

import os
import shutil
from pathlib import Path

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.schedulers import FIFOScheduler

from distrib.cluster.resources import TRIAL_BYTES
from distrib.cluster.train import WorkOrder
from distrib.config.search import Optuna
from distrib.errors import JobError, NoRoom, RunError
from distrib.files import write_bytes
from distrib.search.callback import Events, TrialCallback
from distrib.search.process import ERROR_FILE, NO_ROOM_FILE, TrialConfig, trial_main
from distrib.search.space import trial_job
from distrib.search.stopping import stopping_rule
from distrib.search.suggest import RecordedOptuna
from distrib.search.trials import Trial, Trials, TrialSlots
from distrib.tracking.folder import ROBUST, start_file


def search(trials: Trials, data: Path, slots: TrialSlots, mailbox: ActorHandle, events: Events) -> None:
    """Runs every trial that has not ended; Optuna adds trials of its own.

    Workers send what they do to ``mailbox``. Raises :class:`NoRoom` where machines were missing for some trials: they
    wait until the search is started again.
    """
    job = trials.job
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is for distrib's own
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its own tables, which verbose=0 does not turn off
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # else a trial without an epoch ends the search

    init = None if job.train.init is None else start_file(trials.folder)

    def config(trial: Trial) -> dict:
        try:
            order = trial_job(job, trial.number, trial.settings)
        except JobError as error:  # only Optuna can choose what does not go together: space.check tried the rest
            trials.run(trial.number).mkdir(parents=True, exist_ok=True)
            write_bytes(trials.run(trial.number) / ERROR_FILE, str(error).encode())
            return {"number": trial.number, "work": None}
        told = WorkOrder(order, data, trials.run(trial.number), {ROBUST: order}, f"{trial.number}/", True, init)
        return {"number": trial.number, "work": TrialConfig(told, slots.use_gpu, job.score, trials.units)}

    left = [trial for trial in trials.values() if not trial.ended]
    several = len(job.score.objectives) > 1
    if isinstance(job.search, Optuna):
        algorithm = RecordedOptuna(trials, config, left)
        space, count = {}, job.search.num_trials - len(trials) + len(left)
    else:
        algorithm, space, count = None, {"trial": tune.grid_search([config(trial) for trial in left])}, 1
    if not left and (algorithm is None or count < 1):
        return
    memories = [node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]]
    # nodes that an autoscaling cluster will add are not there yet
    resources = trial_resources(memories, 1 if job.cluster.autoscaling else slots.concurrent)
    experiment = trials.folder / ".tune"
    shutil.rmtree(experiment, ignore_errors=True)
    (trials.folder / "trials" / NO_ROOM_FILE).unlink(missing_ok=True)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial_main if algorithm else _of_grid, mailbox=mailbox), resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=count,
            max_concurrent_trials=slots.concurrent,
            search_alg=algorithm,
            scheduler=FIFOScheduler() if several else stopping_rule(trials),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(experiment),
            failure_config=tune.FailureConfig(max_failures=job.cluster.max_failures),
            callbacks=[TrialCallback(trials, events)],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except (tune.TuneError, RuntimeError) as error:
        raise RunError(f"the search failed: {str(error).strip().splitlines()[-1]}") from None
    finally:
        shutil.rmtree(experiment, ignore_errors=True)
    waiting = [trial for trial in trials.values() if not trial.ended]
    if waiting:
        why = next((trial.error for trial in waiting if trial.error), "they were not begun")
        raise NoRoom(f"{len(waiting)} of {len(trials)} trials wait: {why}")


def _of_grid(config: dict, mailbox: ActorHandle) -> None:
    trial_main(config["trial"], mailbox)


def trial_resources(memories: list[float], concurrent: int) -> dict[str, float]:
    """What Ray reserves for a trial's own process, on nodes of these ``memories`` in bytes.

    The reservation is what spreads the processes over the nodes. It is the memory that such a process takes, halved
    until ``concurrent`` of them fit. It is no share of a CPU, which would be missing where the workers need every one.
    """
    share = TRIAL_BYTES
    while share > 1 and sum(memory // share for memory in memories) < concurrent:
        share //= 2
    return {"memory": share}

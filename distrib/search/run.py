"""A search, from its job to its winner: trials on Ray Tune, each a distributed training of its own."""

from dataclasses import replace

from distrib.commands.opened import OpenRun, opened
from distrib.commands.start import begun_with, must_keep_its_promises
from distrib.commands.train import run_train
from distrib.config.explain import inside
from distrib.config.file import job_yaml
from distrib.config.job import Train, Training, Tune
from distrib.data.beton import open_split
from distrib.errors import JobError, RunError
from distrib.registry import versions
from distrib.search import cost, space
from distrib.search.report import describe_search, report_files
from distrib.search.trials import Trial, TrialOutcome, Trials, TrialSlots, best_trial
from distrib.search.watch import Watch
from distrib.tracking import client
from distrib.tracking.display import Display


def run_tune(job: Tune, display: Display) -> dict:
    """Searches; then judges and registers the winner, whose version names the search."""
    result, winner = run_search(job, display)
    if winner is None:
        return result | {"winner": None}
    settings = ", ".join(f"{path} {value}" for path, value in result["best"]["settings"].items())
    display.say(f"the winner is trial {result['best']['number']}: {settings}")
    with inside("train", Training):  # its data may be gone by now
        judged = run_train(winner, display)
    versions.tag(
        judged["model"], {"search": job.name, "search_run": result["run_id"]}, client.address(winner.tracking.uri)
    )
    return result | {"winner": judged}


def run_search(job: Tune, display: Display) -> tuple[dict, Train | None]:
    """Carries a search out; its result as plain values, and the job of the winner, if it has one.

    Raises :class:`DistribError`; where every trial failed, with the first cause.
    """
    with opened(job, display) as run:
        result = run.result or _search(run)
        trials = Trials(run.job, run.folder, 1)
        return result, winner_of(run.job, trials[result["best"]["number"]])


def winner_of(job: Tune, trial: Trial) -> Train | None:
    """The train job that judges and registers the best trial: its own, which is trained already, or one in full."""
    if job.winner is None:
        return None
    whole = space.trial_job(job, trial.number, trial.settings)
    if job.winner.epochs is None:
        return whole
    longer = whole.optim.model_copy(update={"epochs": job.winner.epochs})
    return whole.model_copy(update={"name": f"{job.name}-winner", "storage": job.storage, "optim": longer})


def _search(run: OpenRun[Tune]) -> dict:
    space.check_space(run.job)
    run.prepare()
    space.must_suffice_for_all(run.job, run.data)
    must_keep_its_promises(run)
    begun_with(run)
    run.join(dashboard=True)
    cluster = run.job.cluster
    units = cluster.max_workers * (1 / cluster.workers_per_gpu if run.use_gpu else cluster.cpus_per_worker)
    concurrent, trials = slots(run), Trials(run.job, run.folder, units)
    if not trials:
        _weigh(run, units, concurrent)
    run.track()
    _draw(run, trials)
    watch = _run_trials(run, trials, concurrent)
    outcomes = [one for one in trials.outcomes() if one.trial.state in ("finished", "stopped")]
    with client.recorded(f"the search is over ({len(outcomes)} trials with a result; kept in {run.folder})"):
        watch.settle()
        if not outcomes:
            first = next((trial.error for trial in trials.values() if trial.error), "no trial came to an end")
            raise RunError(f"every trial failed; the first: {first}")
        watch.crown(best_trial(outcomes).trial.number)
        return _finish(run, trials, outcomes)


def slots(run: OpenRun[Tune]) -> int:
    """How many trials the cluster holds at a time. Raises :class:`JobError` with the arithmetic."""
    job, resources = run.job, run.resources
    workers, each = job.cluster.max_workers, job.cluster.cpus_per_worker
    fit = resources.room(job.cluster, run.use_gpu) // workers
    if job.cluster.autoscaling:
        return job.concurrent or max(fit, 1)
    if job.concurrent is not None and job.concurrent > fit:
        asked = job.concurrent * workers
        gpus = f" and {asked / job.cluster.workers_per_gpu:g} GPUs" if run.use_gpu else ""
        raise JobError(
            f"concurrent: {job.concurrent} trials x {workers} workers x {each} CPUs = {asked * each} CPUs{gpus}, but "
            f"the cluster has {resources.cpus:g} CPUs and {resources.gpus:g} GPUs; at most {fit}"
        )
    return job.concurrent or min(fit, resources.trials())


def _weigh(run: OpenRun[Tune], units: float, concurrent: int) -> None:
    """Says what the search will cost. Raises :class:`JobError` if that is more than it may."""
    from distrib.cluster.map import map_tasks

    job, cluster = run.job, run.job.cluster
    card, held_out = (open_split(run.data, split, "training").card for split in ("train", "validation"))
    kinds = cost.kinds(job)
    shared = (card, cluster.max_workers, cluster.cpus_per_worker, run.use_gpu)
    timings = map_tasks(_timed, shared, kinds.items(), replace(run.workers, fresh=True))
    speeds = {item[0]: speed for item, speed in timings}
    found, unit = cost.estimate(job, speeds, card, held_out.count, units), "GPU" if run.use_gpu else "core"
    run.display.say(
        f"search: {found.trials} trials, {concurrent} at a time; about {found.about:.2g} {unit}-hours, at most "
        f"{found.at_most:.2g} (timed: {len(kinds)} kinds of trial, a worker alone; not in it: start-up, loading, the "
        "exchange of gradients)"
    )
    cost.within_budget(job, found, unit)


def _timed(shared: tuple, name: str, training) -> float:
    card, workers, threads, cuda = shared
    return cost.timed(card, training, workers, threads, cuda)


def _draw(run: OpenRun[Tune], trials: Trials) -> None:
    """Draws the trials that are known before the first one starts, unless that was done before a restart."""
    if trials:
        done = sum(trial.ended for trial in trials.values())
        run.display.say(f"search: resumed, {done} of {len(trials)} trials known so far have ended")
        return
    drawn = space.known_settings(run.job)
    if drawn:
        trials.add(*drawn)


def _run_trials(run: OpenRun[Tune], trials: Trials, concurrent: int) -> Watch:
    from distrib.cluster.messages import listening
    from distrib.search.callback import Events
    from distrib.search.tune import search

    watch = Watch(run, trials)
    try:
        with listening(watch.hear) as mailbox:
            events = Events(watch.started, watch.ended)
            search(trials, run.data, TrialSlots(concurrent, run.use_gpu), mailbox, events)
    except BaseException:
        watch.interrupted()
        raise
    finally:
        run.display.end()
    return watch


def _finish(run: OpenRun[Tune], trials: Trials, outcomes: list[TrialOutcome]) -> dict:
    """Tables, plots and the best trial's job, kept with the search; its result."""
    job, top = run.job, best_trial(outcomes)
    whole = space.trial_job(job, top.trial.number, top.trial.settings)
    ready = whole.model_copy(update={"name": f"{job.name}-best", "storage": job.storage})
    images = min(job.score.max_examples, open_split(run.data, "validation", "training").card.count)
    files = report_files(job, trials, outcomes, images)
    described = describe_search(job, outcomes, images)
    kept = run.keep("search", {**files, "best.yaml": job_yaml(ready).encode()})
    states = [trial.state for trial in trials.values()]
    best = {"best/robust_accuracy": top.robust_accuracy, "best/clean_accuracy": top.clean_accuracy}
    run.tracker.results(best, len(trials))
    run.tracker.describe(described, "search/report.html", "search/pareto.svg")
    return run.finish(
        {
            "trials": len(trials),
            **{state: states.count(state) for state in ("finished", "stopped", "failed")},
            "best": {
                "number": top.trial.number,
                "settings": top.trial.settings,
                "robust_accuracy": top.robust_accuracy,
                "clean_accuracy": top.clean_accuracy,
                "epoch": top.best_epoch,
            },
            "score": {"norm": job.score.threat.norm, "epsilon": job.score.threat.epsilon,
                      "attack": job.score.attack.name, "min_clean_accuracy": job.score.min_clean_accuracy},
            "cost_hours": round(sum(one.cost_hours for one in outcomes), 4),
            "folder": str(kept),
            "num_workers": job.cluster.max_workers,
        }
    )  # fmt: skip

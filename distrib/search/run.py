"""A search from its job to its winner: trials on Ray Tune, one MLflow run each below that of the search, tables, plots.

STORAGE/NAME/
    job.json          the resolved job, its digest, the MLflow run
    data.json         the hash of each split's images
    trials.json       every trial: its settings, how it ended (see books)
    trials/NAME-0001/ the run of a trial, as that of any train job
    search/           trials.csv, rungs.csv, plots, best.yaml
    result.json       the search is complete
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path

from distrib import checkpoints
from distrib.cluster.preflight import check_nodes
from distrib.cluster.resources import must_fit
from distrib.cluster.session import Resources, session
from distrib.commands.prepare import prepared_for
from distrib.commands.train import run_train
from distrib.config.file import job_yaml
from distrib.config.job import Train, Tune, digest
from distrib.config.search import Optuna
from distrib.data.beton import open_split
from distrib.errors import JobError, RunError
from distrib.files import write_bytes, write_json
from distrib.registry import versions
from distrib.search import cost, space
from distrib.search.report import report_files
from distrib.search.trials import Trial, TrialOutcome, Trials, TrialSlots, best_trial
from distrib.tracking import client
from distrib.tracking.clock import Clock
from distrib.tracking.display import Display
from distrib.tracking.epochs import EpochLog
from distrib.tracking.folder import ROBUST, kept_result, read_record, resuming, run_folder
from distrib.tracking.tracker import Tracker, must_answer, opened, tracked

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""Of a trial's MLflow run; one that was stopped early was ended before its end, which MLflow calls KILLED."""


def run_search(job: Tune, display: Display) -> tuple[dict, Train | None]:
    """Carries a search out; its result as plain values, and the job of the winner, if it has one.

    Raises :class:`DistribError`; where every trial failed, with the first cause.
    """
    clock = Clock.start()
    with run_folder(job) as folder:
        result = kept_result(job, folder, display)
        if result is None:
            result = _search(job, folder, display, clock)
            write_json(folder / "result.json", result)
        books = Trials(job, folder, 1)
        return result, winner(job, books.trials[result["best"]["number"]])


def run_tune(job: Tune, display: Display) -> dict:
    """Searches; then judges and registers the winner, whose version names the search."""
    result, winner = run_search(job, display)
    if winner is None:
        return result | {"winner": None}
    display.say(f"the winner is trial {result['best']['number']}: {result['best']['settings']}")
    judged = run_train(winner, display)
    versions.tag(
        judged["model"], {"search": job.name, "search_run": result["run_id"]}, client.address(winner.tracking.uri)
    )
    return result | {"winner": judged}


def winner(job: Tune, trial: Trial) -> Train | None:
    """The train job that judges and registers the best trial: its own, which is trained already, or one in full."""
    if job.winner is None:
        return None
    whole = space.trial_job(job, trial.number, trial.settings)
    if job.winner.epochs is None:
        return whole
    longer = whole.optim.model_copy(update={"epochs": job.winner.epochs})
    return whole.model_copy(update={"name": f"{job.name}-winner", "storage": job.storage, "optim": longer})


def _search(job: Tune, folder: Path, display: Display, clock: Clock) -> dict:
    space.check_space(job)
    must_answer(job.tracking)
    must_fit(job.cluster, resuming(folder))
    data = prepared_for(job.train, folder, display)
    space.must_suffice_for_all(job, data)
    with session(job.cluster, display.say, resuming(folder), dashboard=True) as resources:
        check_nodes(resources, folder, data, job.cluster)
        use_gpu = resources.use_gpu(job.cluster)
        units = job.cluster.max_workers * (1 / job.cluster.workers_per_gpu if use_gpu else job.cluster.cpus_per_worker)
        concurrent = slots(job, resources, use_gpu)
        books = Trials(job, folder, units)
        if not books.trials:
            _weigh(job, data, use_gpu, units, concurrent, display)
        with tracked(job, folder, display, device=resources.device) as tracker:
            _write_down(job, books, display)
            watch = _run_trials(job, books, data, concurrent, use_gpu, tracker, display)
            outcomes = [one for one in books.outcomes() if one.trial.state in ("finished", "stopped")]
            with client.recorded(f"the search is over ({len(outcomes)} trials with a result; kept in {folder})"):
                watch.settle()
                if not outcomes:
                    first = next(
                        (trial.error for trial in books.trials.values() if trial.error), "no trial came to an end"
                    )
                    raise RunError(f"every trial failed; the first: {first}")
                return _result(job, books, outcomes, folder, tracker, clock)


def slots(job: Tune, resources: Resources, use_gpu: bool) -> int:
    """How many trials the cluster holds at a time. Raises :class:`JobError` with the arithmetic."""
    workers, each = job.cluster.max_workers, job.cluster.cpus_per_worker
    fit = resources.room(job.cluster, use_gpu) // workers
    if job.cluster.autoscaling:
        return job.concurrent or max(fit, 1)
    if job.concurrent is not None and job.concurrent > fit:
        asked = job.concurrent * workers
        gpus = f" and {asked / job.cluster.workers_per_gpu:g} GPUs" if use_gpu else ""
        raise JobError(
            f"concurrent: {job.concurrent} trials x {workers} workers x {each} CPUs = {asked * each} CPUs{gpus}, but "
            f"the cluster has {resources.cpus:g} CPUs and {resources.gpus:g} GPUs; at most {fit}"
        )
    return job.concurrent or min(fit, resources.trials())


def _weigh(job: Tune, data: Path, use_gpu: bool, units: float, concurrent: int, display: Display) -> None:
    """Says what the search will cost. Raises :class:`JobError` if that is more than it may."""
    from distrib.cluster.map import map_tasks

    card, held_out = (open_split(data, split, "training").card for split in ("train", "validation"))
    kinds = cost.kinds(job)
    shared = (card, job.cluster.max_workers, job.cluster.cpus_per_worker, use_gpu)
    timings = map_tasks(_timed, shared, kinds.items(), job.cluster, use_gpu, fresh=True)
    speeds = {item[0]: speed for item, speed in timings}
    found, unit = cost.estimate(job, speeds, card, held_out.count, units), "GPU" if use_gpu else "core"
    display.say(
        f"search: {found.trials} trials, {concurrent} at a time; about {found.about:.2g} {unit}-hours, at most "
        f"{found.at_most:.2g} (timed: {len(kinds)} kinds of trial, a worker alone; not in it: start-up, loading, the "
        "exchange of gradients)"
    )
    cost.within_budget(job, found, unit)


def _write_down(job: Tune, books: Trials, display: Display) -> None:
    """Enters the trials in the books, unless that was done before a restart."""
    if books.trials:
        done = sum(trial.ended for trial in books.trials.values())
        display.say(f"search: resumed, {done} of {len(books.trials)} trials known so far have ended")
        return
    drawn = space.drawn(job)
    if drawn:
        books.add(*drawn)


def _timed(shared: tuple, name: str, training) -> float:
    card, workers, threads, cuda = shared
    return cost.timed(card, training, workers, threads, cuda)


def _run_trials(
    job: Tune, books: Trials, data: Path, concurrent: int, use_gpu: bool, tracker: Tracker, display: Display
) -> "Watch":
    from distrib.cluster.messages import listening
    from distrib.search.callback import Events
    from distrib.search.tune import search

    watch = Watch(job, books, tracker, display)
    try:
        with listening(watch.hear) as board:
            search(books, data, TrialSlots(concurrent, use_gpu), board, Events(watch.started, watch.ended))
    except BaseException:
        watch.interrupted()
        raise
    finally:
        display.end()
    return watch


class Watch:
    """The driver's view of the trials: one MLflow run each, below that of the search, and a line of progress."""

    def __init__(self, job: Tune, books: Trials, parent: Tracker, display: Display):
        self.job, self.books, self.parent, self.display = job, books, parent, display
        self.open: dict[int, tuple[Tracker, EpochLog]] = {}
        self.epochs: dict[int, int] = {}
        """Of each trial that is open: how many it will train."""
        self.done: dict[int, float] = {}
        """The share of each trial that is done."""
        self.best: tuple[float, int] | None = None
        self.closed: set[int] = set()
        self.lock = threading.RLock()
        """The workers are heard in one thread, trials begin and end in another."""

    def started(self, trial: Trial) -> None:
        """A trial begins, or begins again."""
        with self.lock:
            self._attempt(self._open, trial)

    def ended(self, trial: Trial) -> None:
        """A trial came to its end."""
        with self.lock:
            self.display.say(f"trial {trial.number}: {trial.state}{f' ({trial.error[:300]})' if trial.error else ''}")
            self._attempt(self._close, trial)

    def settle(self) -> None:
        """Closes what could not be closed before, also before a restart. Raises if MLflow still does not take it."""
        with self.lock:
            for trial in self.books.trials.values():
                if trial.ended and trial.number not in self.closed and not self._known(trial):
                    self._close(trial)

    def interrupted(self) -> None:
        """The search is being ended: so are the runs of the trials that are under way."""
        with self.lock:
            for number in list(self.open):
                tracker, _ = self.open.pop(number)
                self._attempt(lambda trial, tracker=tracker: tracker.close("KILLED"), self.books.trials[number])

    def _attempt(self, what: Callable[[Trial], None], trial: Trial) -> None:
        """Does it, or says that it will be done later: an error here would be taken for one of the trial."""
        self.parent.attempt(lambda: what(trial), self.display.say)

    def _open(self, trial: Trial) -> None:
        if trial.number in self.open:
            return
        try:
            job = space.trial_job(self.job, trial.number, trial.settings)
        except JobError:  # its settings do not go together: it has no run
            return
        self.epochs[trial.number] = job.optim.epochs
        tags = {"mlflow.parentRunId": self.parent.run_id, "distrib.search": self.job.name}
        folder = self.books.run(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        tracker = opened(job, folder, tags)
        tracker.tags({f"search.{path}": str(value) for path, value in trial.settings.items()})
        journal = EpochLog(tracker, self.display)
        journal.catch_up(ROBUST, self.books.history(trial.number))
        self.open[trial.number] = tracker, journal

    def _close(self, trial: Trial) -> None:
        self._open(trial)  # unless that could be done when it began
        if trial.number in self.open:
            tracker, journal = self.open[trial.number]
            journal.catch_up(ROBUST, self.books.history(trial.number))
            journal.settle()
            if trial.error:
                tracker.tags({"error": trial.error})
            tracker.close(STATUS[trial.state])
            del self.open[trial.number]
            folder = self.books.run(trial.number)
            write_json(folder / "job.json", (read_record(folder) or {}) | {"closed": STATUS[trial.state]})
        self.closed.add(trial.number)

    def _known(self, trial: Trial) -> bool:
        """Whether its run was closed before a restart: to do it again would change when it ended."""
        record = read_record(self.books.run(trial.number)) or {}
        return record.get("tracking_uri") == self.parent.uri and record.get("closed") == STATUS[trial.state]

    def hear(self, phase: str, notice: object) -> None:
        """What a worker posted."""
        from distrib.cluster.messages import Note

        with self.lock:
            if isinstance(notice, Note):
                self.display.say(f"trial {phase.partition('/')[0]}: {notice.text}" if phase else notice.text)
                return
            self._hear(int(phase.partition("/")[0]), notice)

    def _hear(self, number: int, notice: object) -> None:
        from distrib.cluster.messages import Started
        from distrib.trainer import EpochEnd, Progress

        known = self.open.get(number)
        match notice:
            case Started() if known is not None:
                known[1].started(notice.rank, notice.ranks, notice.node, notice.precision)
            case Progress():
                self.done[number] = notice.step / notice.steps
            case EpochEnd():
                if known is not None:
                    known[1].add(ROBUST, notice.epoch, notice.metrics)
                score = checkpoints.epoch_score(notice.metrics, self.job.score.min_clean_accuracy)
                self.best = max(self.best or (score, number), (score, number), key=lambda one: one[0])
                self.done[number] = notice.epoch / self.epochs.get(number, notice.epoch)
            case _:
                return
        self._show()

    def _show(self) -> None:
        trials = self.books.trials
        states = [trial.state for trial in trials.values()]
        total = self.job.search.num_trials if isinstance(self.job.search, Optuna) else len(trials)
        done = sum(1.0 if trial.ended else self.done.get(number, 0.0) for number, trial in trials.items())
        top = ""
        if self.best:
            above = self.best[0] >= 0
            top = f", best so far {self.best[0]:.1%} (trial {self.best[1]})" if above else ", none above the floor yet"
        detail = ", ".join(f"{states.count(state)} {state}" for state in ("running", "finished", "stopped", "failed"))
        self.display.advance("search", done, total, detail + top)


def _result(
    job: Tune, books: Trials, outcomes: list[TrialOutcome], folder: Path, tracker: Tracker, clock: Clock
) -> dict:
    top = best_trial(outcomes)
    whole = space.trial_job(job, top.trial.number, top.trial.settings)
    ready = whole.model_copy(update={"name": f"{job.name}-best", "storage": job.storage})
    kept = folder / "search"
    kept.mkdir(exist_ok=True)
    for name, content in {**report_files(job, books, outcomes), "best.yaml": job_yaml(ready).encode()}.items():
        write_bytes(kept / name, content)
        tracker.file(kept / name, "search")
    states = [trial.state for trial in books.trials.values()]
    tracker.results({"best/robust_accuracy": top.robust_accuracy, "best/clean_accuracy": top.clean_accuracy}, 0)
    result = {
        "kind": "tune",
        "name": job.name,
        "run_id": tracker.run_id,
        "trials": len(books.trials),
        **{state: states.count(state) for state in ("finished", "stopped", "failed")},
        "best": {
            "number": top.trial.number,
            "settings": top.trial.settings,
            "robust_accuracy": top.robust_accuracy,
            "clean_accuracy": top.clean_accuracy,
            "epoch": top.best_epoch,
        },
        "score": {"norm": job.score.attack.threat.norm, "epsilon": job.score.attack.threat.epsilon,
                  "attack": job.score.attack.name, "min_clean_accuracy": job.score.min_clean_accuracy},
        "cost_hours": round(sum(one.cost_hours for one in outcomes), 4),
        "folder": str(kept),
        "num_workers": job.cluster.max_workers,
        "seconds": clock.seconds,
        "job_digest": digest(job),
    }  # fmt: skip
    tracker.text(json.dumps(result, indent=2), "result.json")
    return result

"""The driver's view of a search: one MLflow run a trial, below that of the search, and a line of progress."""

import threading
from collections.abc import Callable
from contextlib import suppress

from distrib import checkpoints
from distrib.commands.opened import OpenRun
from distrib.config.job import Tune
from distrib.config.search import Optuna
from distrib.errors import DistribError, JobError
from distrib.search import space
from distrib.search.trials import Trial, Trials, best_trial
from distrib.tracking import client
from distrib.tracking.clock import now
from distrib.tracking.epochs import EpochLog
from distrib.tracking.folder import ROBUST, read_record, write_record
from distrib.tracking.tracker import TITLE, Tracker, open_tracker

STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
"""Of a trial's MLflow run: to be stopped early is an outcome of the search, no fault of the trial."""
OUTCOME = "outcome"
"""The tag of a trial's MLflow run that says how it ended."""


class Watch:
    """Follows the trials of a search: each has an MLflow run, and the person at the terminal sees how far they are."""

    def __init__(self, run: OpenRun[Tune], trials: Trials):
        self.job, self.trials, self.parent, self.display = run.job, trials, run.tracker, run.display
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
            self._attempt(self._log, trial)

    def settle(self) -> None:
        """Closes what could not be closed before, also before a restart. Raises if MLflow still does not take it."""
        with self.lock:
            for trial in self.trials.values():
                if trial.ended and trial.number not in self.closed and not self._known(trial):
                    self._close(trial)

    def crown(self, number: int) -> None:
        """Marks the MLflow run of the winner, unless somebody deleted it."""
        record = read_record(self.trials.run(number)) or {}
        if "run_id" in record:
            with suppress(DistribError), client.in_words():
                self.parent.tags({OUTCOME: "winner"}, record["run_id"])

    def _log(self, trial: Trial) -> None:
        """How far the search is, as metrics that move while it runs: the best trial so far after so many."""
        ended = sum(one.ended for one in self.trials.values())
        values = {"search/trials_done": float(ended)}
        known = [one for one in self.trials.outcomes() if one.trial.state in ("finished", "stopped")]
        if known:
            top = best_trial(known)
            values |= {"best/robust_accuracy": top.robust_accuracy, "best/clean_accuracy": top.clean_accuracy}
        self.parent.metrics((name, value, ended, now()) for name, value in values.items())

    def interrupted(self) -> None:
        """The search is being ended: so are the runs of the trials that are under way."""
        with self.lock:
            for number in list(self.open):
                tracker, _ = self.open.pop(number)
                self._attempt(lambda trial, tracker=tracker: tracker.close("KILLED"), self.trials[number])

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
        tags = {
            "mlflow.parentRunId": self.parent.run_id, "distrib.search": self.job.name,
            TITLE: f"{trial.number:04d} {self.job.name}",
        }  # fmt: skip
        folder = self.trials.run(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        tracker = open_tracker(job, folder, tags)
        tracker.tags({f"search.{path}": str(value) for path, value in trial.settings.items()})
        log = EpochLog(tracker, self.display)
        log.catch_up(ROBUST, self.trials.history(trial.number))
        self.open[trial.number] = tracker, log

    def _close(self, trial: Trial) -> None:
        self._open(trial)  # unless that could be done when it began
        if trial.number in self.open:
            tracker, log = self.open[trial.number]
            log.catch_up(ROBUST, self.trials.history(trial.number))
            log.settle()
            epochs = len(self.trials.history(trial.number))
            tracker.tags({OUTCOME: f"stopped at epoch {epochs}" if trial.state == "stopped" else trial.state})
            if trial.error:
                tracker.tags({"error": trial.error})
            tracker.close(STATUS[trial.state])
            del self.open[trial.number]
            folder = self.trials.run(trial.number)
            write_record(folder, (read_record(folder) or {}) | {"closed": STATUS[trial.state]})
        self.closed.add(trial.number)

    def _known(self, trial: Trial) -> bool:
        """Whether its run was closed before a restart: to do it again would change when it ended."""
        record = read_record(self.trials.run(trial.number)) or {}
        before = "KILLED" if trial.state == "stopped" else ""  # so an older distrib closed it
        return record.get("tracking_uri") == self.parent.uri and record.get("closed") in (STATUS[trial.state], before)

    def hear(self, phase: str, message: object) -> None:
        """Takes a message that a worker sent."""
        from distrib.cluster.messages import Note

        with self.lock:
            if isinstance(message, Note):
                self.display.say(f"trial {phase.partition('/')[0]}: {message.text}" if phase else message.text)
                return
            self._hear(int(phase.partition("/")[0]), message)

    def _hear(self, number: int, message: object) -> None:
        from distrib.cluster.messages import Started
        from distrib.trainer import EpochEnd, Progress

        known = self.open.get(number)
        match message:
            case Started() if known is not None:
                known[1].started(message.rank, message.ranks, message.node, message.precision)
            case Progress():
                self.done[number] = message.step / message.steps
            case EpochEnd():
                if known is not None:
                    known[1].add(ROBUST, message.epoch, message.metrics)
                score = checkpoints.epoch_score(message.metrics, self.job.score.min_clean_accuracy)
                self.best = max(self.best or (score, number), (score, number), key=lambda one: one[0])
                self.done[number] = message.epoch / self.epochs.get(number, message.epoch)
            case _:
                return
        self._show()

    def _show(self) -> None:
        trials = self.trials
        states = [trial.state for trial in trials.values()]
        total = self.job.search.num_trials if isinstance(self.job.search, Optuna) else len(trials)
        done = sum(1.0 if trial.ended else self.done.get(number, 0.0) for number, trial in trials.items())
        top = ""
        if self.best:
            above = self.best[0] >= 0
            top = f", best so far {self.best[0]:.1%} (trial {self.best[1]})" if above else ", none above the floor yet"
        detail = ", ".join(f"{states.count(state)} {state}" for state in ("running", "finished", "stopped", "failed"))
        rough = not any(trial.ended for trial in trials.values())
        self.display.advance("search", done, total, detail + top, rough)

"""The metrics of every epoch on their way to MLflow and to the terminal: each once, whatever is restarted."""

import threading
import time

from distrib.tracking.clock import now
from distrib.tracking.display import Display
from distrib.tracking.folder import NATURAL, ROBUST
from distrib.tracking.tracker import Tracker
from distrib.trainer import STOPPED


class EpochLog:
    """The metrics of every epoch on their way to MLflow and to the terminal: each once, whatever is restarted."""

    def __init__(self, tracker: Tracker, display: Display, main: str = ROBUST):
        """``main`` is the phase that the run is for; another one is its baseline, or a cell of its study."""
        self.tracker, self.display, self.main = tracker, display, main
        self.epochs: dict[str, int] = {}
        self.pending: list[tuple[str, float, int, int]] = []
        """Points that MLflow has not taken yet, in order, each with its time: sent twice they are there once."""
        self.tags: dict[str, str] = {}
        """Those that MLflow has not taken yet."""
        self.shown = 0.0
        self.last: dict[str, dict] = {}
        self.validated: dict[str, dict] = {}
        """Of each phase the last epoch, and the last one that was validated."""
        self.nodes: dict[int, str] = {}
        self.lock = threading.RLock()
        """The workers are heard in one thread; another one catches up at the end."""

    def started(self, rank: int, ranks: int, node: str, precision: str) -> None:
        """A worker is up. When all are, the run's tags say on which machines (``distrib.nodes``), and in what numbers
        they compute (``distrib.precision``)."""
        with self.lock:
            self.nodes[rank] = node
            if all(one in self.nodes for one in range(ranks)):
                nodes = " ".join(sorted({self.nodes[one] for one in range(ranks)}))
                self.tags = {"distrib.nodes": nodes, "distrib.precision": precision}
                self.nodes = {}
                self.tracker.attempt(self.settle, self.display.say)

    def catch_up(self, phase: str, history: list[dict]) -> None:
        """Logs what ``history`` has and MLflow lacks, as soon as MLflow takes it."""
        with self.lock:
            if phase not in self.epochs:
                self.epochs[phase] = self.tracker.logged(metric_name("train_loss", phase, self.main))
            for epoch in range(self.epochs[phase] + 1, len(history) + 1):
                self.add(phase, epoch, history[epoch - 1])
            if history:
                self.epochs[phase], self.last[phase] = len(history), history[-1]

    def ended(self, phase: str, epochs: int) -> bool:
        """Whether the phase has come to its last epoch, or was stopped before."""
        return self.epochs.get(phase) == epochs or STOPPED in self.last.get(phase, ())

    def add(self, phase: str, epoch: int, metrics: dict) -> None:
        """Logs one epoch, unless it was logged before, with those that could not be until now."""
        with self.lock:
            self.last[phase] = metrics
            if "validation_robust_accuracy" in metrics:
                self.validated[phase] = metrics
            if epoch > self.epochs.get(phase, 0):
                self.epochs[phase] = epoch
                at = now()
                named = ((metric_name(name, phase, self.main), value) for name, value in metrics.items())
                self.pending += [(name, value, epoch, at) for name, value in named]
            if self.pending or self.tags:
                self.tracker.attempt(self.settle, self.display.say)

    def settle(self) -> None:
        """Logs what MLflow has not taken yet; raises if it still does not."""
        with self.lock:
            if self.pending:
                self.tracker.metrics(self.pending)
                self.pending = []
            if self.tags:
                self.tracker.tags(self.tags)
                self.tags = {}

    def latest(self, phase: str) -> str:
        """The last validation, for the bar."""
        if phase not in self.validated:
            return ""
        found = self.validated[phase]
        return f", clean {found['validation_clean_accuracy']:.1%}, robust {found['validation_robust_accuracy']:.1%}"

    def tell(self, phase: str, epoch: int, epochs: int) -> None:
        """A line for an epoch; where epochs are short, not for every one."""
        moment = time.monotonic()
        if moment - self.shown < 5 and epoch != epochs:
            return
        self.shown = moment
        found, validation = self.last[phase], "not validated"
        if "validation_robust_accuracy" in found:
            clean, robust = found["validation_clean_accuracy"], found["validation_robust_accuracy"]
            validation = f"validation clean {clean:.2%} robust {robust:.2%}"
        self.display.say(
            f"{phase} epoch {epoch}/{epochs}: loss {found['train_loss']:.4f}, {validation}, "
            f"{found['images_per_second']:.0f} images/s, waiting for data {found['data_wait_share']:.1%}"
        )


GROUPS = ("train", "validation", "test")
"""MLflow shows the metrics whose names begin alike, up to a stroke, together."""


def metric_name(name: str, phase: str, main: str = ROBUST) -> str:
    """A metric's name in MLflow, in its group: train/loss, validation/robust_accuracy, test/pgd-20.

    The ``main`` phase of every run has the same names, so that a natural and a robust run share their charts; the
    natural twin's are all in the group baseline, those of a study's cell in one of its own.
    """
    if phase != main:
        return f"{'baseline' if phase == NATURAL else phase}/{name.replace('/', '_')}"
    group, _, rest = name.partition("_")
    return name if "/" in name else f"{group}/{rest}" if group in GROUPS else f"train/{name}"

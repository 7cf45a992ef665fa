"""How far an evaluation is, for the person at the terminal: attack by attack, while its shards are under way."""

import threading
import time

from distrib.evaluation.attacks import EvaluationPlan, rough_passes
from distrib.evaluation.crafting import PROBES
from distrib.tracking.display import Display


class ShardProgress:
    """The images that are judged, and the attack that each shard under way is at."""

    def __init__(self, display: Display, plan: EvaluationPlan, title: str):
        """``title`` is what the bar is called."""
        self.display, self.title, self.began = display, title, time.perf_counter()
        costs = {one.name: rough_passes(one) for one in plan.attacks} | {PROBES: 8 * 2 * 40}
        names = list(costs)
        self.shard_size = plan.shard_size
        self.before = {name: sum(costs[one] for one in names[:i]) / sum(costs.values()) for i, name in enumerate(names)}
        """The share of a shard's work that is done as each attack begins."""
        self.attacks: dict[str, str] = {}
        """The attack that each shard under way is at."""
        self.done = self.count = 0
        self.first: int | None = None
        """Images that were judged before a restart: they do not tell how long the others take."""
        self.lock = threading.RLock()
        """The workers are heard in one thread, results come in another."""

    def judged(self, done: int, count: int, ended: int | None) -> None:
        """So many of all images are judged; the shard that begins at ``ended`` was the last."""
        with self.lock:
            self.attacks.pop(str(ended), None)
            self.first = done if self.first is None else self.first
            self.done, self.count = done, count
            self._show()

    def hear(self, phase: str, message: object) -> None:
        """Takes a message that a worker sent."""
        from distrib.cluster.messages import AttackBegins, Note

        with self.lock:
            match message:
                case Note():
                    self.display.say(message.text)
                case AttackBegins():
                    self.attacks[phase] = message.name
                    self._show()

    def _show(self) -> None:
        at_work = list(self.attacks.values())
        within = sum(self.before[name] for name in at_work) * min(self.shard_size, self.count)
        words = [f"{', '.join(dict.fromkeys(at_work))}:"] if at_work else []
        words.append(f"{self.done} of {self.count} images, {time.perf_counter() - self.began:.0f} s")
        shown = min(self.done + within, self.count)
        self.display.advance(self.title, shown, self.count, " ".join(words), rough=self.done == self.first)

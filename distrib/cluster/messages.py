"""Messages of the workers to the driver: an actor holds them until they are fetched."""

import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distrib.cluster.memory import shortage

LIMIT = 10_000
POLL_SECONDS = 0.2
FETCH_SECONDS = 60
"""For one answer of the mailbox, before it is said that reports are late."""
LAST_SECONDS = 30
"""For the listener to end: longer than MLflow is tried for (see ``tracking.BRIEF``)."""


@dataclass(frozen=True)
class Started:
    """A worker is up."""

    rank: int
    ranks: int
    node: str
    """The address of its machine."""
    device: str
    precision: str
    """What it computes in while it trains."""
    start_epoch: int
    """The epoch after which training goes on; 0 for a new run."""
    loader: str


@dataclass(frozen=True)
class AttackBegins:
    """An attack of a shard begins. Its phase is the place of the shard's first image."""

    name: str


@dataclass(frozen=True)
class Note:
    """A line for the person who watches."""

    text: str


class Mailbox:
    """Holds at most ``LIMIT`` messages, the newest ones."""

    def __init__(self):
        self.messages: deque = deque(maxlen=LIMIT)

    def post(self, phase: str, message: bytes) -> None:
        """Takes a message in."""
        self.messages.append((phase, message))

    def fetch(self) -> list[tuple[str, bytes]]:
        """Gives all messages out."""
        taken = list(self.messages)
        self.messages.clear()
        return taken


def post(mailbox: ActorHandle, phase: str, message: object) -> None:
    """Sends a message of a phase of the run: robust or natural, of a trial, a study's cell or a shard.

    It travels sealed: a mailbox that looked into it would have to import torch.
    """
    mailbox.post.remote(phase, pickle.dumps(message))


Listener = Callable[[str, object], None]
"""Takes each phase and message that the workers post: Started, AttackBegins, Note, trainer.Progress and
trainer.EpochEnd.

A Note without a phase is of the mailbox itself."""


@contextmanager
def listening(listen: Listener) -> Iterator[ActorHandle]:
    """A new mailbox; a thread hands what is posted to ``listen``, until the block ends, and then once more.

    The mailbox is on the driver's own node, so that no other node takes it along when it is lost.
    What ``listen`` raises is raised at the end of the block, unless the block raises itself. A mailbox that is slow to
    answer is asked again; where it is lost nothing more is heard: what counts is also in the checkpoints. ``listen`` is
    told of both.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
    ended, failures = threading.Event(), []

    def loop() -> None:
        answer, told, tried = None, False, False
        try:
            while True:
                if answer is None:
                    last = ended.wait(POLL_SECONDS)
                    answer = mailbox.fetch.remote()
                try:
                    messages = ray.get(answer, timeout=FETCH_SECONDS)
                except (GetTimeoutError, ActorUnavailableError) as error:
                    if tried:
                        return
                    tried = ended.is_set()  # once more, and no longer
                    if not told:
                        listen("", Note("warning: live reports of the workers are late; the work goes on"))
                    told = True
                    if isinstance(error, ActorUnavailableError):  # a late answer is waited for: it gives messages out
                        answer = None
                    continue
                answer = None
                for phase, message in messages:
                    listen(phase, pickle.loads(message))
                if last:
                    return
        except RayError as error:
            reason = shortage(str(error)) or str(error).strip().splitlines()[0]
            listen("", Note(f"warning: live reports of the workers have ended ({reason}); the work goes on"))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield mailbox
    finally:
        ended.set()
        thread.join(timeout=LAST_SECONDS)
    if failures:
        raise failures[0]

"""A notice board between the workers and the driver: an actor that holds what the workers post until it is fetched."""

from collections import deque
from dataclasses import dataclass

import ray

LIMIT = 10_000


@dataclass(frozen=True)
class Started:
    """A worker is up."""

    rank: int
    ranks: int
    pid: int
    host: str
    device: str
    start_epoch: int
    """The epoch after which training goes on; 0 for a new run."""
    loader: str


@dataclass(frozen=True)
class Note:
    """A line for the person who watches."""

    text: str


class Board:
    """Holds at most ``LIMIT`` notices, the newest ones."""

    def __init__(self):
        self.notices: deque = deque(maxlen=LIMIT)

    def post(self, phase: str, notice: object) -> None:
        """Puts up a notice of a phase (robust or natural) of the run."""
        self.notices.append((phase, notice))

    def fetch(self) -> list[tuple[str, object]]:
        """Takes all notices down."""
        taken = list(self.notices)
        self.notices.clear()
        return taken


def open_board():
    """A new board, on the driver's own node."""
    return ray.remote(Board).options(num_cpus=0).remote()

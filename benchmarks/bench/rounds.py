"""Seconds of several pieces of work that take turns, so that a busy moment of the machine falls on all of them."""

import time
from collections.abc import Callable

import torch

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """How long one call takes, what it left to a GPU included."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def alternate(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """The seconds of every call, by name: each is called once to warm up, then once a round, every other one backwards.

    The n-th figures of all names are of the same round: their ratio is what counts on a noisy machine.
    """
    for work in works.values():
        seconds(work)
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works) if number % 2 == 0 else reversed(works):
            found[name].append(seconds(works[name]))
    return found

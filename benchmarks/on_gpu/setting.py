"""What a part of the run is told, and how it measures time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from distrib.config.file import read
from distrib.config.job import Train
from distrib.precision import Format, format_of
from distrib.world import World


@dataclass(frozen=True)
class Setting:
    """The choices of one run."""

    device: torch.device
    quick: bool
    """Toy sizes: seconds on a CPU, to see that everything works. The figures mean nothing."""
    room: Path
    """A folder for what is not kept: the unpacked images, checkpoints."""
    job: str
    """The job file whose recipe is trained."""
    overrides: list[str]
    train_seconds: float
    autoattack: int
    """How many images AutoAttack is given."""
    until: float = 0.0
    """When this part must be at its end, by ``time.monotonic``."""

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self.until - time.monotonic()

    @property
    def world(self) -> World:
        """This process, alone on its device."""
        return World(device=self.device)

    @property
    def numbers(self) -> Format:
        """The recipe's precision, on this device."""
        return format_of(self.recipe.precision, self.world)

    @property
    def recipe(self) -> Train:
        """The job; in a quick run with a network that is narrow, few epochs and small batches."""
        small = ["model.width=0.0625", "optim.batch_size=36", "optim.epochs=2", "validation.max_examples=8"]
        small += ["precision=float32"]  # tiny networks are slow in bfloat16 on CPUs
        job = read(self.job, [*(small if self.quick else []), *self.overrides])
        assert isinstance(job, Train), f"{self.job}: a job of kind train is needed"
        return job


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], setting: Setting, at_least: float = 0.1) -> tuple[float, float]:
    """(seconds, spread): the median of five rounds of calls that take ``at_least`` so long; (max - min) / median.

    The work is called twice before, so that nothing is compiled, chosen or allocated while the clock runs.
    """
    work()
    synchronise(setting.device)
    began = time.perf_counter()
    work()
    synchronise(setting.device)
    one = time.perf_counter() - began
    calls = 1 if setting.quick else max(1, min(1000, round(at_least / max(one, 1e-6))))
    rounds = []
    for _ in range(2 if setting.quick else 5):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        synchronise(setting.device)
        rounds.append((time.perf_counter() - began) / calls)
    median = statistics.median(rounds)
    return median, (max(rounds) - min(rounds)) / median

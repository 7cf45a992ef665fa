"""A training run as the tests of the trainer make it: on digits, with small networks, in one process or more."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distrib.attack import PGD, Adversary, OfEpsilon
from distrib.data.augment import Augment
from distrib.data.beton import open_split
from distrib.data.loader import Batch, TrainLoader, open_reader
from distrib.data.order import Portion
from distrib.models import SmallCNN
from distrib.models.batch_norm import Statistics
from distrib.objective import Madry, Objective
from distrib.optim import SGD, Adam, Cosine, Optimiser
from distrib.state import State
from distrib.threat import L2, Linf
from distrib.trainer import EpochEnd, Progress, ValidationSet, epochs
from distrib.world import World

TIMES = {"images_per_second", "data_wait_share", "train_seconds", "validation_seconds"}
SGD_JOB = SGD(name="sgd", lr=0.1, epochs=3, batch_size=32, weight_decay=1e-3)
ADAM_JOB = Adam(name="adam", lr=0.01, epochs=3, batch_size=32, schedule=Cosine(shape="cosine"), ema=0.9)
QUARTER = OfEpsilon(of_epsilon=0.25)
MADRY = Madry(
    method="madry", threat=L2(epsilon=0.5), attack=PGD(num_steps=2, step_size=QUARTER), epsilon_warmup_epochs=1
)
QUICK = Adversary(Linf(epsilon=0.1), PGD(num_steps=2, step_size=QUARTER))


def small_cnn() -> nn.Module:
    return SmallCNN(width=0.25).build((1, 8, 8), 10, [0.3], [0.4])


def with_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    )


@dataclasses.dataclass
class Run:
    """One training run on prepared digits, as cluster/train.py puts it together."""

    folder: Path
    optim: Optimiser
    world: World = dataclasses.field(default_factory=World)
    objective: Objective = MADRY
    build: object = small_cnn
    augment: Augment = dataclasses.field(default_factory=lambda: Augment(crop_padding=1, flip=True))
    mixed: Sequence[Portion] = ()
    batch_norm: Statistics = "synchronised"

    def __post_init__(self):
        train = open_split(self.folder, "train", "training")
        held_out = open_split(self.folder, "validation", "training")
        reader = open_reader(train, "memory")
        own = train.card.count - sum(part.count for part in self.mixed)
        self.loader = TrainLoader(reader, own, 7, self.optim.batch_size, self.augment, self.world, self.mixed)
        self.validation = ValidationSet(open_reader(held_out, "memory"), np.arange(held_out.card.count), QUICK, 7)
        torch.manual_seed(7)
        self.state = State(self.build(), self.optim, self.loader.steps, self.world, batch_norm=self.batch_norm)

    def reports(self) -> Iterator[Progress | EpochEnd]:
        return epochs(self.state, self.loader, self.objective, 7, self.validation)

    def history(self) -> list[dict]:
        """The metrics of each epoch from here to the end, without those of time."""
        ends = [report for report in self.reports() if isinstance(report, EpochEnd)]
        return [{key: value for key, value in end.metrics.items() if key not in TIMES} for end in ends]


def tensors_of(state: State) -> dict[str, Tensor]:
    found = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    if state.average is not None:
        found |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    return {name: tensor.clone() for name, tensor in found.items()}


class Poisoned:
    """A loader whose images are nan in the third batch of every epoch, on one rank."""

    def __init__(self, loader: TrainLoader, rank: int):
        self.loader, self.rank = loader, rank
        self.steps, self.batch_size = loader.steps, loader.batch_size

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for number, batch in enumerate(self.loader.epoch(epoch)):
            poison = number == 2 and self.loader.world.rank == self.rank
            yield batch._replace(x=batch.x * float("nan")) if poison else batch

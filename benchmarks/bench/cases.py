"""The trainings whose step is measured: a network, its images, the adversary, the batch."""

from dataclasses import dataclass

import torch
from torch import nn

from distrib.attack import PGD, OfEpsilon
from distrib.config.job import Train
from distrib.data.loader import Batch
from distrib.models import Model, PaperCNN, PreActResNet, SmallCNN
from distrib.noise import Noise
from distrib.objective import Madry
from distrib.optim import SGD
from distrib.precision import Format, emulated, format_of
from distrib.state import State
from distrib.step import update
from distrib.threat import Linf
from distrib.world import World

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LR, MOMENTUM = 0.01, 0.9
STEP = 0.25
"""The step size of every attack, as a share of epsilon."""


@dataclass(frozen=True)
class Case:
    """One training, on images of noise: what they show costs nothing."""

    name: str
    network: Model
    shape: tuple[int, int, int]
    num_steps: int
    epsilon: float
    batch_size: int
    rounds: int

    @property
    def title(self) -> str:
        """The case in words."""
        return f"{self.name}, PGD-{self.num_steps}, batch {self.batch_size} of {'x'.join(map(str, self.shape))}"

    def model(self) -> nn.Module:
        """The network, with the same weights at every call."""
        torch.manual_seed(0)
        channels = self.shape[0]
        return self.network.build(self.shape, 10, [0.5] * channels, [0.25] * channels).to(DEVICE)

    def batch(self) -> Batch:
        """The images, the same at every call."""
        draw = torch.Generator().manual_seed(0)
        x = torch.rand(self.batch_size, *self.shape, generator=draw)
        y = torch.randint(0, 10, (self.batch_size,), generator=draw)
        return Batch(x.to(DEVICE), y.to(DEVICE), torch.arange(self.batch_size, device=DEVICE))

    def state(self, precision: Format) -> State:
        """What distrib trains."""
        sgd = SGD(name="sgd", lr=LR, momentum=MOMENTUM, epochs=10, batch_size=self.batch_size)
        return State(self.model(), sgd, steps_per_epoch=1000, world=World(device=DEVICE), precision=precision)

    def objective(self) -> Madry:
        """What distrib descends."""
        attack = PGD(num_steps=self.num_steps, step_size=OfEpsilon(of_epsilon=STEP))
        return Madry(method="madry", threat=Linf(epsilon=self.epsilon), attack=attack)


CASES = (
    Case("small_cnn", SmallCNN(), (1, 28, 28), 10, 0.3, 128, 20),
    Case("paper_cnn", PaperCNN(), (1, 28, 28), 10, 0.3, 128, 8),
    Case("preact_resnet-18", PreActResNet(), (3, 32, 32), 7, 8 / 255, 32, 5),
    Case("preact_resnet-18 of half the width", PreActResNet(width=0.5), (3, 32, 32), 7, 8 / 255, 64, 5),
)
TOY = (Case("small_cnn", SmallCNN(), (1, 12, 12), 2, 0.3, 4, 2),)


def precisions() -> dict[str, Format]:
    """The precisions that distrib is measured in, by the name of their row; none that this processor imitates."""
    default = format_of(Train.model_fields["precision"].default, World(device=DEVICE))
    names: tuple[Format, ...] = ("float32", "bfloat16")
    measured: list[Format] = [name for name in names if not emulated(name, DEVICE)]
    return {f"distrib, {name}{' (the default)' if name == default else ''}": name for name in measured}


def take_step(state: State, batch: Batch, objective: Madry) -> None:
    """One step of distrib's, as the trainer takes it."""
    update(state, batch, objective, Noise.of(batch.index, 0, "attack", state.step), 1.0)

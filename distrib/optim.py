"""Optimisers, and the learning rate and epsilon as pure functions of the step."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from distrib.muon import OrthogonalSGD
from distrib.values import Value


class Constant(Value):
    """The same learning rate throughout."""

    shape: Literal["constant"] = "constant"

    def factor(self, epoch: float, epochs: float) -> float:
        """The share of the peak learning rate at ``epoch`` (a fraction too) of ``epochs``."""
        return 1.0


class Linear(Value):
    """Falls in a straight line from the peak to 0 at the end."""

    shape: Literal["linear"]

    def factor(self, epoch: float, epochs: float) -> float:
        """See :meth:`Constant.factor`."""
        return 1 - epoch / epochs


class Cosine(Value):
    """Falls along half a cosine from the peak to 0 at the end."""

    shape: Literal["cosine"]

    def factor(self, epoch: float, epochs: float) -> float:
        """See :meth:`Constant.factor`."""
        return (1 + math.cos(math.pi * epoch / epochs)) / 2


class Cyclic(Value):
    """Rises from 0 to the peak at ``peak`` (a share of all epochs) and falls back to 0 (Wong et al., 2001.03994)."""

    shape: Literal["cyclic"]
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """The share of all epochs that the rise takes."""

    def factor(self, epoch: float, epochs: float) -> float:
        """See :meth:`Constant.factor`."""
        done = epoch / epochs
        return done / self.peak if done < self.peak else (1 - done) / (1 - self.peak)


class Multistep(Value):
    """Multiplied by ``gamma`` at each milestone, in epochs."""

    shape: Literal["multistep"]
    milestones: Annotated[tuple[float, ...], Field(min_length=1)]
    """Epochs, in rising order."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The learning rate is multiplied by this at each milestone."""

    @model_validator(mode="after")
    def _rising(self) -> "Multistep":
        if any(late <= early for early, late in pairwise(self.milestones)) or self.milestones[0] <= 0:
            raise ValueError("milestones must rise, and the first be above 0")
        return self

    def factor(self, epoch: float, epochs: float) -> float:
        """See :meth:`Constant.factor`."""
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


Schedule = Annotated[Constant | Linear | Cosine | Cyclic | Multistep, Field(discriminator="shape")]


class Optimiser(Value):
    """What every optimiser has: how long, how much at a time, how fast."""

    epochs: Annotated[int, Field(ge=1)]
    """How often every training image is seen."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Images of a global batch, which all workers share."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """In how many parts, one after the other, each worker computes its share of a batch, for one too large for memory.
    The step is that of the whole batch; BatchNorm takes its statistics of a part at a time."""
    lr: Annotated[float, Field(gt=0)]
    """The peak learning rate."""
    schedule: Schedule = Constant()
    """How the learning rate moves between the first epoch and the last."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which the learning rate also rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """How strongly weights are pulled towards 0; biases and normalisation layers are left out."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradients longer than this are shortened to it."""
    awp_gamma: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Against an adversary, the loss is descended where the weights too are at their worst: each matrix and kernel
    moved by this share of its length (adversarial weight perturbation, Wu et al., arXiv 2004.05884, who take 0.005).
    A step then takes one pass more; 0: none."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights and running statistics, reached after 2 / (1 - ema) steps;
    if set, the average is what is judged and kept."""

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of optimiser step ``step`` (from 0). The middle of the step counts, so none is wasted."""
        epoch = (step + 0.5) / steps_per_epoch
        warm = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        return self.lr * warm * self.schedule.factor(min(epoch, self.epochs), self.epochs)

    def decay_at(self, step: int) -> float:
        """The decay of the average at optimiser step ``step`` (from 1): a ramp up to ``ema``.

        On the ramp the average is that of all weights so far, those of step t in proportion to t: the random start
        counts for nothing, and the first tenth of the steps for a hundredth.
        """
        assert self.ema is not None
        return min(self.ema, (step - 1) / (step + 1))


class SGD(Optimiser):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The share of the last step that the next one keeps."""
    nesterov: bool = False
    """Take the gradient where the momentum leads to (Nesterov), not where the weights stand."""

    @model_validator(mode="after")
    def _momentum(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0; set momentum, or leave nesterov out")
        return self

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of ``model``'s parameters."""
        groups = decay_groups(model.parameters(), self.weight_decay)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


class Adam(Optimiser):
    """Adam (weight decay as an L2 penalty) or AdamW (decoupled weight decay)."""

    name: Literal["adam", "adamw"]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root in the denominator."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of ``model``'s parameters."""
        kind = torch.optim.AdamW if self.name == "adamw" else torch.optim.Adam
        return kind(decay_groups(model.parameters(), self.weight_decay), lr=self.lr, betas=self.betas, eps=self.eps)


class Muon(Optimiser):
    """Muon for convolutions (Jordan 2024): momentum whose steps are orthogonalised; all else by SGD with Nesterov's
    momentum of 0.9."""

    name: Literal["muon"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.6
    """The share of the last step of the convolutions that the next one keeps."""
    newton_schulz_steps: Annotated[int, Field(ge=1)] = 3
    """Steps of the orthogonalisation: more bring the singular values nearer to each other."""
    rest_lr: Annotated[float, Field(gt=0)]
    """The peak learning rate of all else: linear layers, biases, normalisation."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of ``model``'s parameters."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kernels = {"params": [p for p in parameters if p.ndim > 2], "weight_decay": self.weight_decay,
                   "inertia": self.momentum, "steps": self.newton_schulz_steps}  # fmt: skip
        rest = [
            {**group, "momentum": 0.9, "nesterov": True, "share": self.rest_lr / self.lr}
            for group in decay_groups([p for p in parameters if p.ndim <= 2], self.weight_decay)
        ]
        return OrthogonalSGD([kernels, *rest] if kernels["params"] else rest, lr=self.lr)


Optim = Annotated[SGD | Adam | Muon, Field(discriminator="name")]


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    """Parameter groups, none empty: matrices and kernels decay; vectors (biases, normalisation) do not."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def epsilon_scale_at(step: int, steps_per_epoch: int, natural_epochs: float, warmup_epochs: float) -> float:
    """The part of epsilon that step ``step`` (from 0) trains with: 0, then a line up to 1 over ``warmup_epochs``."""
    epoch = (step + 0.5) / steps_per_epoch - natural_epochs
    if epoch < 0:
        return 0.0
    return min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0

"""What training changes: the weights, their average, the optimiser, the step."""

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distrib.convolution import quickened
from distrib.errors import NonFiniteLoss
from distrib.models.weights import finite
from distrib.optim import Optimiser
from distrib.precision import Format, Rounded
from distrib.world import World


@dataclass
class State:
    """All that a training step may change. Between steps it is the same on every rank."""

    model: nn.Module
    """The bare module: what attacks and evaluation use."""
    optim: Optimiser
    steps_per_epoch: int
    world: World = field(default_factory=World)
    precision: Format = "float32"
    step: int = 0
    """Optimiser steps done."""

    def __post_init__(self):
        # Convolutions are fastest with their weights channels last, also on images that are not
        quickened(self.model).to(self.world.device).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
        self.ddp = self.world.parallel(self.model)
        self.optimiser = self.optim.build(self.model)  # pyright: ignore[reportAttributeAccessIssue]
        # Each rank's BatchNorm sees its own part of the batch: their running statistics are averaged after every step,
        # so that the attack, which runs in evaluation mode, meets the same network on every rank.
        self.running = [
            statistic
            for module in self.model.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
            for statistic in (module.running_mean, module.running_var)
        ]
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False) if self.optim.ema else None
        self.rounded = None if self.precision == "float32" else Rounded(self.model, self.precision)
        self.last_loss = torch.tensor(math.nan, device=self.world.device)
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=self.precision == "float16")

    @property
    def epoch(self) -> float:
        """Epochs done, a fraction within one."""
        return self.step / self.steps_per_epoch

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optim.lr_at(self.step, self.steps_per_epoch)

    @property
    def climbed(self) -> nn.Module:
        """The network that attacks climb: the model, its weights rounded once to the precision of the forward."""
        return self.rounded.now() if self.rounded else self.model

    @property
    def judged(self) -> nn.Module:
        """The module whose accuracy counts: the average of the weights if there is one, else the model."""
        return self.average or self.model

    def finite(self) -> bool:
        """Whether every weight and every running statistic is finite, those of the average too."""
        modules = [self.model] if self.average is None else [self.model, self.average]
        return all(finite(module.state_dict()) for module in modules)

    def loss_weight(self, count: int) -> float:
        """What the mean loss over ``count`` images of this rank counts for: 1 where all ranks have equally many."""
        return count * self.world.size / self.optim.batch_size

    def backward(self, loss: Tensor, loss_weight: float = 1.0) -> None:
        """Leaves the gradient of ``loss`` (a scalar, this rank's mean), averaged over the ranks, in the parameters.

        Nothing moves yet, and a gradient from before is dropped: an objective may act before :meth:`advance`.
        """
        self.last_loss = loss.detach()
        self.optimiser.zero_grad(set_to_none=True)
        # A loss that is not finite may have finite gradients: times nan they tell every rank of it
        finite = torch.where(torch.isfinite(self.last_loss), 1.0, math.nan)
        self.scaler.scale(loss * loss_weight * finite).backward()

    def advance(self) -> None:
        """Takes one optimiser step along the gradient that :meth:`backward` left, on all ranks alike.

        Raises :class:`NonFiniteLoss` on every rank, before the weights move, if the gradient is not finite on any.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * group.get("share", 1.0)
        self.scaler.unscale_(self.optimiser)
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        length = nn.utils.clip_grad_norm_(parameters, self.optim.clip_norm or math.inf)
        # DDP has averaged the gradients, so a nan on one rank is a nan on all: they decide alike, without a collective
        if not torch.isfinite(length) and not (self.scaler.is_enabled() and self.scaler.get_scale() > 1):
            raise NonFiniteLoss(
                f"the loss is no longer finite at step {self.step} (epoch {self.epoch:.2f}, learning rate "
                f"{self.lr:.3g}, this rank's loss {self.last_loss.item():.4g}); lower optim.lr, set optim.clip_norm, "
                "or warm up"
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.world.average_(self.running)
        self.step += 1
        if self.average is not None:
            self._average()

    @torch.no_grad()
    def _average(self) -> None:
        assert self.average is not None
        decay = self.optim.decay_at(self.step)
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for mean, now in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mean.copy_(now)

"""What training changes: the weights, their average, the optimiser, the step."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from distrib.convolution import quickened
from distrib.errors import NonFiniteLoss
from distrib.models.batch_norm import Statistics, over_all
from distrib.models.weights import finite
from distrib.optim import Optimiser
from distrib.precision import Format, Rounded
from distrib.world import World


def _start(number: Tensor) -> tuple[Tensor, Callable[[], object]]:
    copied = number.to("cpu", non_blocking=True)  # into pinned memory, where it comes from a GPU
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(number.device))
    return copied, done.synchronize


class FiniteCheck:
    """Finds the step whose gradient was not finite: on the CPU at once, on a GPU in the call after.

    To ask a GPU for a number is to wait until all that it was given is done, and then it idles until it is given more.
    ``start`` begins a copy to the CPU: it gives the copy, filled later, and a function that waits until it is.
    """

    def __init__(self, device: torch.device, start: Callable[[Tensor], tuple[Tensor, Callable[[], object]]] = _start):
        self.device, self.start = device, start
        self.late: tuple[Tensor, Callable[[], object], tuple[int, Tensor]] | None = None

    def __call__(self, length: Tensor, step: int, loss: Tensor) -> tuple[int, Tensor] | None:
        """The step and its loss, as given with the ``length`` that is looked at, if that is nan or infinite."""
        if self.device.type == "cpu":
            return None if torch.isfinite(length) else (step, loss)
        asked, self.late = self.late, (*self.start(length), (step, loss))
        if asked is None:
            return None
        copied, wait, facts = asked
        wait()
        return None if torch.isfinite(copied) else facts


@dataclass
class State:
    """All that a training step may change. Between steps it is the same on every rank."""

    model: nn.Module
    """The bare module: what attacks and evaluation use."""
    optim: Optimiser
    steps_per_epoch: int
    world: World = field(default_factory=World)
    precision: Format = "float32"
    batch_norm: Statistics = "synchronised"
    """Over whose images BatchNorm takes its statistics in training."""
    step: int = 0
    """Optimiser steps done."""

    def __post_init__(self):
        # Convolutions are fastest with their weights channels last, also on images that are not
        quickened(self.model).to(self.world.device).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
        for module in self.model.modules():
            weights = list(module.parameters(recurse=False)) if isinstance(module, _BatchNorm) else []
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()  # frozen: it keeps its statistics too
        self.optimiser = self.optim.build(self.model)  # pyright: ignore[reportAttributeAccessIssue]
        # Where each rank's BatchNorm sees its own part of the batch, their running statistics are averaged after every
        # step, so that the attack, which runs in evaluation mode, meets the same network on every rank.
        self.running = [
            statistic
            for module in self.model.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
            for statistic in (module.running_mean, module.running_var)
        ]
        parallel = self.world.parallel(self.model)
        self.apart = parallel.no_sync if isinstance(parallel, DistributedDataParallel) else nullcontext
        self.ddp: Callable[[Tensor], Tensor] = parallel
        if self.world.size > 1 and self.running and self.batch_norm == "synchronised":
            self.ddp = over_all(self.ddp, self.world)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False) if self.optim.ema else None
        self.rounded = None if self.precision == "float32" else Rounded(self.model, self.precision)
        self.check = FiniteCheck(self.world.device)
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

    @contextmanager
    def part(self, number: int = 1, among: int = 1) -> Iterator[None]:
        """Inside go the forward and :meth:`backward` of one part of a batch (from 1): the gradients of all add up.

        The first drops a gradient from before; the last averages the sum over the ranks.
        """
        if number == 1:
            self.optimiser.zero_grad(set_to_none=True)
        with self.apart() if number < among else nullcontext():
            yield

    def backward(self, loss: Tensor, loss_weight: float = 1.0) -> None:
        """Adds the gradient of ``loss`` (a scalar, this rank's mean) in the parameters; see :meth:`part`.

        Nothing moves yet: an objective may act before :meth:`advance`.
        """
        self.last_loss = loss.detach()
        # A loss that is not finite may have finite gradients: times nan they tell every rank of it
        finite = torch.where(torch.isfinite(self.last_loss), 1.0, math.nan)
        self.scaler.scale(loss * loss_weight * finite).backward()

    @contextmanager
    def worst_weights(self, gamma: float) -> Iterator[None]:
        """Inside, each matrix and kernel lies ``gamma`` of its own length up the gradient that :meth:`backward` left.

        That is where the loss is worst (adversarial weight perturbation, Wu et al., arXiv 2004.05884, equations 9 and
        10, in one step); afterwards the weights are as they were, to the bit.
        """
        moved = [one for one in self.model.parameters() if one.grad is not None and one.ndim > 1]
        before = [one.detach().clone() for one in moved]
        with torch.no_grad():
            for one in moved:
                assert one.grad is not None
                one.add_(one.grad * (gamma * one.norm() / one.grad.norm().clamp_min(1e-12)))
        try:
            yield
        finally:
            with torch.no_grad():
                for one, old in zip(moved, before, strict=True):
                    one.copy_(old)

    def advance(self) -> None:
        """Takes one optimiser step along the gradient that :meth:`backward` left, on all ranks alike.

        Raises :class:`NonFiniteLoss` on every rank if the gradient is not finite on any: on the CPU before the weights
        move; on a GPU, which is not made to wait for that, one step later, before that one's move.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * group.get("share", 1.0)
        self.scaler.unscale_(self.optimiser)
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        length = nn.utils.clip_grad_norm_(parameters, self.optim.clip_norm or math.inf)
        if self.scaler.get_scale() <= 1:  # above it float16 overflows now and then: the scaler leaves such steps out
            # DDP has averaged the gradients, so a nan on one rank is a nan on all: they decide alike, by themselves
            wrong = self.check(length, self.step, self.last_loss)
            if wrong is not None:
                raise self._diverged(*wrong)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.world.average_(self.running)
        self.step += 1
        if self.average is not None:
            self._average()

    def _diverged(self, step: int, loss: Tensor) -> NonFiniteLoss:
        epoch, lr = step / self.steps_per_epoch, self.optim.lr_at(step, self.steps_per_epoch)
        return NonFiniteLoss(
            f"the loss is no longer finite at step {step} (epoch {epoch:.2f}, learning rate {lr:.3g}, this rank's loss "
            f"{loss.item():.4g}); lower optim.lr, set optim.clip_norm, or warm up"
        )

    @torch.no_grad()
    def _average(self) -> None:
        assert self.average is not None
        decay = self.optim.decay_at(self.step)
        nets = (chain(net.parameters(), net.buffers()) for net in (self.average, self.model))
        pairs = list(zip(*nets, strict=True))  # running statistics too: they must fit the weights
        means, current = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(means, current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for mean, now in pairs:
            if not mean.is_floating_point():
                mean.copy_(now)

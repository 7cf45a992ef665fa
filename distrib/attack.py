"""The inner maximisation: projected gradient ascent on the loss over a threat (Madry et al., section 2.1).

    x^{t+1} = Proj_{x + S}( x^t + step_size * ascent( grad_x L(theta, x^t, y) ) )

FGSM (Goodfellow et al., arXiv 1412.6572) is the same with one step. An attack is a frozen value; it runs on a bare
module (never on a DDP wrapper, so no collectives), takes no weight gradients and leaves no trace in the model.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distrib.noise import Noise
from distrib.threat import Threat
from distrib.values import Radius, Value

Loss = Callable[[Tensor, Tensor], Tensor]
"""What the attack makes large: logits ``[b, K]`` and the rows ``[b]`` of the batch they belong to -> ``[b]``."""

GRADIENT_SCALE = 1024.0
"""A power of two, so exact: keeps the small input gradients of a float16 forward above its underflow."""


class OfEpsilon(Value):
    """A step size that follows epsilon, also while epsilon warms up."""

    of_epsilon: Annotated[float, Field(gt=0)]


class PGD(Value):
    """Projected gradient descent (on the negative loss), as strong as its fields say."""

    threat: Threat
    num_steps: Annotated[int, Field(ge=1)] = 10
    step_size: Radius | OfEpsilon = OfEpsilon(of_epsilon=0.25)
    """A length in pixel units (0.01, 2/255), or a share of epsilon: {of_epsilon: 0.25}. Not given (in training,
    validation, a search's score): a quarter of epsilon, whatever num_steps; an evaluation's attacks have another
    default."""
    step_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the step size falls to 0 over the steps, if it does."""
    random_start: bool = True
    restarts: Annotated[int, Field(ge=1)] = 1
    """Independent starts; the worst one counts, for each example by itself."""
    loss: Literal["cross_entropy", "cw_margin"] = "cross_entropy"
    kappa: Annotated[float, Field(ge=0)] = 0.0
    """Confidence of the cw_margin loss (Carlini and Wagner, arXiv 1608.04644)."""
    target: Literal["none", "random", "least_likely", "all"] = "none"
    """Climb towards one wrong class instead of away from the true one. all: towards each of them, the worst counts."""
    batch_norm: Literal["eval", "train"] = "eval"
    """BatchNorm during the attack: running statistics, or those of the batch. Neither changes the running ones."""

    @model_validator(mode="after")
    def _useful(self) -> "PGD":
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts without random_start repeat one attack; set random_start: true")
        if self.kappa and self.loss != "cw_margin":
            raise ValueError("kappa belongs to loss: cw_margin; leave it out")
        return self

    @property
    def name(self) -> str:
        """A short name for tables: fgsm, pgd-40, pgd-100x20, cw-30."""
        if self.num_steps == 1:
            return "fgsm-rs" if self.random_start else "fgsm"
        family = "cw" if self.loss == "cw_margin" else "pgd"
        kappa = f"-k{self.kappa:g}" if self.kappa else ""
        aim = "" if self.target == "none" else f"-{self.target.replace('_', '-')}"
        return f"{family}-{self.num_steps}{f'x{self.restarts}' if self.restarts > 1 else ''}{kappa}{aim}"

    def scaled(self, strength: float) -> "PGD":
        """The same attack with epsilon and step size times ``strength`` in [0, 1]."""
        if strength == 1:
            return self
        threat = self.threat.model_copy(update={"epsilon": self.threat.epsilon * strength})
        step_size = self.step_size if isinstance(self.step_size, OfEpsilon) else self.step_size * strength
        return self.model_copy(update={"threat": threat, "step_size": step_size})

    def step(self, i: int) -> float:
        """The step size of step ``i`` (from 0), in pixel units."""
        size = self.step_size
        size = size.of_epsilon * self.threat.epsilon if isinstance(size, OfEpsilon) else size
        match self.step_schedule:
            case "constant":
                return size
            case "linear":
                return size * (1 - i / self.num_steps)
            case "cosine":
                return size * (1 + math.cos(math.pi * i / self.num_steps)) / 2

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, loss: Loss | None = None) -> Tensor:
        """The worst images found in the threat around ``x``: float32 ``[B, C, H, W]``, detached.

        ``x`` float32 in [0, 1], ``y`` int64 ``[B]`` true labels, ``noise`` one stream a sample. ``loss`` replaces the
        attack's own (TRADES climbs a divergence). Each example's result depends on that example alone; but not with
        ``batch_norm: train``, where the statistics are those of all examples that climb together.
        """
        return list(self.starts(model, x, y, noise, loss))[-1]

    def starts(
        self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, loss: Loss | None = None
    ) -> Iterator[Tensor]:
        """The worst images so far, after each start (one tensor, that grows worse). Arguments as for :meth:`perturb`.

        A further start is spent on the images that still stand; where none does, there is none. With ``target: all``
        each start climbs towards one wrong class after the other.
        """
        with undisturbed(model, self.batch_norm), torch.enable_grad():
            losses = [loss] if loss else self._own_losses(model, x, y, noise)
            if self.restarts == len(losses) == 1:
                yield self._climb(model, x, torch.arange(len(x), device=x.device), losses[0], noise)
                return
            # Losses of several targets do not compare: what they leave standing is told apart by the true class
            common = losses[0] if len(losses) == 1 else self._loss(y, 1.0)
            worst, fooled = x.clone(), torch.zeros_like(y, dtype=torch.bool)
            height = torch.full_like(x[:, 0, 0, 0], -math.inf)
            for restart in range(self.restarts):
                if restart and fooled.all():
                    return
                for number, one in enumerate(losses, restart * len(losses)):
                    rows = (~fooled).nonzero()[:, 0]
                    if len(rows) == 0:
                        break
                    found = self._climb(model, x[rows], rows, one, noise.fork(number)[rows] if number else noise)
                    fooled_now, height_now = _judge(model, found, y[rows], rows, common)
                    better = fooled_now | (height_now > height[rows])
                    worst[rows[better]] = found[better]
                    height[rows[better]] = height_now[better].to(height.dtype)  # which autocast may lower
                    fooled[rows] = fooled_now
                yield worst

    def _climb(self, model: nn.Module, x: Tensor, rows: Tensor, loss: Loss, noise: Noise) -> Tensor:
        """One start of the ascent, from ``x`` or a random point around it."""
        x_adv = self.threat.sample(x, noise) if self.random_start else x
        for i in range(self.num_steps):
            x_adv = x_adv.detach().requires_grad_()
            height = loss(model(x_adv), rows).sum() * GRADIENT_SCALE
            gradient = input_gradient(height, x_adv)
            with torch.no_grad():
                x_adv = self.threat.project(x, x_adv + self.step(i) * self.threat.ascent(gradient))
        return x_adv.detach()

    def _own_losses(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> list[Loss]:
        """What the fields climb: one loss, or one for each wrong class."""
        if self.target == "none":
            return [self._loss(y, 1.0)]
        with torch.no_grad():
            logits = model(x)
        if self.target == "all":
            count = logits.shape[1]
            return [self._loss((y + ahead) % count, -1.0) for ahead in range(1, count)]
        return [self._loss(wrong_class(logits, y, self.target, noise), -1.0)]

    def _loss(self, label: Tensor, away: float) -> Loss:
        """The loss that the fields name, away from ``label`` (1.0) or towards it (-1.0)."""
        if self.loss == "cross_entropy":
            return lambda logits, rows: away * F.cross_entropy(logits, label[rows], reduction="none")
        # Towards a target the margin is that of the target, which shall grow: the same formula, with the other sign.
        return lambda logits, rows: -F.relu(away * margin(logits, label[rows]) + self.kappa)


def fgsm(threat: Threat) -> PGD:
    """The fast gradient sign method: one step of length epsilon from the image itself."""
    return PGD(threat=threat, num_steps=1, step_size=OfEpsilon(of_epsilon=1.0), random_start=False)


def predicted(logits: Tensor) -> Tensor:
    """The class of each row of ``logits``, ``[B]`` int64; -1 where it holds NaN or its largest is infinite."""
    largest, label = logits.max(dim=1)  # NaN counts as the largest here
    return torch.where(largest.isfinite(), label, -1)


def margin(logits: Tensor, label: Tensor) -> Tensor:
    """The logit of ``label`` less the largest other one, ``[B]``: positive where ``label`` is predicted."""
    own = logits.gather(1, label[:, None])[:, 0]
    others = logits.scatter(1, label[:, None], float("-inf"))
    return own - others.amax(dim=1)


def depth(logits: Tensor, label: Tensor) -> Tensor:
    """The :func:`margin` by which an image is judged, ``[B]``: minus infinity where it has no prediction."""
    return torch.where(predicted(logits) < 0, float("-inf"), margin(logits, label))


def wrong_class(logits: Tensor, y: Tensor, how: Literal["random", "least_likely"], noise: Noise) -> Tensor:
    """A class other than ``y`` for each sample, ``[B]`` int64."""
    if how == "random":
        return (y + 1 + noise.integers(logits.shape[1] - 1)) % logits.shape[1]
    return logits.scatter(1, y[:, None], float("inf")).argmin(dim=1)


def input_gradient(height: Tensor, x: Tensor) -> Tensor:
    """The gradient of the scalar ``height`` at ``x``; zeros where the model lets none through."""
    if not height.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(height, x, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


@contextmanager
def undisturbed(model: nn.Module, batch_norm: Literal["eval", "train"]) -> Iterator[None]:
    """Inside, the model takes no weight gradients and its state cannot change; afterwards it is as it was.

    All modules are in evaluation mode (dropout off). With ``batch_norm="train"`` BatchNorm layers normalise by the
    batch, and their running statistics stand still.
    """
    modules = [(module, module.training) for module in model.modules()]
    norms = [(module, module.track_running_stats) for module, _ in modules if isinstance(module, _BatchNorm)]
    parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        for module, _ in modules:
            module.training = False
        if batch_norm == "train":
            for module, _ in norms:
                module.training, module.track_running_stats = True, False
        yield
    finally:
        for module, training in modules:
            module.training = training
        for module, track in norms:
            module.track_running_stats = track
        for parameter, requires_grad in parameters:
            parameter.requires_grad_(requires_grad)


@torch.no_grad()
def _judge(model: nn.Module, x_adv: Tensor, y: Tensor, rows: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Which examples are misclassified, and the loss of each."""
    logits = model(x_adv)
    return predicted(logits) != y, loss(logits, rows)

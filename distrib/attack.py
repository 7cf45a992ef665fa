"""The inner maximisation: projected gradient ascent on the loss over a threat (Madry et al., section 2.1).

    x^{t+1} = Proj_{x + S}( x^t + step_size * ascent( grad_x L(theta, x^t, y) ) )

:class:`PGD` says how far and how often it steps, a threat what it may reach; together they are an :class:`Adversary`:

    Adversary(Linf(epsilon=8 / 255), PGD(num_steps=20)).perturb(model, x, y, noise)      max over delta in S

FGSM (Goodfellow et al., arXiv 1412.6572) is PGD with one step. An attack is a frozen value; it runs on a bare module
(never on a DDP wrapper, so no collectives), takes no weight gradients and leaves no trace in the model.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distrib.errors import DataError
from distrib.noise import Noise
from distrib.threat import StepSchedule, Threat
from distrib.values import Radius, Value

Loss = Callable[[Tensor, Tensor], Tensor]
"""What the attack makes large: logits ``[b, K]`` and the rows ``[b]`` of the batch they belong to -> ``[b]``."""

GRADIENT_SCALE = 1024.0
"""A power of two, so exact: keeps the small input gradients of a float16 forward above its underflow."""


FALLS: dict[StepSchedule, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
"""What is left of the step size after each share of the steps."""


class OfEpsilon(Value):
    """A step size that follows epsilon, also while epsilon warms up."""

    of_epsilon: Annotated[float, Field(gt=0)]
    """The step size as a share of epsilon."""


class PGD(Value):
    """Projected gradient descent (on the negative loss), as strong as its fields say; the threat stands beside it."""

    num_steps: Annotated[int, Field(ge=1)] = 10
    """Steps of each start."""
    step_size: Radius | OfEpsilon | None = None
    """A length in pixel units (0.01, 2/255), or a share of epsilon: {of_epsilon: 0.25}. None: 2.5 epsilon / num_steps,
    which reaches every point of the ball from every other, with a quarter to spare; under L1 epsilon, falling linearly
    in each of two stages, of twice epsilon and of epsilon."""
    step_schedule: StepSchedule = "constant"
    """How the step size falls to 0 over the steps, if it does."""
    random_start: bool = True
    """Begin at a random point of the threat, not at the image itself."""
    restarts: Annotated[int, Field(ge=1)] = 1
    """Independent starts; the worst one counts, for each example by itself."""
    loss: Literal["cross_entropy", "cw_margin"] = "cross_entropy"
    """What is climbed: the cross-entropy, or the margin of Carlini and Wagner (arXiv 1608.04644)."""
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

    def stride(self, threat: Threat) -> tuple[Radius | OfEpsilon, StepSchedule]:
        """The step size over this threat and its schedule, also where none is given."""
        if self.step_size is not None:
            return self.step_size, self.step_schedule
        share, schedule = threat.stride(self.num_steps)
        return OfEpsilon(of_epsilon=share), self.step_schedule if schedule == "constant" else schedule

    def resolved(self, threat: Threat) -> "PGD":
        """This attack with its step size written out, as it is over this threat."""
        size, schedule = self.stride(threat)
        return self.model_copy(update={"step_size": size, "step_schedule": schedule})

    def path(self, threat: Threat) -> Iterator[tuple[Threat, float]]:
        """The ball that each step ends in, and its length in pixel units."""
        size, schedule = self.stride(threat)
        for ball, steps in threat.stages(self.num_steps):
            length = size.of_epsilon * ball.epsilon if isinstance(size, OfEpsilon) else size
            for i in range(steps):
                yield ball, length * FALLS[schedule](i / steps)


FGSM = PGD(num_steps=1, step_size=OfEpsilon(of_epsilon=1.0), random_start=False)
"""The fast gradient sign method: one step of length epsilon from the image itself."""


@dataclass(frozen=True)
class Adversary:
    """A threat and the attack that looks for the worst image within it: the inner maximum, max over delta in S."""

    threat: Threat
    attack: PGD = field(default_factory=PGD)

    def scaled(self, epsilon_scale: float) -> "Adversary":
        """This adversary with epsilon and step size times ``epsilon_scale`` in [0, 1]."""
        if epsilon_scale == 1:
            return self
        threat, attack = self.threat, self.attack
        if attack.step_size is not None and not isinstance(attack.step_size, OfEpsilon):
            attack = attack.model_copy(update={"step_size": attack.step_size * epsilon_scale})
        return Adversary(threat.model_copy(update={"epsilon": threat.epsilon * epsilon_scale}), attack)

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
        attack = self.attack
        with undisturbed(model, attack.batch_norm), torch.enable_grad():
            losses = [loss] if loss else self._own_losses(model, x, y, noise)
            if attack.restarts == len(losses) == 1:
                yield self._from_start(model, x, torch.arange(len(x), device=x.device), losses[0], noise)
                return
            # Losses of several targets do not compare: what they leave standing is told apart by the true class
            common = losses[0] if len(losses) == 1 else self._loss(y, 1.0)
            worst, fooled = x.clone(), torch.zeros_like(y, dtype=torch.bool)
            loss_value = torch.full_like(x[:, 0, 0, 0], -math.inf)
            for restart in range(attack.restarts):
                if restart and fooled.all():
                    return
                for number, one in enumerate(losses, restart * len(losses)):
                    rows = (~fooled).nonzero()[:, 0]
                    if len(rows) == 0:
                        break
                    found = self._from_start(model, x[rows], rows, one, noise.fork(number)[rows] if number else noise)
                    fooled_now, value_now = _judge(model, found, y[rows], rows, common)
                    better = fooled_now | (value_now > loss_value[rows])
                    worst[rows[better]] = found[better]
                    loss_value[rows[better]] = value_now[better].to(loss_value.dtype)  # which autocast may lower
                    fooled[rows] = fooled_now
                yield worst

    def climb(
        self, model: nn.Module, x: Tensor, x_adv: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """One ascent around ``x`` from ``x_adv``: where it ends, detached, and the loss ``[B]`` before each step.

        ``loss`` takes the logits ``[B, K]`` of the images on the way.
        """
        values = []
        with undisturbed(model, self.attack.batch_norm), torch.enable_grad():
            for ball, length in self.attack.path(self.threat):
                x_adv = x_adv.detach().requires_grad_()
                value = loss(model(x_adv))
                values.append(value.detach())
                gradient = input_gradient(value.sum() * GRADIENT_SCALE, x_adv)
                with torch.no_grad():
                    x_adv = ball.project(x, ball.step(x_adv, gradient, length))
        return x_adv.detach(), values

    def _from_start(self, model: nn.Module, x: Tensor, rows: Tensor, loss: Loss, noise: Noise) -> Tensor:
        """The end of one ascent, from ``x`` or a random point of the first step's ball around it."""
        ball, _ = next(self.attack.path(self.threat))
        x_adv = ball.sample(x, noise) if self.attack.random_start else x
        return self.climb(model, x, x_adv, lambda logits: loss(logits, rows))[0]

    def _own_losses(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> list[Loss]:
        """What the attack's fields climb: one loss, or one for each wrong class."""
        target = self.attack.target
        if target == "none":
            return [self._loss(y, 1.0)]
        with torch.no_grad():
            logits = model(x)
        if target == "all":
            count = logits.shape[1]
            return [self._loss((y + ahead) % count, -1.0) for ahead in range(1, count)]
        return [self._loss(wrong_class(logits, y, target, noise), -1.0)]

    def _loss(self, label: Tensor, away: float) -> Loss:
        """The loss that the attack's fields name, away from ``label`` (1.0) or towards it (-1.0)."""
        if self.attack.loss == "cross_entropy":
            return lambda logits, rows: away * F.cross_entropy(logits, label[rows], reduction="none")
        # Towards a target the margin is that of the target, which shall grow: the same formula, with the other sign.
        return lambda logits, rows: -F.relu(away * margin(logits, label[rows]) + self.attack.kappa)


def perturb(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, attack: PGD | None = None) -> Tensor:
    """The worst images that ``attack`` finds in the threat around ``x``: float32 ``[B, C, H, W]`` in [0, 1], detached.

    ``model`` takes ``x``, float32 in [0, 1], to logits, and is left as it was; ``y`` int64 ``[B]`` are true labels. The
    attack is PGD-10, if none is given. Its random numbers follow from each image's place in ``x``: called again, it
    gives the same. Raises :class:`DataError` where these are no such images.
    """
    must_be_images(x, y)
    noise = Noise.of(torch.arange(len(x), device=x.device), 0, "perturb")
    return Adversary(threat, attack or PGD()).perturb(model, x, y, noise)


def must_be_images(x: Tensor, y: Tensor) -> None:
    """Raises :class:`DataError` unless ``x`` is float32 ``[N, C, H, W]`` in [0, 1], and ``y`` int64 ``[N]``."""
    for name, one in (("x", x), ("y", y)):
        if not isinstance(one, Tensor):
            raise DataError(f"{name}: is a {type(one).__name__}; give a torch tensor (torch.from_numpy)")
    if x.dtype != torch.float32:
        cure = "x.float()" if x.is_floating_point() else "pixels in [0, 1]: x.float() / 255"
        raise DataError(f"x: is {x.dtype}, not torch.float32; give {cure}")
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y):
        told = f"x: {list(x.shape)} and y: {list(y.shape)}: expected images [N, C, H, W] and N labels"
        raise DataError(f"{told}; of one-hot rows give y.argmax(1)" if y.ndim == 2 else told)
    if len(x) and not (x.min() >= 0 and x.max() <= 1):
        raise DataError(f"x: holds pixels from {x.min():g} to {x.max():g}; they lie in [0, 1]")
    if y.dtype != torch.int64 or (len(y) and y.min() < 0):
        raise DataError(f"y: is {y.dtype}{f' from {y.min()}' if len(y) else ''}; give whole numbers from 0: y.long()")


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


def input_gradient(loss_value: Tensor, x: Tensor) -> Tensor:
    """The gradient of the scalar ``loss_value`` at ``x``; zeros where the model lets none through."""
    if not loss_value.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(loss_value, x, allow_unused=True)
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

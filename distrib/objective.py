"""The outer minimisation: what is descended, and where the adversary comes in.

Each objective is a frozen value with the two verbs of :class:`SaddlePoint`, which :mod:`distrib.step` calls in turn:

    perturb(model, x, y, noise, epsilon_scale) -> x_adv      the inner maximum, on the bare module
    loss(forward, x, x_adv, y) -> Outcome                    the outer loss, through exactly one forward

``epsilon_scale`` in [0, 1] scales epsilon while it warms up. A robust MNIST model at epsilon 0.3 does not train at all
without such a warm-up (Madry et al. trained for 100,000 steps; here two epochs of it suffice).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from distrib.attack import PGD, Adversary, OfEpsilon, undisturbed
from distrib.noise import Noise
from distrib.threat import Threat
from distrib.values import Value

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Outcome:
    """The outer loss (a scalar mean over the batch) and the logits on the images that were trained on."""

    loss: Tensor
    logits: Tensor


class SaddlePoint(Protocol):
    """What training asks of every objective."""

    @property
    def adversary(self) -> Adversary | None:
        """Who is trained against; None: nobody."""
        ...

    @property
    def natural_epochs(self) -> float:
        """Epochs at the start in which nobody is trained against."""
        ...

    @property
    def epsilon_warmup_epochs(self) -> float:
        """Epochs after those over which epsilon rises linearly from 0 to its value."""
        ...

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon_scale: float = 1.0) -> Tensor:
        """The images to train on, made from ``x`` by the bare module ``model``. ``y`` as in a batch: see Batch."""
        ...

    def loss(self, forward: Forward, x: Tensor, x_adv: Tensor, y: Tensor) -> Outcome:
        """The outer loss, through exactly one ``forward``."""
        ...


class _Smoothed(Value):
    """What every objective with a cross-entropy is told."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of each label that is spread over all classes alike (Szegedy et al., arXiv 1512.00567, section 7); the
    attack climbs the plain loss."""

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy of ``logits`` ``[B, K]`` to the smoothed labels ``y`` ``[B]``."""
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)


class Natural(_Smoothed):
    """Ordinary training: no adversary. The baseline."""

    method: Literal["natural"]

    @property
    def adversary(self) -> None:
        """Nobody."""
        return

    @property
    def natural_epochs(self) -> float:
        """None before others: all are natural."""
        return 0.0

    @property
    def epsilon_warmup_epochs(self) -> float:
        """None: there is no epsilon."""
        return 0.0

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon_scale: float = 1.0) -> Tensor:
        """The images themselves."""
        return x

    def loss(self, forward: Forward, x: Tensor, x_adv: Tensor, y: Tensor) -> Outcome:
        """Cross-entropy on ``x``."""
        logits = forward(x).float()
        return Outcome(self.cross_entropy(logits, y), logits)


class _Threatened(_Smoothed):
    """What every objective with an adversary is told."""

    threat: Threat
    """What the adversary may do: S."""
    natural_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs at the start without the adversary, which take less time (Gupta et al., arXiv 2002.04237)."""
    epsilon_warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs, after the natural ones, over which epsilon rises linearly from 0 to its value."""

    def loss(self, forward: Forward, x: Tensor, x_adv: Tensor, y: Tensor) -> Outcome:
        """Cross-entropy on ``x_adv``."""
        logits = forward(x_adv).float()
        return Outcome(self.cross_entropy(logits, y), logits)


class _Adversarial(_Threatened):
    """What every objective is told whose adversary may be any."""

    attack: PGD = PGD()
    """How it looks for the worst image in S; if left out: PGD-10."""

    @property
    def adversary(self) -> Adversary:
        """Who is trained against."""
        return Adversary(self.threat, self.attack)


class Madry(_Adversarial):
    """Adversarial training with PGD: the saddle-point problem itself (Madry et al., equation 2.1)."""

    method: Literal["madry"]

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon_scale: float = 1.0) -> Tensor:
        """The adversary's worst images."""
        return self.adversary.scaled(epsilon_scale).perturb(model, x, y, noise)


class Fast(Madry):
    """FGSM with a random start (Wong et al., arXiv 2001.03994): one step of 1.25 epsilon.

    It is cheap and can collapse to zero robustness within an epoch (catastrophic overfitting); the validation PGD
    accuracy of each epoch shows that.
    """

    method: Literal["fast"]  # pyright: ignore[reportIncompatibleVariableOverride]
    attack: PGD = PGD(num_steps=1, step_size=OfEpsilon(of_epsilon=1.25))
    """One step, of 1.25 epsilon if nothing else is said."""

    @model_validator(mode="before")
    @classmethod
    def _one_step(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("attack"), dict):
            given = {name: value for name, value in data["attack"].items() if value is not None}
            return {**data, "attack": {"num_steps": 1, "step_size": {"of_epsilon": 1.25}, **given}}
        return data

    @model_validator(mode="after")
    def _still_one_step(self) -> "Fast":
        if self.attack.num_steps != 1:
            raise ValueError("method fast takes one step: leave attack.num_steps out, or use method madry")
        return self


class NFGSM(_Threatened):
    """FGSM from a point beyond the ball (de Jorge et al., arXiv 2202.01181): a draw from the ball of radius noise times
    epsilon, then one step of epsilon, cut to the box of valid images but not to the ball.

    As cheap as fast. The noise is what keeps it from catastrophic overfitting; at larger epsilon it needs more.
    """

    method: Literal["n_fgsm"]
    noise: Annotated[float, Field(gt=0)] = 2.0
    """The radius of the random start, as a multiple of epsilon."""

    @property
    def adversary(self) -> Adversary:
        """Who is trained against: one step of epsilon, from a random start."""
        return Adversary(self.threat, PGD(num_steps=1, step_size=OfEpsilon(of_epsilon=1.0)))

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon_scale: float = 1.0) -> Tensor:
        """The images one step from the noisy ones."""
        epsilon = self.threat.epsilon * epsilon_scale
        noisy, all_in = (self.threat.model_copy(update={"epsilon": k * epsilon}) for k in (self.noise, self.noise + 1))
        step = Adversary(all_in, PGD(num_steps=1, step_size=epsilon))
        loss = lambda logits: F.cross_entropy(logits, y, reduction="none")  # noqa: E731
        return step.climb(model, x, noisy.sample(x, noise), loss)[0]


class Trades(_Adversarial):
    """TRADES (Zhang et al., arXiv 1901.08573, equation 5): CE(f(x), y) + beta * KL(f(x) || f(x_adv)).

    Clean and adversarial images go through the network as one batch of 2B, so BatchNorm sees both halves.
    """

    method: Literal["trades"]
    beta: Annotated[float, Field(gt=0)] = 6.0
    """Weight of robustness against clean accuracy (1/lambda in the paper)."""

    @model_validator(mode="after")
    def _untargeted(self) -> "Trades":
        if self.attack.target != "none" or self.attack.loss != "cross_entropy":
            raise ValueError("trades climbs its own divergence: leave attack.loss and attack.target out")
        if not self.attack.random_start:
            raise ValueError("trades needs attack.random_start: at the image itself the divergence is flat")
        return self

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon_scale: float = 1.0) -> Tensor:
        """The images whose predictions diverge most from those on ``x``."""
        with undisturbed(model, self.attack.batch_norm), torch.no_grad():
            clean = model(x).float()
        return self.adversary.scaled(epsilon_scale).perturb(
            model, x, y, noise, lambda logits, rows: divergence(clean[rows], logits.float())
        )

    def loss(self, forward: Forward, x: Tensor, x_adv: Tensor, y: Tensor) -> Outcome:
        """Cross-entropy on ``x`` plus beta times the mean divergence on ``x_adv``."""
        clean, adversarial = forward(torch.cat([x, x_adv])).float().chunk(2)
        loss = self.cross_entropy(clean, y) + self.beta * divergence(clean, adversarial).mean()
        return Outcome(loss, adversarial)


class Mart(_Adversarial):
    """MART (Wang et al., ICLR 2020, equation 11): BCE(f(x_adv), y) + beta * KL(f(x) || f(x_adv)) * (1 - p_y(x)).

    BCE is the cross-entropy less log(1 - p) of the likeliest wrong class: images that are misclassified as they are
    count for more. Clean and adversarial images go through the network as one batch of 2B.
    """

    method: Literal["mart"]
    beta: Annotated[float, Field(gt=0)] = 5.0
    """Weight of the divergence (lambda in the paper)."""

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon_scale: float = 1.0) -> Tensor:
        """The adversary's worst images."""
        return self.adversary.scaled(epsilon_scale).perturb(model, x, y, noise)

    def loss(self, forward: Forward, x: Tensor, x_adv: Tensor, y: Tensor) -> Outcome:
        """See the class; the mean over the batch."""
        clean, adversarial = forward(torch.cat([x, x_adv])).float().chunk(2)
        wrong = adversarial.softmax(dim=1).scatter(1, y[:, None], 0.0).amax(dim=1)
        boosted = self.cross_entropy(adversarial, y) - (1.0001 - wrong).log().mean()  # as their code bounds it
        doubt = 1 - clean.softmax(dim=1).gather(1, y[:, None])[:, 0]
        return Outcome(boosted + self.beta * (divergence(clean, adversarial) * doubt).mean(), adversarial)


def divergence(clean: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(logits)) of each sample, ``[B]``; both are logits ``[B, K]``.

    In logarithms throughout: a probability underflows to 0 from a gap of 104 between logits, and the gradient of
    p log p at 0 is NaN.
    """
    return F.kl_div(logits.log_softmax(dim=1), clean.log_softmax(dim=1), reduction="none", log_target=True).sum(dim=1)


def passes_of(objective: SaddlePoint) -> int:
    """Passes through the network, forward and back, of a step: one for each of its adversary's, and one to learn."""
    adversary = objective.adversary
    return 1 + (adversary.attack.num_steps * adversary.attack.restarts if adversary else 0)


def takes_shares(objective: SaddlePoint) -> bool:
    """Whether it takes labels that are shares of the classes, float32 ``[B, K]``, as those of blended images."""
    attack = objective.adversary.attack if objective.adversary else PGD()
    plain = attack.loss == "cross_entropy" and attack.target == "none" and attack.restarts == 1
    return plain and not isinstance(objective, Mart)


Objective = Annotated[Natural | Madry | Fast | NFGSM | Trades | Mart, Field(discriminator="method")]
"""What a training run descends."""

"""Threats: the sets S of allowed perturbations (Madry et al., section 2.1), in pixel units.

A threat is the ball of radius epsilon around x, intersected with the box [0, 1] of valid images. All functions take
and return float32 ``[B, C, H, W]`` and change nothing in place. What depends on the norm stands here; a tool that wants
a name of its own for it (AutoAttack) has it where the tool is called, by a match that the type checker holds complete.
"""

import math
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor

from distrib.noise import Noise
from distrib.values import PixelRadius, Radius, Value

StepSchedule = Literal["constant", "linear", "cosine"]


def norms(delta: Tensor) -> Tensor:
    """The L2 norm of each sample's perturbation, shaped ``[B, 1, 1, 1]``."""
    return delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


class _Ball(Value):
    """How an ascent goes that is told no more than its number of steps."""

    def stages(self, num_steps: int) -> tuple[tuple[Self, int], ...]:
        """The ball that it climbs in, and for how many of its steps: this one throughout."""
        return ((self, num_steps),)

    @staticmethod
    def stride(num_steps: int) -> tuple[float, StepSchedule]:
        """A share of epsilon, and how it falls: all steps together go through the ball, with a quarter to spare."""
        return 2.5 / num_steps, "constant"


class Linf(_Ball):
    """No pixel moves by more than epsilon."""

    title: ClassVar[str] = "Linf"
    norm: Literal["linf"] = "linf"
    epsilon: PixelRadius
    """The largest change of any pixel, in pixel units: 8/255 or 0.3."""

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The nearest image to ``x_adv`` that lies in the ball around ``x`` and in [0, 1]."""
        return x_adv.clamp((x - self.epsilon).clamp_min(0), (x + self.epsilon).clamp_max(1))

    def ascent(self, gradient: Tensor) -> Tensor:
        """The direction of steepest ascent under the norm: the sign of the gradient."""
        return gradient.sign()

    def step(self, at: Tensor, gradient: Tensor, length: float) -> Tensor:
        """``at`` moved by ``length`` in the direction of steepest ascent."""
        return at + length * self.ascent(gradient)

    def sample(self, x: Tensor, noise: Noise) -> Tensor:
        """A uniform draw from the ball around ``x``, then cut to the box."""
        return self.project(x, x + (2 * noise.uniform(x.shape[1:]) - 1) * self.epsilon)

    def at_radius(self, x: Tensor, x_adv: Tensor, radius: Tensor) -> Tensor:
        """``x_adv`` drawn back to the ball of each sample's own ``radius`` ``[B]`` around ``x``."""
        radius = radius.view(-1, 1, 1, 1)
        return x + (x_adv - x).clamp(-radius, radius)

    def size(self, delta: Tensor) -> Tensor:
        """How far each perturbation goes, under this norm: ``[B]``."""
        return delta.flatten(1).abs().amax(dim=1)

    @staticmethod
    def widest(pixels: int) -> float:
        """The epsilon whose ball around any image of so many numbers holds the whole box."""
        return 1.0


class L2(_Ball):
    """The Euclidean length of the perturbation is at most epsilon."""

    title: ClassVar[str] = "L2"
    norm: Literal["l2"] = "l2"
    epsilon: Radius
    """The largest Euclidean length of the change of an image, in pixel units."""

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """``x_adv`` drawn back to the ball around ``x``, then cut to the box (which only draws it closer)."""
        delta = x_adv - x
        return (x + delta * (self.epsilon / norms(delta).clamp_min(1e-12)).clamp(max=1)).clamp(0, 1)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The direction of steepest ascent under the norm: the gradient, scaled to length one, however small it is."""
        largest = gradient.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1)
        gradient = gradient / largest.clamp_min(torch.finfo(torch.float32).tiny)  # its squares must not underflow
        return gradient / norms(gradient).clamp_min(1e-12)

    def step(self, at: Tensor, gradient: Tensor, length: float) -> Tensor:
        """``at`` moved by ``length`` in the direction of steepest ascent."""
        return at + length * self.ascent(gradient)

    def sample(self, x: Tensor, noise: Noise) -> Tensor:
        """A uniform draw from the ball (a normal direction, a radius of u^(1/d)), then cut to the box."""
        direction = self.ascent(noise.normal(x.shape[1:]))
        radius = noise.uniform((1, 1, 1)) ** (1 / x[0].numel())
        return self.project(x, x + direction * radius * self.epsilon)

    def at_radius(self, x: Tensor, x_adv: Tensor, radius: Tensor) -> Tensor:
        """``x_adv`` drawn back to the ball of each sample's own ``radius`` ``[B]`` around ``x``."""
        delta = x_adv - x
        return x + delta * (radius.view(-1, 1, 1, 1) / norms(delta).clamp_min(1e-12)).clamp(max=1)

    def size(self, delta: Tensor) -> Tensor:
        """How far each perturbation goes, under this norm: ``[B]``."""
        return delta.flatten(1).norm(dim=1)

    @staticmethod
    def widest(pixels: int) -> float:
        """The epsilon whose ball around any image of so many numbers holds the whole box."""
        return math.sqrt(pixels)


class L1(_Ball):
    """All changes of pixels together are at most epsilon: few pixels change much (Croce and Hein, arXiv 2103.01208).

    PGD finds less here than under other norms: judge by AutoAttack, which has a version for this one.
    """

    title: ClassVar[str] = "L1"
    norm: Literal["l1"] = "l1"
    epsilon: Radius
    """The largest sum of the changes of an image's numbers, in pixel units."""

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The nearest image to ``x_adv`` that lies in the ball around ``x`` and in [0, 1], both at once.

        Every change is less by the same amount, and ends at the box (Croce and Hein, proposition 2.1).
        """
        delta, flat = (x_adv - x).flatten(1), x.flatten(1)
        wanted, room = delta.abs().double(), torch.where(delta > 0, 1 - flat, flat).double()
        far = wanted.minimum(room).sum(1) > self.epsilon
        moved = (wanted - _excess(wanted, room, self.epsilon)).clamp_min(0).minimum(room)
        moved = moved * (self.epsilon * (1 - 1e-6) / moved.sum(1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
        drawn = x + (delta.sign() * moved).view_as(x).to(x.dtype)
        return torch.where(far.view(-1, 1, 1, 1), drawn, x_adv).clamp(0, 1)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The direction of steepest ascent under the norm: the sign of the largest number of the gradient alone."""
        flat = gradient.flatten(1)
        largest = flat.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign()).view_as(gradient)

    def step(self, at: Tensor, gradient: Tensor, length: float) -> Tensor:
        """``at`` moved by ``length`` in all, to where a linear loss would be largest: along the largest number of the
        gradient as far as the box leaves room for it, then along the next.

        (Pixels at their end already would take the whole step in vain. Steps that share their length among many
        pixels, as those of Tramer and Boneh, arXiv 1904.13000, find no perturbation of fewer.)
        """
        flat, size = at.flatten(1), gradient.flatten(1).abs()
        room = torch.where(gradient.flatten(1) > 0, 1 - flat, flat).clamp_min(0) * (size > 0)
        order = size.argsort(dim=1, descending=True)
        offered = room.gather(1, order)
        taken = (length - (offered.cumsum(1) - offered)).clamp_min(0).minimum(offered)
        moved = torch.zeros_like(flat).scatter(1, order, taken)
        return at + gradient.sign() * moved.view_as(at)

    def stages(self, num_steps: int) -> tuple[tuple[Self, int], ...]:
        """A ball of twice the radius for two fifths of the steps, then this one.

        Which pixels are worth changing is easier to find with more of them (Croce and Hein, who begin at three times
        epsilon).
        """
        wide = 2 * num_steps // 5
        return (self.model_copy(update={"epsilon": 2 * self.epsilon}), wide), (self, num_steps - wide)

    @staticmethod
    def stride(num_steps: int) -> tuple[float, StepSchedule]:
        """All of epsilon at first, then less, until the pixels are chosen."""
        return 1.0, "linear"

    def sample(self, x: Tensor, noise: Noise) -> Tensor:
        """A uniform draw from the ball (exponential numbers over their sum and one more), drawn back to the box."""
        sizes = -torch.log1p(-noise.uniform(x.shape[1:]))
        whole = sizes.sum((1, 2, 3), keepdim=True) - torch.log1p(-noise.uniform((1, 1, 1)))
        signs = torch.where(noise.uniform(x.shape[1:]) < 0.5, -1.0, 1.0)
        return self.project(x, x + signs * sizes / whole * self.epsilon)

    def at_radius(self, x: Tensor, x_adv: Tensor, radius: Tensor) -> Tensor:
        """``x_adv`` drawn back to the ball of each sample's own ``radius`` ``[B]`` around ``x``."""
        delta = x_adv - x
        return x + delta * (radius / self.size(delta).clamp_min(1e-12)).clamp(max=1).view(-1, 1, 1, 1)

    def size(self, delta: Tensor) -> Tensor:
        """How far each perturbation goes, under this norm: ``[B]``."""
        return delta.flatten(1).abs().sum(dim=1)

    @staticmethod
    def widest(pixels: int) -> float:
        """The epsilon whose ball around any image of so many numbers holds the whole box."""
        return float(pixels)


def _excess(wanted: Tensor, room: Tensor, epsilon: float) -> Tensor:
    """``[B, 1]``: how much less each change must be for all of them together to be ``epsilon``; 0 where they are less.

    ``wanted`` and ``room``, ``[B, N]``, are how far each number of an image would go, and how far it may.
    """
    # The sum of the changes grows, while the excess falls, by how many have begun and not yet reached their room.
    points, order = torch.cat([wanted, wanted - room], 1).clamp_min(0).sort(dim=1, descending=True)
    moving = torch.where(order < wanted.shape[1], 1.0, -1.0).double().cumsum(1)
    sums = torch.cat([torch.zeros_like(points[:, :1]), (moving[:, :-1] * -points.diff(dim=1)).cumsum(1)], 1)
    after = torch.searchsorted(sums, torch.full_like(sums[:, :1], epsilon)).clamp(1, sums.shape[1] - 1)
    before = moving.gather(1, after - 1).clamp_min(1)
    return (points.gather(1, after) + (sums.gather(1, after) - epsilon) / before).clamp_min(0)


Norm = Literal["linf", "l2", "l1"]
"""The names of the norms in job files and results."""
Threat = Annotated[Linf | L2 | L1, Field(discriminator="norm")]
"""What the adversary may do."""
BALLS: tuple[type[Linf | L2 | L1], ...] = (Linf, L2, L1)
THREAT: TypeAdapter[Linf | L2 | L1] = TypeAdapter(Threat)


def threat_of(norm: str, epsilon: float) -> Threat:
    """The threat of this norm and radius. Raises ValidationError for another norm."""
    return THREAT.validate_python({"norm": norm, "epsilon": epsilon})


def other_norms(norm: str) -> str:
    """The norms that a figure under ``norm`` says nothing of, in words."""
    return " and ".join(ball.title for ball in BALLS if ball.model_fields["norm"].default != norm)


TOLERANCE = 1e-6
"""Float32 rounding allowed when a stored perturbation is checked: x + delta - x moves by up to 6e-8 near 1."""


def outside(threat: Threat, x: Tensor, x_adv: Tensor) -> Tensor:
    """Which of the ``[B]`` examples lie outside the threat: too far from ``x``, or not in [0, 1]."""
    far = threat.size(x_adv - x) > threat.epsilon + TOLERANCE * max(1.0, threat.epsilon)
    return (
        far
        | (x_adv.flatten(1).amin(dim=1) < 0)
        | (x_adv.flatten(1).amax(dim=1) > 1)
        | torch.isnan(x_adv.flatten(1)).any(dim=1)
    )


ROUNDING = 1e-5
"""How far outside an attack's own float32 arithmetic may leave an image; further out it is another fault."""


def drawn_back(threat: Threat, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """``x_adv``, those of its examples that float rounding left outside projected; and which those were, ``[B]``."""
    inside = threat.project(x, x_adv)
    near = threat.size(inside - x_adv) <= ROUNDING * max(1.0, threat.epsilon)
    moved = outside(threat, x, x_adv) & near
    return torch.where(moved.view(-1, 1, 1, 1), inside, x_adv), moved

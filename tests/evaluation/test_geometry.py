"""distrib.evaluation.geometry: what a jump, a false gradient and 8 bits look like, where mathematics knows it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from distrib.evaluation.geometry import gradient_errors, jumps, ledges, on_levels
from distrib.evaluation.logits import Logits
from distrib.noise import Noise
from distrib.threat import L1, L2, Linf, Threat, outside

Function = Callable[[Tensor], Tensor]
WEIGHT = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
X = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 255).round() / 255


def as_model(function: Function) -> nn.Module:
    class Of(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return Of()


def smooth(x: Tensor) -> Tensor:
    return (3 * x.flatten(1) - 1.5).tanh() @ WEIGHT.T


def constants(x: Tensor) -> Tensor:
    return nn.functional.one_hot(smooth(x).argmax(dim=1), 5) + 1e-3 * x.flatten(1) @ WEIGHT.T


def two(x: Tensor) -> Tensor:
    there = (x * 255 == (x * 255).round()).flatten(1).all(dim=1, keepdim=True)
    return torch.where(there, smooth(x), smooth(x).roll(1, 1))


def straight_through(x: Tensor) -> Tensor:
    """Four levels a pixel, with the gradient of none."""
    return smooth(x + ((x * 4).round() / 4 - x).detach())


def flipped(x: Tensor) -> Tensor:
    """The values of the smooth one with the gradient of another."""
    other = smooth(1 - x)
    return smooth(x).detach() + other - other.detach()


@pytest.mark.parametrize(
    ("function", "jump", "ledge", "error"),
    [(smooth, 0, 0, 0), (constants, 1, 0, 0), (two, None, 1, 0), (straight_through, None, 0, 1), (flipped, 0, 0, 1)],
)
def test_each_fault_of_a_function_is_measured(function: Function, jump: float | None, ledge: float, error: float):
    model, far = as_model(function), X.flip(0)
    found = torch.tensor(jumps(model, X, far))
    assert len(found) >= 12
    if jump is not None:
        assert ((found - jump).abs() < 0.02).all(), found
    beside = torch.tensor(ledges(model, X))
    assert (beside > 0.05).all() if ledge else (beside < 1e-4).all(), beside
    errors = torch.tensor(gradient_errors(model, X, Linf(epsilon=0.1), Noise.of(torch.arange(12), 0)))
    assert errors.median() > 0.9 if error else errors.max() < 0.02, errors


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_another_precision_are_no_wrong_gradient(kind: torch.dtype):
    """A difference of 1e-3 is below what bfloat16 can tell: a healthy network was flagged, and barred for good."""
    model = Logits(as_model(lambda x: (smooth(x) + 20).to(kind)))
    errors = torch.tensor(gradient_errors(model, X, Linf(epsilon=0.1), Noise.of(torch.arange(12), 0)))
    assert errors.max() < 0.1, errors


def test_where_every_image_is_of_one_class_there_is_no_segment():
    assert jumps(as_model(lambda x: x.flatten(1)[:, :2] + torch.tensor([9.0, 0.0])), X, X) == []


@pytest.mark.parametrize(
    "threat", [Linf(epsilon=0.1), Linf(epsilon=8 / 255), Linf(epsilon=1 / 510), L2(epsilon=0.4), L1(epsilon=2.0)]
)
def test_on_8_bits_an_image_stays_in_the_threat(threat: Threat):
    for x_adv in (
        threat.sample(X, Noise.of(torch.arange(12), 1)),
        threat.project(X, X + 0.5),
        threat.project(X, X - 1),
    ):
        found = on_levels(X, x_adv, threat)
        levels = found * 255
        assert not outside(threat, X, found).any()
        assert (levels - levels.round()).abs().max() < 1e-4
        assert (found - x_adv).abs().max() <= 1 / 255 + 1e-6
        nearest = (x_adv * 255).round() / 255
        allowed = ~outside(threat, X, nearest)
        assert torch.equal(found[allowed], nearest[allowed])
    assert torch.equal(on_levels(X, X, threat), X)


def test_off_the_levels_what_lies_in_no_level_of_the_ball_stays_as_it_is():
    x = torch.full((1, 1, 2, 2), 0.5)  # between two levels, 1/510 from either
    x_adv = x + 1e-4
    assert torch.equal(on_levels(x, x_adv, Linf(epsilon=1e-3)), x_adv)

"""distrib.evaluation.probes: a healthy model raises no flag; one that behaves on test images alone does."""

from collections.abc import Callable

import pytest
import torch
from attacked import FGSM, Wrapped, attacked, batch, evaluation_of, pixels
from shards import concluded
from torch import Tensor, nn

from distrib.evaluation.attacks import Pgd
from distrib.threat import Linf

HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "as it is": Wrapped,
    "large logits": lambda: Wrapped(after=lambda z: z * 10),
    "positive logits": lambda: Wrapped(after=lambda z: z.softmax(dim=1) * 20),
    "log of probabilities": lambda: Wrapped(after=lambda z: z.log_softmax(dim=1)),
}


@pytest.mark.parametrize("build", HEALTHY.values(), ids=HEALTHY)
@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_healthy_model_raises_no_flag(build: Callable[[], nn.Module], count: int):
    model, x = build().eval(), pixels(count, side=8)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    evaluation = evaluation_of(FGSM, Pgd(attack="pgd", num_steps=3), threat=Linf(epsilon=0.01))
    result = attacked(model, batch(x, y), evaluation)
    assert result.probes.repeat_change == 0 and not result.probes.probabilities
    assert not any(result.probes.zero_gradient)
    assert concluded([result], evaluation, count, 10).flags == ()


def between_levels(x: Tensor) -> Tensor:
    """Which images do not lie on 8 bits: test images do, attacked ones hardly ever."""
    return ((x * 255 - (x * 255).round()).abs() > 1e-3).flatten(1).any(dim=1).view(-1, 1, 1, 1)


def climbing(x: Tensor) -> Tensor:
    with torch.enable_grad():
        given = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(given.square().sum(), given)
    return x + 1e-4 * gradient


HIDDEN: dict[str, Callable[[Tensor], Tensor]] = {
    "randomised_output": lambda x: x + 0.05 * torch.randn_like(x),
    "batch_dependent_output": lambda x: x - x.mean(dim=0),
    "optimisation_inside_forward": climbing,
}


@pytest.mark.parametrize("flag", HIDDEN)
def test_a_model_that_behaves_on_8_bits_alone_is_seen_through(flag: str):
    def before(x: Tensor) -> Tensor:
        there = between_levels(x)
        return torch.where(there, HIDDEN[flag](x), x) if there.any() else x

    model, x = Wrapped(before).eval(), (pixels(30, side=8) * 255).round() / 255
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    evaluation = evaluation_of(FGSM, threat=Linf(epsilon=0.01))
    found = concluded([attacked(model, batch(x, y), evaluation)], evaluation, 30, 10)
    assert {one.name: one.blocking for one in found.flags}.get(flag)

"""distrib.attack under L1: the first steps go further than epsilon, the last ones end within it."""

from collections.abc import Callable

import pytest
import torch
from adversaries import PIXELS, draws, images, lengths, noise
from torch import nn

from distrib.attack import PGD, Adversary, OfEpsilon
from distrib.threat import L1, outside


@pytest.mark.parametrize(("num_steps", "wide"), [(1, 0), (2, 0), (3, 1), (10, 4), (40, 16)])
def test_under_l1_the_first_steps_have_twice_the_radius(num_steps: int, wide: int):
    """Each stage begins with steps of all its epsilon, which fall to nothing; a single step keeps to epsilon."""
    threat, near = L1(epsilon=2.0), num_steps - wide
    path = list(PGD(num_steps=num_steps).path(threat))
    assert [ball.epsilon for ball, _ in path] == [4.0] * wide + [2.0] * near
    stages = [4.0 * (1 - i / wide) for i in range(wide)] + [2.0 * (1 - i / near) for i in range(near)]
    assert [length for _, length in path] == pytest.approx(stages)
    given = PGD(num_steps=num_steps, step_size=OfEpsilon(of_epsilon=0.25))
    assert lengths(given, threat) == pytest.approx([1.0] * wide + [0.5] * near)
    resolved = PGD(num_steps=num_steps).resolved(threat)
    assert list(resolved.path(threat)) == path and resolved.step_size is not None


def test_under_l1_the_images_end_within_epsilon(linear: Callable[..., nn.Module]):
    threat, x = L1(epsilon=0.5), images(3)
    weight, y = torch.randn(2, PIXELS, generator=draws()), torch.zeros(3, dtype=torch.long)
    for num_steps in (1, 3, 10):
        x_adv = Adversary(threat, PGD(num_steps=num_steps)).perturb(linear(weight), x, y, noise(3))
        assert not outside(threat, x, x_adv).any() and (threat.size(x_adv - x) > 0.45).all()


def test_under_l1_a_start_is_drawn_from_the_first_steps_ball(linear: Callable[..., nn.Module]):
    """Where the gradient is 0 no step moves it: three steps end at what is drawn back of a draw from twice epsilon."""
    threat, x = L1(epsilon=0.5), images(3)
    flat, y = linear(torch.zeros(2, PIXELS)), torch.zeros(3, dtype=torch.long)
    x_adv = Adversary(threat, PGD(num_steps=3)).perturb(flat, x, y, noise(3))
    start = L1(epsilon=1.0).sample(x, noise(3))
    torch.testing.assert_close(x_adv, threat.project(x, start))
    assert not torch.allclose(x_adv, threat.sample(x, noise(3)))

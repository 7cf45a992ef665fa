"""Adversaries, images and networks that the tests of the attack share."""

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distrib.attack import PGD, Adversary, OfEpsilon, margin
from distrib.models import SmallCNN
from distrib.noise import Noise
from distrib.threat import L2, Linf, Threat

SHAPE = (1, 4, 4)


PIXELS = math.prod(SHAPE)


QUARTER = OfEpsilon(of_epsilon=0.25)


MANY_SHRINKING = {"num_steps": 400, "step_schedule": "linear", "step_size": QUARTER}


def adversary(threat: Linf | L2, **fields: Any) -> Adversary:
    return Adversary(threat, PGD(**fields))


def lengths(attack: PGD, threat: Threat) -> list[float]:
    """Of its steps, in pixel units."""
    return [length for _, length in attack.path(threat)]


def but(one: Adversary, **fields: Any) -> Adversary:
    """The same adversary with some fields of its attack changed."""
    return replace(one, attack=one.attack.model_copy(update=fields))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, low: float = 0.3, high: float = 0.7, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return low + (high - low) * torch.rand(count, *shape, generator=draws(1))


def noise(count: int) -> Noise:
    return Noise.of(torch.arange(count), 0, "test")


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return SmallCNN(width=0.25).build((1, 8, 8), 10, [0.5], [0.3]).to(dtype).eval()


def margins(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """In float64, so that the test's own rounding is out of the way."""
    with torch.no_grad():
        return margin(copy.deepcopy(model).double()(x.double()), y)

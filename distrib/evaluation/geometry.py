"""Measurements of the model as a function of its image: whether it is continuous, and its gradient its own.

An attack by gradient sees nothing where a function jumps: where the decision is turned into constants, or where images
on 8 bits meet another network than those between them. Each measurement takes a few images and no labels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from distrib.attack import input_gradient, margin, predicted
from distrib.noise import Noise
from distrib.threat import Threat, outside

HALVINGS = 12
"""How often a segment is halved to find where the decision changes: what is left is 1/4096 of it."""
STEP = 1e-3
"""A quarter of a level of 8 bits: the step of finite differences, and off an image's own levels."""
LEVELS = 255


def jumps(model: nn.Module, x: Tensor, worst: Tensor) -> list[float]:
    """The jump of the margin where the decision changes, as a share of the margin's span, for each segment tried.

    Segments lead from an image to its worst one, and to the next image that is classified otherwise.
    """
    label, changed = _classes(model, x), _classes(model, worst)
    found = []
    for start, end, own in _segments(x, worst, label, changed):
        low, high = torch.zeros(len(start), device=x.device), torch.ones(len(start), device=x.device)
        at_low, at_high = _margins(model, start, own), _margins(model, end, own)
        top, bottom = at_low, at_high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            here = _margins(model, start + middle.view(-1, 1, 1, 1) * (end - start), own)
            top, bottom = top.maximum(here), bottom.minimum(here)
            before = here > 0
            low, high = torch.where(before, middle, low), torch.where(before, high, middle)
            at_low, at_high = torch.where(before, here, at_low), torch.where(before, at_high, here)
        found += ((at_low - at_high) / (top - bottom).clamp_min(1e-12)).tolist()
    return found


def _segments(x: Tensor, worst: Tensor, label: Tensor, changed: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(starts, ends, the class of the starts); the two ends of a segment are classified differently."""
    broken = (changed != label).nonzero()[:, 0]
    if len(broken):
        yield x[broken], worst[broken], label[broken]
    for shift in range(1, len(x)):
        other = (label.roll(-shift) != label).nonzero()[:, 0]
        if len(other) > len(x) // 2:
            yield x[other], x.roll(-shift, 0)[other], label[other]
            return


def ledges(model: nn.Module, x: Tensor) -> list[float]:
    """How far the logits jump just beside each image, as a share of their spread.

    On the way of :data:`STEP` from the image towards grey, always on into the half on which the logits change more.
    """
    start, end = x, x + STEP * torch.where(x > 0.5, -1.0, 1.0)
    first, last = _logits(model, start), _logits(model, end)
    spread = (first.amax() - first.amin()).clamp_min(1e-12)
    for _ in range(HALVINGS):
        middle = (start + end) / 2
        here = _logits(model, middle)
        nearer = (here - first).abs().amax(dim=1) > (last - here).abs().amax(dim=1)
        start, end = torch.where(_each(nearer), start, middle), torch.where(_each(nearer), middle, end)
        first, last = torch.where(nearer[:, None], first, here), torch.where(nearer[:, None], here, last)
    return ((last - first).abs().amax(dim=1) / spread).tolist()


def gradient_errors(model: nn.Module, x: Tensor, threat: Threat, noise: Noise) -> list[float]:
    """How far finite differences are from the gradient that automatic differentiation gives, at random points.

    Of the difference of the two largest logits; along the gradient's sign and along random signs, the larger error. 0:
    the same; 1: nothing in common.
    """
    point = threat.sample(x, noise).clamp(STEP, 1 - STEP).detach().requires_grad_()
    with torch.enable_grad():
        logits = model(point)
        # Logits in half precision cannot show so small a difference
        resolution = max(1e-6, torch.finfo(getattr(model, "dtype", logits.dtype)).eps)
        top, second = logits.detach().topk(2, dim=1).indices.unbind(dim=1)
        gradient = input_gradient((_at(logits, top) - _at(logits, second)).sum(), point)
    point = point.detach()
    worst, size = torch.zeros(len(x), device=x.device), gradient.flatten(1).norm(dim=1)
    for sign in (torch.where(gradient < 0, -1.0, 1.0), torch.where(noise.uniform(x.shape[1:]) < 0.5, -1.0, 1.0)):
        plus, minus = _logits(model, point + STEP * sign), _logits(model, point - STEP * sign)
        rise = _at(plus, top) - _at(plus, second) - _at(minus, top) + _at(minus, second)
        measured, given = rise / (2 * STEP), (gradient * sign).flatten(1).sum(dim=1)
        rounding = resolution * plus.abs().amax(dim=1) / STEP
        scale = torch.stack([measured.abs(), given.abs(), size]).amax(dim=0)
        worst = worst.maximum(((measured - given).abs() - rounding).clamp_min(0) / scale.clamp_min(1e-12))
    return worst.tolist()


def on_levels(x: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
    """``x_adv`` on 8 bits, inside the threat around ``x``: on the nearest levels, or else on the next towards ``x``.

    An image for which neither lies inside stays as it is.
    """
    scaled = x_adv * LEVELS
    nearest = scaled.round()
    towards = torch.where(x_adv > x, scaled.floor(), scaled.ceil())
    towards = torch.where((scaled - nearest).abs() < 1e-3, nearest, towards)
    for levels in (towards / LEVELS, nearest / LEVELS):
        x_adv = torch.where(_each(outside(threat, x, levels)), x_adv, levels)
    return x_adv


def _each(which: Tensor) -> Tensor:
    return which.view(-1, 1, 1, 1)


def _at(logits: Tensor, label: Tensor) -> Tensor:
    return logits.gather(1, label[:, None])[:, 0]


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def _classes(model: nn.Module, x: Tensor) -> Tensor:
    return predicted(_logits(model, x))


def _margins(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    return margin(_logits(model, x), label)

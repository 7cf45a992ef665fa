"""AutoAttack and its parts by their authors' package, pyautoattack: the only door to it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.data.loader import Batch
from distrib.evaluation.logits import Logits
from distrib.threat import L1, L2, Linf, Threat

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
"""AutoAttack's standard version, in its order (Croce and Hein, arXiv 2003.01690): each part meets only the images that
those before it left."""


def parts_for(num_classes: int, differentiable: bool) -> tuple[str, ...]:
    """The parts that can be run. Below four classes the targeted loss is not defined: untargeted attacks instead."""
    if not differentiable:
        return ("square",)
    return STANDARD if num_classes >= 4 else ("apgd-ce", "fab", "square")


def autoattack(
    model: nn.Module, batch: Batch, threat: Threat, seed: int, parts: tuple[str, ...]
) -> tuple[Tensor, list[str]]:
    """AutoAttack's images for a batch (the test image where it found none), and the part that broke each ("": none).

    All images of the batch are classified correctly. Each part meets those that stood before it, at once: as one call
    of the package with ``batch_size=len(x)`` does. Below ten classes it has fewer targets than its standard nine (five
    under L1).
    """
    x, y = batch.x, batch.y
    with torch.no_grad():
        num_classes = model(x[:2]).shape[1]
    x_adv, stage = x.clone(), [""] * len(x)
    model = Logits(model, x, threat)
    with _package(model, x, threat, seed) as package:
        for targeted in (package.apgd_targeted, package.fab):
            targeted.n_target_classes = min(targeted.n_target_classes, num_classes - 1)
        rows = torch.arange(len(x), device=x.device)
        for part in parts:
            if len(rows) == 0:
                break
            package.attacks_to_run = [part]
            found, label = package.run_standard_evaluation(x[rows], y[rows], batch_size=len(rows))
            fooled = (found != x[rows]).flatten(1).any(dim=1) & (label != y[rows])
            # The package takes NaN for class 0: an image without a prediction counts as broken by the part that met it
            lost = torch.tensor([row in model.unpredicted for row in rows.tolist()], device=x.device)
            found, fooled = model.worst(x)[rows].where(lost.view(-1, 1, 1, 1), found), fooled | lost
            x_adv[rows[fooled]] = found[fooled].detach()
            for row in rows[fooled].tolist():
                stage[row] = part
            rows = rows[~fooled]
    return x_adv, stage


def square(model: nn.Module, batch: Batch, threat: Threat, seed: int, queries: int) -> Tensor:
    """Square Attack's images for a batch that is classified correctly, after so many queries of the model."""
    model = Logits(model, batch.x, threat)
    with _package(model, batch.x, threat, seed) as package:
        package.square.n_queries, package.square.seed = queries, seed
        return model.worst(package.square.perturb(batch.x, batch.y).detach())


@torch.enable_grad()
def differentiable(model: nn.Module, x: Tensor) -> bool:
    """Whether the model lets any gradient through to its input."""
    return model(x.detach().requires_grad_()).requires_grad


def package_norm(threat: Threat) -> Literal["Linf", "L2", "L1"]:
    """The package's name for the threat's norm."""
    match threat:
        case Linf():
            return "Linf"
        case L2():
            return "L2"
        case L1():
            return "L1"
        case _:
            assert_never(threat)


@contextmanager
def _package(model: nn.Module, x: Tensor, threat: Threat, seed: int) -> Iterator:
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # flags say what it would warn of
    devices = [x.device] if x.device.type == "cuda" else []
    norm = package_norm(threat)
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations
        package = AutoAttack(model, norm=norm, eps=threat.epsilon, seed=seed, device=x.device, version="standard")
        if norm != "Linf":
            _framed(package.square, *x.shape[2:])
        yield package


def _framed(square: Any, height: int, width: int) -> None:
    """Lets Square under L2 and L1 attack images on which the package's grid of first windows (square.py) does not end.

    Its windows have a side of ``height // 5``, and there are ``side // window`` in a row, from where five would be in
    the middle: at sides of 12, 14, 18, 19 and 24, and at many widths other than the height, the last one reaches beyond
    the image; below 5 there is none. Such an image is laid into the corner of the next larger one that fits. What is
    changed outside the image is taken back before a perturbation is scaled to epsilon, so none of it is spent there
    (under L1 some is, for the package does not scale there). Others are attacked as the package does it, to the bit.
    """
    frame = next((h, w) for h in count(height) for w in range(width, width + h // 5 + 1) if _fits(h, w))
    if frame == (height, width):
        return
    predict, perturb, normalize = square.predict, square.perturb, square.normalize

    def image(x: Tensor) -> Tensor:
        return x[:, :, :height, :width].clone(memory_format=torch.contiguous_format)

    def framed(x: Tensor) -> Tensor:
        return F.pad(x, (0, frame[1] - width, 0, frame[0] - height))

    square.predict = lambda x: predict(image(x))
    square.normalize = lambda delta: normalize(framed(image(delta)))
    square.perturb = lambda x, y: image(perturb(framed(x), y))


def _fits(height: int, width: int) -> bool:
    """Whether the package's grid of first windows lies within such an image."""
    window = height // 5
    first = (height - 5 * window) // 2
    if window <= 1:
        return window == 1  # windows of one pixel that begin outside are empty, and harmless
    return width < window or all(first + side // window * window <= side for side in (height, width))

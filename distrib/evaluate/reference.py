"""AutoAttack and its parts by their authors' package, pyautoattack: the only door to it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distrib.evaluate.logits import Logits
from distrib.threat import Linf, Threat

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
"""AutoAttack's standard version, in its order."""


def parts_for(num_classes: int, differentiable: bool) -> tuple[str, ...]:
    """The parts that can be run. Below four classes the targeted loss is not defined: untargeted attacks instead."""
    if not differentiable:
        return ("square",)
    return STANDARD if num_classes >= 4 else ("apgd-ce", "fab", "square")


def autoattack(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, seed: int, parts: tuple[str, ...]
) -> tuple[Tensor, list[str]]:
    """AutoAttack's images for ``x`` (each ``x`` itself where it found none), and which part broke each ("": none).

    ``x`` are rightly classified. Each part meets the images that stood before, in one batch: the same as one call of
    the package with ``batch_size=len(x)``. Below ten classes it has fewer targets than its standard nine.
    """
    with torch.no_grad():
        num_classes = model(x[:2]).shape[1]
    x_adv, stage = x.clone(), [""] * len(x)
    model = Logits(model, x, threat)
    with _package(model, x, threat, seed) as package:
        package.apgd_targeted.n_target_classes = package.fab.n_target_classes = min(9, num_classes - 1)
        rows = torch.arange(len(x), device=x.device)
        for part in parts:
            if len(rows) == 0:
                break
            package.attacks_to_run = [part]
            found, label = package.run_standard_evaluation(x[rows], y[rows], batch_size=len(rows))
            fooled = (found != x[rows]).flatten(1).any(dim=1) & (label != y[rows])
            lost = torch.tensor([row in model.met for row in rows.tolist()], device=x.device)
            found, fooled = model.worst(x)[rows].where(lost.view(-1, 1, 1, 1), found), fooled | lost
            x_adv[rows[fooled]] = found[fooled].detach()
            for row in rows[fooled].tolist():
                stage[row] = part
            rows = rows[~fooled]
    return x_adv, stage


def square(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, seed: int, queries: int) -> Tensor:
    """Square Attack's images for the rightly classified ``x``, after so many queries of the model."""
    model = Logits(model, x, threat)
    with _package(model, x, threat, seed) as package:
        package.square.n_queries, package.square.seed = queries, seed
        return model.worst(package.square.perturb(x, y).detach())


@torch.enable_grad()
def differentiable(model: nn.Module, x: Tensor) -> bool:
    """Whether the model lets any gradient through to its input."""
    return model(x.detach().requires_grad_()).requires_grad


@contextmanager
def _package(model: nn.Module, x: Tensor, threat: Threat, seed: int) -> Iterator:
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # what it would warn of, evaluate/suspicion says
    devices = [x.device] if x.device.type == "cuda" else []
    norm = "Linf" if isinstance(threat, Linf) else "L2"
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations
        yield AutoAttack(model, norm=norm, eps=threat.epsilon, seed=seed, device=x.device, version="standard")

"""Attacks on one shard of the test split: one boolean an image and attack, and what looks suspicious.

The model comes from a checkpoint or a registry, never from the training process. Everything runs in float32 (TF32
off) in evaluation mode. Each image's fate under PGD depends on the seed and that image alone; AutoAttack draws its
numbers a shard at a time, so shards are cut by size, never by the number of workers.
"""

import logging
import math
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.attack import PGD, input_gradient, undisturbed
from distrib.data.loader import Batch
from distrib.errors import RunError
from distrib.evaluate.suite import AutoAttack, Evaluation, name_of
from distrib.noise import Noise
from distrib.threat import L2, Linf, outside


@dataclass(frozen=True)
class ShardResult:
    """What happened to the images of one shard."""

    position: list[int]
    """Each image's place in the evaluation's own order."""
    index: list[int]
    """Each image's place in the test split."""
    clean: list[bool]
    """Classified rightly as it is."""
    robust: dict[str, list[bool | None]]
    """For each attack: still classified rightly; None where the attack was not asked for this image."""
    zero_gradient: list[bool]
    """The loss has no gradient at the image: attacks by gradient see nothing there."""
    largest_change: dict[str, float]
    """For each attack: the largest perturbation, measured on the float32 tensors under the threat's norm."""
    seconds: dict[str, float]
    randomised: bool
    """Two identical calls gave different logits."""
    batch_dependent: bool
    """An image's logits depend on its company."""
    probabilities: bool
    """The output sums to one with no negative entry: a softmax, not logits."""

    def as_json(self) -> dict:
        """Plain values."""
        return asdict(self)


def exact_float32() -> None:
    """Switches TF32 off in this process: float32 means float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def attack_shard(model: nn.Module, batch: Batch, positions: np.ndarray, suite: Evaluation) -> ShardResult:
    """Runs every attack of ``suite`` on the images of ``batch`` (one shard, on the model's device).

    ``positions`` are the images' places in the evaluation's order (an attack with an ``n`` takes those below it).
    Raises :class:`RunError` if an attack leaves the threat: its figure would be worthless.
    """
    assert suite.threat is not None
    exact_float32()
    threat, (x, y, index) = suite.threat, batch
    with undisturbed(model, "eval"):
        logits = _logits(model, x, suite.batch_size)
        clean = logits.argmax(dim=1) == y
        robust: dict[str, list[bool | None]] = {}
        largest: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for attack in suite.attacks:
            name = name_of(attack)
            asked = torch.from_numpy(positions < (attack.n or math.inf)).to(x.device)
            rows = (asked & clean).nonzero()[:, 0]
            began = time.perf_counter()
            standing = clean.clone()
            largest[name] = 0.0
            if len(rows):
                if isinstance(attack, AutoAttack):
                    x_adv = autoattack(model, x[rows], y[rows], threat, suite.seed, logits.shape[1])
                else:
                    x_adv = _pgd(model, attack.resolve(threat), x[rows], y[rows], index[rows], suite)
                if outside(threat, x[rows], x_adv).any():
                    raise RunError(f"{name} left the {threat.norm} ball of {threat.epsilon:g} or [0, 1]; no result")
                standing[rows] = _logits(model, x_adv, suite.batch_size).argmax(dim=1) == y[rows]
                largest[name] = threat.size(x_adv - x[rows]).max().item()
            seconds[name] = time.perf_counter() - began
            robust[name] = [bool(s) if a else None for s, a in zip(standing.tolist(), asked.tolist(), strict=True)]
        few = x[: min(len(x), 8)]
        return ShardResult(
            position=positions.tolist(),
            index=index.tolist(),
            clean=clean.tolist(),
            robust=robust,
            zero_gradient=_zero_gradient(model, x, y, suite.batch_size).tolist(),
            largest_change=largest,
            seconds=seconds,
            randomised=not torch.equal(_logits(model, few, 8), _logits(model, few, 8)),
            batch_dependent=not torch.allclose(_logits(model, few, 1), logits[: len(few)], rtol=1e-3, atol=1e-3),
            probabilities=bool((logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(1, device=x.device))),
        )


def _pgd(model: nn.Module, attack: PGD, x: Tensor, y: Tensor, index: Tensor, suite: Evaluation) -> Tensor:
    parts = zip(x.split(suite.batch_size), y.split(suite.batch_size), index.split(suite.batch_size), strict=True)
    return torch.cat([attack.perturb(model, a, b, Noise.of(i, suite.seed, attack.name)) for a, b, i in parts])


def autoattack(model: nn.Module, x: Tensor, y: Tensor, threat: Linf | L2, seed: int, num_classes: int) -> Tensor:
    """AutoAttack's images for ``x`` (each ``x`` itself where it found none), by the authors' package.

    Below ten classes it has fewer targets than its standard nine; below four, its targeted loss is not defined and
    the untargeted attacks take its place. Where the model lets no gradient through, the attack without one is left.
    """
    from pyautoattack import AutoAttack as Reference

    norm = "Linf" if isinstance(threat, Linf) else "L2"
    kind: dict[str, Any] = {"version": "standard"}
    if num_classes < 4:
        kind = {"version": "custom", "attacks": ["apgd-ce", "fab", "square"]}
    if not _differentiable(model, x[:1]):
        kind = {"version": "custom", "attacks": ["square"]}
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations
        reference = Reference(model, norm=norm, eps=threat.epsilon, seed=seed, device=x.device, **kind)
        reference.apgd_targeted.n_target_classes = reference.fab.n_target_classes = min(9, num_classes - 1)
        x_adv, _ = reference.run_standard_evaluation(x, y, batch_size=len(x))
    return x_adv.detach()


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([model(part) for part in x.split(batch_size)])


@torch.enable_grad()
def _differentiable(model: nn.Module, x: Tensor) -> bool:
    return model(x.detach().requires_grad_()).requires_grad


@torch.enable_grad()
def _zero_gradient(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    flat = []
    for part, label in zip(x.split(batch_size), y.split(batch_size), strict=True):
        part = part.detach().requires_grad_()
        gradient = input_gradient(F.cross_entropy(model(part), label, reduction="sum"), part)
        flat.append(gradient.flatten(1).abs().amax(dim=1) == 0)
    return torch.cat(flat)

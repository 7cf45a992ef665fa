"""Attacks on one shard of the test split: the outcome of each image under each attack, and the worst image found.

The model comes from a checkpoint or a registry, never from the training process. Everything runs in float32 (TF32
off) in evaluation mode. Each image's outcome under PGD depends on the seed and that image alone; AutoAttack draws its
numbers a shard at a time, so shards are cut by size, never by the number of workers.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distrib.attack import depth, predicted, undisturbed
from distrib.data.loader import Batch
from distrib.errors import RunError
from distrib.evaluation import autoattack
from distrib.evaluation.attacks import WITHOUT_GRADIENT, AutoAttack, EvaluationPlan, Square
from distrib.evaluation.crafting import PROBES, AttackInputs, craft
from distrib.evaluation.geometry import on_levels
from distrib.evaluation.logits import Logits, logits_of
from distrib.evaluation.outcomes import BROKEN, NOT_ASKED, ROUNDED, SPARED, STOOD, ShardResult
from distrib.evaluation.probes import probe
from distrib.precision import exact_float32
from distrib.threat import Threat, drawn_back, outside


class AttackedShard(NamedTuple):
    """A shard after some attacks."""

    result: ShardResult
    worst: Tensor
    """For each image the worst one found (lowest margin; itself where none was tried): float32 ``[n, C, H, W]``."""


@dataclass(frozen=True)
class ExtraAttack:
    """An attack that no job lists, on the images that still stand."""

    name: str
    images: Callable[[Tensor], Tensor]
    """The images that it makes of those in the given rows of the shard, int64 ``[b]``."""


@exact_float32()
def attack_shard(
    model: nn.Module,
    batch: Batch,
    positions: np.ndarray,
    evaluation: EvaluationPlan,
    inputs: AttackInputs | None = None,
) -> AttackedShard:
    """Runs every attack of ``evaluation`` on the images of ``batch`` (one shard, on the model's device).

    ``positions`` are the images' places in the evaluation's order (an attack with an ``n`` takes those below it).
    Raises :class:`RunError` if an attack leaves the threat: its figure would be worthless.
    """
    threat, (x, y, index) = evaluation.threat, batch
    with undisturbed(model, "eval"):
        logits = logits_of(model, x, evaluation.batch_size)
        lost, infinite = predicted(logits) < 0, torch.isinf(logits).any(dim=1)
        clean = predicted(logits) == y
        standing, standing_white_box, worst = clean.clone(), clean.clone(), x.clone()
        lowest, found_by = torch.full_like(logits[:, 0], math.inf), [""] * len(y)
        worst_as = predicted(logits)
        place = torch.from_numpy(positions).to(x.device)
        outcomes: dict[str, list[int]] = {}
        parts: tuple[str, ...] = ()
        stage = [""] * len(y)
        starts: dict[str, list[int]] = {}
        projected: dict[str, int] = {}
        largest: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for attack in evaluation.attacks:
            if inputs is not None:
                inputs.began(attack.name)
            asked = place < (attack.n or math.inf)
            gradient_free = isinstance(attack, WITHOUT_GRADIENT)
            # An attack with a gradient also meets what only those without one broke: it should break that too, and a
            # flag (black_box_beats_white_box) says where it does not
            met = clean if attack.meets == "all" else standing if gradient_free else standing_white_box
            rows = (asked & met).nonzero()[:, 0]
            began = time.perf_counter()
            outcome = torch.where(asked, torch.where(clean, SPARED, BROKEN), NOT_ASKED)
            largest[attack.name] = 0.0
            if len(rows):
                part, broken_by = Batch(x[rows], y[rows], index[rows]), [""] * len(rows)
                if isinstance(attack, AutoAttack):
                    parts = autoattack.parts_for(logits.shape[1], autoattack.differentiable(model, x[:2]))
                    x_adv, broken_by = autoattack.autoattack(model, part, threat, evaluation.seed, parts)
                else:
                    watched = Logits(model, part.x, threat)
                    x_adv, after_starts = craft(watched, attack, part, evaluation, inputs)
                    x_adv = watched.worst(x_adv)
                    starts |= {attack.name: after_starts} if after_starts else {}
                if isinstance(attack, AutoAttack | Square):  # the authors' package projects with another rounding
                    x_adv, moved = drawn_back(threat, part.x, x_adv)
                    projected[attack.name] = int(moved.sum())
                if outside(threat, part.x, x_adv).any():
                    raise RunError(
                        f"{attack.name} left the {threat.norm} ball of {threat.epsilon:g} or [0, 1]; no result"
                    )
                attacked = logits_of(model, x_adv, evaluation.batch_size)
                stood = predicted(attacked) == part.y
                lost[rows] |= predicted(attacked) < 0
                infinite[rows] |= torch.isinf(attacked).any(dim=1)
                for row, name, stands in zip(rows.tolist(), broken_by, stood.tolist(), strict=True):
                    stage[row] = stage[row] if stands else name or stage[row]
                outcome[rows] = torch.where(stood, STOOD, BROKEN)
                standing[rows] &= stood
                if not gradient_free:
                    standing_white_box[rows] &= stood
                # A broken image's margin may be 0, as may that of one that stands: the broken one counts as worse
                margins = depth(attacked, part.y) - 1e-6 * ~stood
                lower = margins < lowest[rows]
                worst[rows[lower]], lowest[rows[lower]] = x_adv[lower], margins[lower]
                worst_as[rows[lower]] = predicted(attacked)[lower]
                for row in rows[lower].tolist():
                    found_by[row] = attack.name
                largest[attack.name] = threat.size(x_adv - part.x).max().item()
            seconds[attack.name] = time.perf_counter() - began
            outcomes[attack.name] = outcome.tolist()
        if inputs is not None:
            inputs.began(PROBES)
        result = ShardResult(
            position=positions.tolist(),
            index=index.tolist(),
            label=y.tolist(),
            predicted=predicted(logits).tolist(),
            outcomes=outcomes,
            worst=found_by,
            attacked=worst_as.tolist(),
            parts=list(parts),
            stage=stage,
            starts=starts,
            largest_change=largest,
            seconds=seconds,
            probes=probe(model, batch, worst, positions, evaluation),
            lost=lost.tolist(),
            infinite=infinite.tolist(),
            projected=projected,
        )
        rounded = ExtraAttack(ROUNDED, lambda rows: on_levels(x, worst, threat)[rows])
        return extra_attack(model, batch, evaluation, AttackedShard(result, worst), rounded)


def extra_attack(
    model: nn.Module, batch: Batch, evaluation: EvaluationPlan, before: AttackedShard, attack: ExtraAttack
) -> AttackedShard:
    """The shard after one more attack, on all images that stood ``before``.

    An image that the attack brings outside the threat counts as the test image itself.
    """
    began, (x, y, _), (result, worst) = time.perf_counter(), batch, before
    outcome = torch.tensor([SPARED if hit else BROKEN for hit in result.clean])
    lost, infinite, found_by, worst_as = result.lost[:], result.infinite[:], result.worst[:], result.attacked[:]
    worst, change = worst.clone(), 0.0
    rows = torch.tensor([not broken for broken in result.broken], device=x.device).nonzero()[:, 0]
    if len(rows):
        x_adv = attack.images(rows)
        x_adv = torch.where(outside(evaluation.threat, x[rows], x_adv).view(-1, 1, 1, 1), x[rows], x_adv)
        attacked = logits_of(model, x_adv, evaluation.batch_size)
        label = predicted(attacked)
        fell = label != y[rows]
        outcome[rows.cpu()] = torch.where(fell, BROKEN, STOOD).cpu()
        worst[rows[fell]] = x_adv[fell]
        change = evaluation.threat.size(x_adv - x[rows]).max().item()
        for i in fell.nonzero()[:, 0].tolist():
            row = int(rows[i])
            found_by[row], worst_as[row], lost[row] = attack.name, int(label[i]), bool(label[i] < 0)
            infinite[row] |= bool(torch.isinf(attacked[i]).any())
    result = replace(
        result,
        outcomes=result.outcomes | {attack.name: outcome.tolist()},
        worst=found_by,
        attacked=worst_as,
        largest_change=result.largest_change | {attack.name: change},
        seconds=result.seconds | {attack.name: time.perf_counter() - began},
        lost=lost,
        infinite=infinite,
    )
    return AttackedShard(result, worst)


@exact_float32()
def score_images(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, threat: Threat) -> tuple[list[float], int]:
    """Scores stored images again: (the margin of each, how many lie outside the threat around ``x``)."""
    with undisturbed(model, "eval"):
        return depth(logits_of(model, x_adv, len(x_adv)), y).tolist(), int(outside(threat, x, x_adv).sum())

"""From evidence to a result: accuracies with their n, the worst case, an interval, and every flag."""

import hashlib
import math
from typing import Literal

import numpy as np

from distrib.evaluation.attack_flags import ATTACK_CHECKS
from distrib.evaluation.attacks import Tier, tier_of
from distrib.evaluation.autoattack import STANDARD
from distrib.evaluation.evidence import Evidence, epsilon_curve, worst_case
from distrib.evaluation.flags import Flag
from distrib.evaluation.model_flags import MODEL_CHECKS
from distrib.evaluation.outcomes import BROKEN, NOT_ASKED, STOOD
from distrib.threat import Norm
from distrib.values import Value


class Result(Value):
    """What an evaluation found."""

    tier: Tier | Literal["custom"]
    clean_accuracy: float
    """The share of all ``n_clean`` images that are classified correctly without an attack."""
    n_clean: int
    robust_accuracy: float
    """The share that stands under every attack (the worst case, image by image), of the ``n`` images that every attack
    was asked for."""
    interval: tuple[float, float]
    """The Wilson score interval of robust_accuracy, 95 %."""
    n: int
    attacks: dict[str, float]
    """Accuracy under each attack by itself; of those in ``cumulative``: under it and all before it."""
    attacks_n: dict[str, int]
    """On how many images each attack was asked for."""
    cumulative: tuple[str, ...]
    """Attacks that met only the images that still stood."""
    attack_seconds: dict[str, float]
    """Seconds of computation, on all workers together."""
    largest_change: dict[str, float]
    stages: dict[str, float]
    """Accuracy after each part of AutoAttack, in its order; on the images that AutoAttack was asked for."""
    restarts: dict[str, tuple[float, ...]]
    """For each attack with restarts: the share of its images that it had broken after each start."""
    epsilon_curve: tuple[tuple[float, float, int], ...]
    """(epsilon, accuracy under PGD-40 on the margin, images), from half of epsilon to the whole box."""
    norm: Norm
    epsilon: float
    seed: int
    examples_sha256: str
    """Of the indices that every attack was asked for: the same examples can be compared one by one."""
    flags: tuple[Flag, ...]


def conclude(evidence: Evidence) -> Result:
    """The result that the evidence supports."""
    evaluation, clean = evidence.evaluation, evidence.clean
    asked = {name: outcome != NOT_ASKED for name, outcome in evidence.outcomes.items()}
    every, standing = worst_case(evidence)
    worst = standing[every]
    return Result(
        tier=tier_of(evaluation.attacks, evaluation.threat),
        clean_accuracy=float(clean.mean()),
        n_clean=len(clean),
        robust_accuracy=float(worst.mean()),
        interval=wilson(int(worst.sum()), len(worst)),
        n=len(worst),
        attacks=_accuracies(evidence),
        attacks_n={name: int(which.sum()) for name, which in asked.items()},
        cumulative=_cumulative(evidence),
        attack_seconds={
            name: round(sum(shard.seconds[name] for shard in evidence.shards), 2) for name in evidence.outcomes
        },
        largest_change={
            name: max(shard.largest_change[name] for shard in evidence.shards) for name in evidence.outcomes
        },
        stages=_stages(evidence),
        restarts=_restarts(evidence),
        epsilon_curve=tuple(epsilon_curve(evidence.shards)),
        norm=evaluation.threat.norm,
        epsilon=evaluation.threat.epsilon,
        seed=evaluation.seed,
        examples_sha256=hashlib.sha256(np.sort(evidence.index[every]).astype("<i8").tobytes()).hexdigest(),
        flags=tuple(flag for check in (*MODEL_CHECKS, *ATTACK_CHECKS) for flag in check(evidence)),
    )


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927), at 95 % by default."""
    share, z2 = successes / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _cumulative(evidence: Evidence) -> tuple[str, ...]:
    listed = {one.name: one for one in evidence.evaluation.attacks}
    return tuple(name for name in evidence.outcomes if name not in listed or listed[name].meets == "standing")


def _before(evidence: Evidence, name: str) -> np.ndarray:
    """Images that count as standing when an attack begins: where it meets what stands, all before it count."""
    standing = evidence.clean.copy()
    if name in _cumulative(evidence):
        for other, outcome in evidence.outcomes.items():
            if other == name:
                break
            standing &= outcome != BROKEN
    return standing


def _accuracies(evidence: Evidence) -> dict[str, float]:
    """Under each attack, on the images that it was asked for."""
    return {
        name: float((_before(evidence, name) & (outcome == STOOD))[outcome != NOT_ASKED].mean())
        for name, outcome in evidence.outcomes.items()
    }


def _stages(evidence: Evidence) -> dict[str, float]:
    outcome = evidence.outcomes.get("autoattack")
    if outcome is None:
        return {}
    asked = outcome != NOT_ASKED
    before = _before(evidence, "autoattack") & asked
    stage = np.array([part for shard in evidence.shards for part in shard.stage])
    ran = {part for shard in evidence.shards for part in shard.parts}
    result, left = {}, int(before.sum())
    for part in (*STANDARD[:1], "fab", *STANDARD[1:]):
        if part in ran:
            left -= int((before & (stage == part)).sum())
            result[part] = left / int(asked.sum())
    return result


def _restarts(evidence: Evidence) -> dict[str, tuple[float, ...]]:
    curves = {}
    for attack in evidence.evaluation.attacks:
        counts = [shard.starts[attack.name] for shard in evidence.shards if attack.name in shard.starts]
        if counts:
            asked = int((evidence.outcomes[attack.name] != NOT_ASKED).sum())
            curves[attack.name] = tuple((np.sum(counts, axis=0) / asked).tolist())
    return curves

"""From shards to what is claimed: accuracies with their n, the worst case, an interval, and every suspicion."""

import hashlib
import math
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np

from distrib.errors import RunError
from distrib.evaluation.attacks import Evaluation, Tier, tier_of
from distrib.evaluation.autoattack import STANDARD
from distrib.evaluation.flags import Evidence, Flag, epsilon_curve, flags_of
from distrib.evaluation.shard import BROKEN, EXTRA_ATTACKS, NOT_ASKED, ROUNDED, STOOD, ShardResult
from distrib.values import Value


class Result(Value):
    """What an evaluation found."""

    tier: Tier | Literal["custom"]
    clean_accuracy: float
    """Over all ``n_clean`` images."""
    n_clean: int
    robust_accuracy: float
    """Of the worst case, image by image, over all attacks; on the ``n`` images that every attack was asked for."""
    interval: tuple[float, float]
    """Of robust_accuracy: Wilson's, 95 %."""
    n: int
    attacks: dict[str, float]
    """Accuracy under each attack by itself; of those in ``cumulative``: under it and all before it."""
    attacks_n: dict[str, int]
    """On how many images each attack was asked for."""
    cumulative: tuple[str, ...]
    """Attacks that met only the images that still stood."""
    attack_seconds: dict[str, float]
    """Of computation on all workers together."""
    largest_change: dict[str, float]
    stages: dict[str, float]
    """Accuracy after each part of AutoAttack, in its order; on the images that AutoAttack was asked for."""
    restarts: dict[str, tuple[float, ...]]
    """For each attack with restarts: the share of its images that it had broken after each start."""
    epsilon_curve: tuple[tuple[float, float, int], ...]
    """(epsilon, accuracy under PGD-40 on the margin, images), from half of epsilon to the whole box."""
    norm: Literal["linf", "l2"]
    epsilon: float
    seed: int
    examples_sha256: str
    """Of the indices that every attack was asked for: the same examples can be compared one by one."""
    flags: tuple[Flag, ...]


def gather(
    shards: Sequence[ShardResult], suite: Evaluation, count: int, num_classes: int, disagree: Collection[int] = ()
) -> Evidence:
    """What the shards found, image by image; ``disagree`` are the positions that a second look judged otherwise.

    Raises :class:`RunError` unless every image was counted exactly once.
    """
    shards = sorted(shards, key=lambda shard: shard.position)
    positions = [position for shard in shards for position in shard.position]
    index = np.array([one for shard in shards for one in shard.index])
    if positions != list(range(count)) or len(set(index.tolist())) != count:
        raise RunError(f"the shards do not hold each of the {count} images exactly once; no result")
    return Evidence(
        shards=shards,
        suite=suite,
        num_classes=num_classes,
        index=index,
        label=np.array([one for shard in shards for one in shard.label]),
        predicted=np.array([one for shard in shards for one in shard.predicted]),
        fate={name: np.array([one for shard in shards for one in shard.fate[name]]) for name in _names(shards, suite)},
        disagree=np.isin(np.arange(count), list(disagree)),
    )


def _names(shards: Sequence[ShardResult], suite: Evaluation) -> list[str]:
    """The listed attacks, and the further ones that all shards met; rounding is one where it broke something."""
    listed = [attack.name for attack in suite.attacks]
    names = [*listed, *(name for name in EXTRA_ATTACKS if all(name in shard.fate for shard in shards))]
    idle = not any(shard.broke_alone(ROUNDED, listed) for shard in shards)
    return [name for name in names if name != ROUNDED or not idle]


def worst_case(found: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """(which images every attack was asked for, which of all images stood under all that were): bool ``[n]``."""
    fates = np.stack(list(found.fate.values()))
    return (fates != NOT_ASKED).all(axis=0), found.clean & (fates != BROKEN).all(axis=0)


def conclude(found: Evidence) -> Result:
    """The claim that the evidence supports."""
    suite, clean = found.suite, found.clean
    assert suite.threat is not None
    asked = {name: fate != NOT_ASKED for name, fate in found.fate.items()}
    every, standing = worst_case(found)
    worst = standing[every]
    return Result(
        tier=tier_of(suite.attacks, suite.threat),
        clean_accuracy=float(clean.mean()),
        n_clean=len(clean),
        robust_accuracy=float(worst.mean()),
        interval=wilson(int(worst.sum()), len(worst)),
        n=len(worst),
        attacks=_accuracies(found),
        attacks_n={name: int(which.sum()) for name, which in asked.items()},
        cumulative=_cumulative(found),
        attack_seconds={name: round(sum(shard.seconds[name] for shard in found.shards), 2) for name in found.fate},
        largest_change={name: max(shard.largest_change[name] for shard in found.shards) for name in found.fate},
        stages=_stages(found),
        restarts=_restarts(found),
        epsilon_curve=tuple(epsilon_curve(found.shards)),
        norm=suite.threat.norm,
        epsilon=suite.threat.epsilon,
        seed=suite.seed,
        examples_sha256=hashlib.sha256(np.sort(found.index[every]).astype("<i8").tobytes()).hexdigest(),
        flags=flags_of(found),
    )


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927), at 95 % by default."""
    share, z2 = successes / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _cumulative(found: Evidence) -> tuple[str, ...]:
    listed = {one.name: one for one in found.suite.attacks}
    return tuple(name for name in found.fate if name not in listed or listed[name].meets == "standing")


def _before(found: Evidence, name: str) -> np.ndarray:
    """Images that count as standing when an attack begins: where it meets what stands, all before it count."""
    standing = found.clean.copy()
    if name in _cumulative(found):
        for other, fate in found.fate.items():
            if other == name:
                break
            standing &= fate != BROKEN
    return standing


def _accuracies(found: Evidence) -> dict[str, float]:
    """Under each attack, on the images that it was asked for."""
    return {
        name: float((_before(found, name) & (fate == STOOD))[fate != NOT_ASKED].mean())
        for name, fate in found.fate.items()
    }


def _stages(found: Evidence) -> dict[str, float]:
    fate = found.fate.get("autoattack")
    if fate is None:
        return {}
    asked = fate != NOT_ASKED
    before = _before(found, "autoattack") & asked
    stage = np.array([part for shard in found.shards for part in shard.stage])
    ran = {part for shard in found.shards for part in shard.parts}
    result, left = {}, int(before.sum())
    for part in (*STANDARD[:1], "fab", *STANDARD[1:]):
        if part in ran:
            left -= int((before & (stage == part)).sum())
            result[part] = left / int(asked.sum())
    return result


def _restarts(found: Evidence) -> dict[str, tuple[float, ...]]:
    curves = {}
    for attack in found.suite.attacks:
        counts = [shard.starts[attack.name] for shard in found.shards if attack.name in shard.starts]
        if counts:
            asked = int((found.fate[attack.name] != NOT_ASKED).sum())
            curves[attack.name] = tuple((np.sum(counts, axis=0) / asked).tolist())
    return curves

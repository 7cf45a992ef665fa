"""From shards to what is claimed: accuracies with their n, the worst case, an interval, and every suspicion."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from distrib.errors import RunError
from distrib.evaluate.suite import Evaluation, Pgd, name_of
from distrib.evaluate.witness import ShardResult
from distrib.values import Value


class Flag(Value):
    """Something that speaks against believing the figures."""

    name: str
    blocking: bool
    """The figure is not to be used, and no model is promoted on it."""
    detail: str


class Claim(Value):
    """What an evaluation found."""

    clean_accuracy: float
    """Over all ``n_clean`` images."""
    n_clean: int
    robust_accuracy: float
    """Of the worst case, image by image, over all attacks; on the ``n`` images that met every attack."""
    interval: tuple[float, float]
    """Of robust_accuracy: Wilson's, 95 %."""
    n: int
    attacks: dict[str, float]
    """Accuracy under each attack by itself."""
    attacks_n: dict[str, int]
    """On how many images each attack was run."""
    attack_seconds: dict[str, float]
    """Of computation on all workers together."""
    largest_change: dict[str, float]
    norm: Literal["linf", "l2"]
    epsilon: float
    seed: int
    flags: tuple[Flag, ...]


def chosen(count: int, suite: Evaluation) -> np.ndarray:
    """The evaluated images' indices into a test split of ``count``, in the evaluation's order.

    A draw with the suite's seed, not the first ones: in a folder those are all of one class.
    """
    draw = np.random.Generator(np.random.Philox(key=[suite.seed, 0xE7A1]))
    return draw.permutation(count)[: min(count, suite.n or count)]


def conclude(shards: Sequence[ShardResult], suite: Evaluation, count: int, num_classes: int) -> Claim:
    """The claim that the shards of one evaluation of ``count`` images support.

    Raises :class:`RunError` unless every image was counted exactly once.
    """
    assert suite.threat is not None
    positions = sorted(position for shard in shards for position in shard.position)
    if positions != list(range(count)) or len({index for shard in shards for index in shard.index}) != count:
        raise RunError(f"the shards do not hold each of the {count} images exactly once; no result")
    order = np.argsort([position for shard in shards for position in shard.position])
    clean = np.array([hit for shard in shards for hit in shard.clean])[order]
    names = [name_of(attack) for attack in suite.attacks]
    fate = {
        name: np.array([fate for shard in shards for fate in shard.robust[name]], dtype=object)[order] for name in names
    }
    met = {name: np.array([one is not None for one in fate[name]]) for name in names}
    every = np.logical_and.reduce(list(met.values()))
    worst = np.logical_and.reduce([fate[name][every].astype(bool) for name in names]) & clean[every]
    zero = np.array([flat for shard in shards for flat in shard.zero_gradient])[order]
    attacks = {name: float(fate[name][met[name]].astype(bool).mean()) for name in names}
    return Claim(
        clean_accuracy=float(clean.mean()),
        n_clean=count,
        robust_accuracy=float(worst.mean()),
        interval=wilson(int(worst.sum()), len(worst)),
        n=len(worst),
        attacks=attacks,
        attacks_n={name: int(met[name].sum()) for name in names},
        attack_seconds={name: round(sum(shard.seconds[name] for shard in shards), 2) for name in names},
        largest_change={name: max(shard.largest_change[name] for shard in shards) for name in names},
        norm=suite.threat.norm,
        epsilon=suite.threat.epsilon,
        seed=suite.seed,
        flags=tuple(_flags(shards, suite, fate, met, float((zero & clean).sum() / max(1, clean.sum())), num_classes)),
    )


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927), at 95 % by default."""
    share, z2 = successes / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _flags(
    shards: Sequence[ShardResult],
    suite: Evaluation,
    fate: dict[str, np.ndarray],
    met: dict[str, np.ndarray],
    zero: float,
    classes: int,
) -> list[Flag]:
    """What looks wrong; see Carlini et al., "On evaluating adversarial robustness" (arXiv 1902.06705)."""
    flags = []
    if any(shard.randomised for shard in shards):
        flags.append(Flag(name="randomised_output", blocking=True, detail="two identical calls gave different logits"))
    if any(shard.batch_dependent for shard in shards):
        detail = "an image's logits change with the others in its batch"
        flags.append(Flag(name="batch_dependent_output", blocking=True, detail=detail))
    if all(shard.probabilities for shard in shards):
        detail = "the model gives probabilities; gradients through a softmax vanish: export logits"
        flags.append(Flag(name="softmax_output", blocking=True, detail=detail))
    if zero > 0.01:
        detail = f"{zero:.1%} of the rightly classified images have no gradient: attacks by gradient are blind there"
        flags.append(Flag(name="zero_gradients", blocking=True, detail=detail))
    for attack in suite.attacks:
        name = name_of(attack)
        if isinstance(attack, Pgd) and attack.target == "none" and "fgsm" in fate:
            both = met[name] & met["fgsm"]
            more = int(fate[name][both].astype(bool).sum()) - int(fate["fgsm"][both].astype(bool).sum())
            if more > 3 * math.sqrt(max(1, both.sum())) * 0.05 + 1:
                detail = f"fgsm breaks {more} more of {both.sum()} images than {name}: gradients mislead"
                flags.append(Flag(name="fgsm_stronger_than_pgd", blocking=True, detail=detail))
    if classes < 4 and "autoattack" in fate:
        detail = f"{classes} classes: AutoAttack ran without its targeted attacks"
        flags.append(Flag(name="few_classes", blocking=False, detail=detail))
    return flags

"""From shards to evidence: what was found for each image of an evaluation, every image counted exactly once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from distrib.errors import RunError
from distrib.evaluation.attacks import EvaluationPlan
from distrib.evaluation.outcomes import BROKEN, EXTRA_ATTACKS, NOT_ASKED, ROUNDED, ShardResult

NO_CLASS = "no class"


@dataclass(frozen=True)
class Evidence:
    """Everything that the shards found; each array has an entry for each image, in the evaluation's order."""

    shards: Sequence[ShardResult]
    evaluation: EvaluationPlan
    num_classes: int
    index: np.ndarray
    """Places in the test split."""
    label: np.ndarray
    predicted: np.ndarray
    """Classes without an attack; -1 where there is none."""
    attacked: np.ndarray
    """Classes of the worst images that were found; -1 where there is none."""
    outcomes: dict[str, np.ndarray]
    """For each attack: STOOD, BROKEN, NOT_ASKED or SPARED."""
    disagree: np.ndarray
    """Images whose stored worst image scored differently when it was loaded again."""
    classes: tuple[str, ...] = ()
    """Their names, where they have any."""

    def called(self, label: int) -> str:
        """The name of a class; its number where it has none. No class is -1, of logits that are no numbers."""
        if label < 0:
            return NO_CLASS
        return self.classes[label] if label < len(self.classes) else str(label)

    @property
    def clean(self) -> np.ndarray:
        """Classified correctly without an attack."""
        return self.label == self.predicted


def gather(
    shards: Sequence[ShardResult],
    evaluation: EvaluationPlan,
    count: int,
    num_classes: int,
    disagree: Collection[int] = (),
) -> Evidence:
    """What the shards found, image by image.

    ``count`` is the number of images; ``disagree`` are the positions of :meth:`ShardResult.disagreeing`. Raises
    :class:`RunError` unless every image was counted exactly once.
    """
    shards = sorted(shards, key=lambda shard: shard.position)
    positions = [position for shard in shards for position in shard.position]
    index = np.array([one for shard in shards for one in shard.index])
    if positions != list(range(count)) or len(set(index.tolist())) != count:
        raise RunError(f"the shards do not hold each of the {count} images exactly once; no result")
    return Evidence(
        shards=shards,
        evaluation=evaluation,
        num_classes=num_classes,
        index=index,
        label=np.array([one for shard in shards for one in shard.label]),
        predicted=np.array([one for shard in shards for one in shard.predicted]),
        attacked=np.array([one for shard in shards for one in shard.attacked]),
        outcomes={
            name: np.array([one for shard in shards for one in shard.outcomes[name]])
            for name in _names(shards, evaluation)
        },
        disagree=np.isin(np.arange(count), list(disagree)),
    )


def _names(shards: Sequence[ShardResult], evaluation: EvaluationPlan) -> list[str]:
    """The listed attacks, and the extra ones that all shards met; rounding only where it broke something."""
    listed = [attack.name for attack in evaluation.attacks]
    names = [*listed, *(name for name in EXTRA_ATTACKS if all(name in shard.outcomes for shard in shards))]
    idle = not any(shard.broke_alone(ROUNDED, listed) for shard in shards)
    return [name for name in names if name != ROUNDED or not idle]


def worst_case(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """(which images every attack was asked for, which of all images stood under all that were): bool ``[n]``."""
    outcomes = np.stack(list(evidence.outcomes.values()))
    return (outcomes != NOT_ASKED).all(axis=0), evidence.clean & (outcomes != BROKEN).all(axis=0)


def epsilon_curve(shards: Sequence[ShardResult]) -> list[tuple[float, float, int]]:
    """(epsilon, accuracy under PGD-40, images) of the probed images, by growing epsilon."""
    counts: dict[float, tuple[int, int]] = {}
    for shard in shards:
        for epsilon, stood, tried in shard.probes.epsilon_curve:
            before = counts.get(epsilon, (0, 0))
            counts[epsilon] = before[0] + stood, before[1] + tried
    return [(epsilon, stood / tried, tried) for epsilon, (stood, tried) in sorted(counts.items())]

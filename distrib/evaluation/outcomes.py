"""What happened to the images of one shard: the outcome of each image under each attack, and all that was measured."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field

from distrib.evaluation.probes import Probes

STOOD, BROKEN, NOT_ASKED, SPARED = 1, 0, -1, -2
"""Outcomes of an image under an attack. BROKEN: misclassified, also where it was so without an attack. NOT_ASKED: the
attack's ``n`` leaves it out. SPARED: an earlier attack had broken it, and this one meets only what still stands."""

ROUNDED, ON_LEVELS, SMOOTH_COPY, ESTIMATE = "rounded", "pgd-40-on-8-bits", "smooth-copy", "gradient-estimate"
EXTRA_ATTACKS = (ROUNDED, ON_LEVELS, SMOOTH_COPY, ESTIMATE)
"""Attacks that no job lists, on the images that still stand: the worst images rounded to 8 bits, which every evaluation
tries, and those of :mod:`distrib.evaluation.harder`."""


@dataclass(frozen=True)
class ShardResult:
    """What happened to the images of one shard; each list has an entry for each image, unless it says otherwise."""

    position: list[int]
    """Each image's place in the evaluation's own order."""
    index: list[int]
    """Each image's place in the test split."""
    label: list[int]
    predicted: list[int]
    """The class of the image without an attack; -1 where it has none."""
    outcomes: dict[str, list[int]]
    """For each attack: STOOD, BROKEN, NOT_ASKED or SPARED."""
    worst: list[str]
    """The attack that found the stored image: the one with the lowest margin; "" where there is none."""
    attacked: list[int]
    """The class of the stored image; -1 where it has none."""
    parts: list[str]
    """The parts of AutoAttack that could be run, in their order; none where it was not asked for."""
    stage: list[str]
    """The part of AutoAttack that broke the image; "" where none did."""
    starts: dict[str, list[int]]
    """For each attack with restarts: how many images it had broken after each start."""
    largest_change: dict[str, float]
    """For each attack: the largest perturbation, measured on the float32 tensors under the threat's norm."""
    seconds: dict[str, float]
    """For each attack: how long it took."""
    probes: Probes
    lost: list[bool]
    """The image, or what an attack made of it, has no prediction: logits are NaN, or the largest is infinite."""
    infinite: list[bool]
    """The image, or what an attack made of it, has an infinite logit."""
    projected: dict[str, int] = field(default_factory=dict)
    """For attacks by the authors' package: how many of their images lay outside the threat by float rounding. They were
    projected onto it, and scored as they then are."""

    @classmethod
    def of_json(cls, plain: dict) -> "ShardResult":
        """The result that :meth:`as_json` gave."""
        plain = {"attacked": plain["predicted"], **plain}  # one of before this was kept
        return cls(outcomes=plain.pop("fate"), probes=Probes(**plain.pop("probes")), **plain)

    def as_json(self) -> dict:
        """Plain values. The outcomes keep the name that they have in files: ``fate``."""
        plain = asdict(self)
        return {"fate" if name == "outcomes" else name: value for name, value in plain.items()}

    @property
    def clean(self) -> list[bool]:
        """Classified correctly without an attack."""
        return [label == predicted for label, predicted in zip(self.label, self.predicted, strict=True)]

    @property
    def broken(self) -> list[bool]:
        """Misclassified without an attack, or by what an attack found."""
        return [not hit or any(one[i] == BROKEN for one in self.outcomes.values()) for i, hit in enumerate(self.clean)]

    def broke_alone(self, name: str, others: Collection[str]) -> int:
        """How many images ``name`` broke that none of the ``others`` did."""
        return sum(
            hit and outcome == BROKEN and all(self.outcomes[other][i] != BROKEN for other in others)
            for i, (hit, outcome) in enumerate(zip(self.clean, self.outcomes.get(name, ()), strict=False))
        )

    def disagreeing(self, margins: list[float]) -> list[int]:
        """The positions of the images whose stored worst image scores differently when it is loaded again.

        ``margins`` are those of the stored images: positive where they are classified correctly. Differences that float
        rounding explains do not count.
        """
        slack = 1e-4 * self.probes.spread
        scored = zip(self.position, self.broken, margins, strict=True)
        return [position for position, broken, margin in scored if (margin > slack if broken else margin < -slack)]

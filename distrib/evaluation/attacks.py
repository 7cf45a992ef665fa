"""What an evaluation runs: attacks configured apart from training, over one threat.

A tier is a list of attacks with a name. ``quick`` is for work in progress; ``paper`` is the table of Madry et al.;
``standard`` is what a robustness figure needs today; ``paranoid`` looks for what the standard may have missed.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from distrib.attack import FGSM, PGD, OfEpsilon
from distrib.threat import Threat
from distrib.values import Count, Seed, Value

Tier = Literal["quick", "paper", "standard", "paranoid"]


class _Attack(Value):
    """What all attacks of an evaluation can be told."""

    n: Count | None = None
    """Attack only the first so many of the evaluated images; the worst case is then of those images alone."""
    meets: Literal["all", "standing"] = "all"
    """standing: skip the images that an earlier attack of the list broke; the accuracy is then that after both."""


class Fgsm(_Attack):
    """One step of length epsilon from the image itself."""

    attack: Literal["fgsm"]

    @property
    def name(self) -> str:
        """In tables."""
        return "fgsm"

    @property
    def pgd(self) -> PGD:
        """The attack itself."""
        return FGSM


class _Climb(PGD, _Attack):
    """The attack of a training, in an evaluation: on the judged model or on another."""

    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,30}$")] | None = None
    """Stands behind its name in tables, where two would else have one: pgd-20-LABEL."""

    @model_validator(mode="after")
    def _each_alone(self) -> "_Climb":
        if self.batch_norm == "train":
            raise ValueError("batch_norm: an evaluation judges each image by itself; leave it out")
        return self


class Pgd(_Climb):
    """PGD; the final iterate counts, the worst of the restarts. Its fields are those of a training's attack."""

    attack: Literal["pgd"]

    @property
    def name(self) -> str:
        """In tables: pgd-20, pgd-20-LABEL."""
        return _labelled(super().name, self.label)

    @property
    def pgd(self) -> PGD:
        """The attack itself."""
        return self


class Transfer(_Climb):
    """The images that PGD finds on another model, the source: an attack that sees nothing of the judged one."""

    attack: Literal["transfer"]
    source: Annotated[str, Field(min_length=1)]
    """models:/NAME/VERSION, models:/NAME@ALIAS, a checkpoint folder, an MLflow model folder or a .pt2 file."""
    num_steps: Count = 40
    """Steps on the source; 1 is FGSM."""

    @property
    def pgd(self) -> PGD:
        """The attack on the source. One step is FGSM, as in the paper's tables."""
        return FGSM if self.num_steps == 1 else PGD(**{name: getattr(self, name) for name in PGD.model_fields})

    @property
    def name(self) -> str:
        """In tables: transfer-mnist-b-1-pgd-40, transfer-robust-epoch-00014-3f9a1c-pgd-40."""
        return _labelled(f"transfer-{_slug(self.source)}-{self.pgd.name}", self.label)


class Square(_Attack):
    """Square Attack (Andriushchenko et al., arXiv 1912.00049), by random search; the model's gradient is not used."""

    attack: Literal["square"]
    queries: Count = 5000
    """Forward passes for each image."""

    @property
    def name(self) -> str:
        """In tables."""
        return f"square-{self.queries}"


class RandomNoise(_Attack):
    """Uniform draws from the ball, the worst of them: a control. What it breaks, a gradient must break too."""

    attack: Literal["noise"]
    draws: Count = 100
    """Draws for each image."""

    @property
    def name(self) -> str:
        """In tables."""
        return f"noise-{self.draws}"


class Stored(_Attack):
    """Images that others made: a folder as ``distrib export`` writes it. Checked against the threat, then scored."""

    attack: Literal["stored"]
    path: Annotated[str, Field(min_length=1)]
    """The folder with the images, as ``distrib export`` writes it."""

    @property
    def name(self) -> str:
        """In tables."""
        return f"stored-{_slug(self.path)}"


class AutoAttack(_Attack):
    """AutoAttack's standard version (Croce and Hein, arXiv 2003.01690), by its authors' package."""

    attack: Literal["autoattack"]

    @property
    def name(self) -> str:
        """In tables."""
        return "autoattack"


EvaluationAttack = Annotated[
    Fgsm | Pgd | AutoAttack | Square | RandomNoise | Transfer | Stored, Field(discriminator="attack")
]

WITHOUT_GRADIENT = (RandomNoise, Square, Transfer, Stored)
"""Attacks that do not use the judged model's gradient."""


def rough_passes(attack: EvaluationAttack) -> int:
    """About how often an attack asks the model of an image: enough to say how far a shard is."""
    match attack:
        case Pgd() | Transfer():
            return 2 * attack.pgd.num_steps * attack.pgd.restarts
        case Square():
            return attack.queries
        case RandomNoise():
            return attack.draws
        case AutoAttack():
            return 5000
        case _:
            return 2


def _labelled(name: str, label: str | None) -> str:
    return f"{name}-{label}" if label else name


def _slug(text: str) -> str:
    """The end of an address as one word: models:/mnist/3 -> mnist-3; a path's with a mark, for ends are often alike."""
    parts = PurePath(text.removeprefix("models:/")).parts[-2:]
    mark = [] if text.startswith("models:/") else [hashlib.sha256(text.encode()).hexdigest()[:6]]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join([*parts, *mark])).strip("-")


QUICK = (Fgsm(attack="fgsm"), Pgd(attack="pgd", num_steps=20))


def _paper(grey: bool) -> tuple[EvaluationAttack, ...]:
    """Tables 1 (MNIST) and 2 (CIFAR-10) of the paper; step sizes 0.01 at epsilon 0.3, and 2 at epsilon 8.

    Table 1 has a targeted row and does not say which class it climbs towards: a random one, and the worst of all.
    """

    def pgd(num_steps: int, **fields) -> Pgd:
        step_size = OfEpsilon(of_epsilon=1 / 30 if grey else 1 / 4)
        return Pgd(attack="pgd", num_steps=num_steps, step_size=step_size, **fields)

    if grey:
        return (
            Fgsm(attack="fgsm"), pgd(40), pgd(100), pgd(40, restarts=20), pgd(100, restarts=20),
            pgd(40, target="random"), pgd(40, target="all"),
            pgd(40, loss="cw_margin"), pgd(40, loss="cw_margin", kappa=50.0),
        )  # fmt: skip
    return (Fgsm(attack="fgsm"), pgd(7), pgd(20), pgd(30, loss="cw_margin"))


def once(attacks: Sequence[EvaluationAttack]) -> None:
    """Raises ValueError where two have one name: figures are kept by it, and it leaves out the step size."""
    names = [attack.name for attack in attacks]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"the attack {min(twice)} is listed twice; leave one out, or tell them apart by a label")


def attacks_of(tier: Tier, grey: bool, sources: Sequence[str] = ()) -> tuple[EvaluationAttack, ...]:
    """The attacks of a tier; ``grey`` (images of one channel) chooses between the paper's two tables."""
    standard = (*QUICK, AutoAttack(attack="autoattack", meets="standing"))
    match tier:
        case "quick":
            return QUICK
        case "paper":
            return _paper(grey)
        case "standard":
            return standard
        case "paranoid":
            return (
                *QUICK,
                Pgd(attack="pgd", num_steps=40),
                RandomNoise(attack="noise"),
                *(Transfer(attack="transfer", source=source) for source in sources),
                # They meet what AutoAttack breaks too: else twice the steps or restarts would never find more
                Pgd(attack="pgd", num_steps=100, restarts=20),
                Pgd(attack="pgd", num_steps=200),
                AutoAttack(attack="autoattack", meets="standing"),
            )


def tier_of(attacks: Sequence[EvaluationAttack], threat: Threat) -> Tier | Literal["custom"]:
    """The highest tier whose attacks are all among these, step sizes included; transfer from other models apart."""

    def strengths(of: Sequence[EvaluationAttack]) -> set[tuple]:
        return {(one.name, *_way(one, threat)) for one in of}

    for tier in ("paranoid", "standard", "paper", "quick"):
        if any(strengths(attacks) >= strengths(attacks_of(tier, grey)) for grey in (True, False)):
            return tier
    return "custom"


def _way(attack: EvaluationAttack, threat: Threat) -> tuple:
    """What the name of an attack leaves out."""
    if not isinstance(attack, Pgd):
        return ()
    (_, length), *_ = attack.path(threat)
    return round(length, 9), attack.step_schedule, attack.random_start


class EvaluationPlan(Value):
    """How a model is judged, with nothing left open: what the evaluation that a job asks for comes to."""

    threat: Threat
    """What the adversary may do: S."""
    attacks: tuple[EvaluationAttack, ...]
    """In their order."""
    n: Count | None = None
    """How many images of the test split, drawn with the seed below; None: all."""
    seed: Seed = 0
    """Draws the images and the attacks' random numbers."""
    batch_size: Count = 250
    """Images that go through the network at a time."""
    shard_size: Count = 250
    """Images that one task attacks at a time; the unit of distribution and of resuming."""

    def identity(self, contents: dict[str, str]) -> str:
        """The sha256 of the attacks, settings included, in any order: what two figures must share to be compared.

        ``contents`` are the hashes of the models and sets that attacks take images from, by address. A step
        counts as a share of epsilon: 8/255 and 0.0313725 are one threat, and give one hash.
        """
        found = []
        for attack in self.attacks:
            plain = attack.model_dump(mode="json", exclude_defaults=True, exclude={"meets", "step_size"})
            plain |= {key: contents[plain[key]] for key in ("source", "path") if key in plain}
            if isinstance(attack, Pgd):
                plain["num_steps"] = attack.num_steps  # also where it is the default: cards of 0.1 had none
            if isinstance(attack, Pgd | Transfer):
                size, _ = attack.pgd.stride(self.threat)
                share = size.of_epsilon if isinstance(size, OfEpsilon) else size / (self.threat.epsilon or 1.0)
                plain["step"] = f"{share:.5g}"
            found.append(json.dumps(plain, sort_keys=True))
        return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()


class Evaluation(Value):
    """How a model is judged: the threat, the attacks, the images.

    This is what a job asks for; :meth:`plan` fills in what is left open.
    """

    threat: Threat | None = None
    """What the adversary may do; None, in a train job: the threat that it trains against."""
    tier: Tier | None = None
    """A named list of attacks: quick, paper, standard, paranoid; None: standard, unless attacks are given."""
    attacks: tuple[EvaluationAttack, ...] = ()
    """The attacks, in their order, in place of a tier's; if left out: those of the tier."""
    sources: tuple[str, ...] = ()
    """Models that the tier paranoid transfers from."""
    n: Count | None = None
    """How many images of the test split, drawn with the seed below; None: all."""
    seed: Seed = 0
    """Draws the images and the attacks' random numbers."""
    batch_size: Count = 250
    """Images that go through the network at a time."""
    shard_size: Count = 250
    """Images that one task attacks at a time; the unit of distribution and of resuming."""

    @model_validator(mode="after")
    def _distinct(self) -> "Evaluation":
        if self.tier and self.attacks:
            raise ValueError("tier and attacks exclude each other; leave one of them out")
        if self.sources and self.tier != "paranoid":
            raise ValueError("sources belong to tier: paranoid; list attacks of the kind transfer otherwise")
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("sources: one of them is listed twice")
        once(self.attacks or attacks_of(self.tier or "standard", True, self.sources))
        return self

    def plan(self, threat: Threat | None, grey: bool) -> EvaluationPlan:
        """What is asked for, with the attacks of its tier, and ``threat`` where it names none.

        ``grey`` says that the images have one channel. Raises ValueError where there is no threat.
        """
        whole = self.threat or threat
        if whole is None:
            raise ValueError("evaluation.threat: is missing; say what the adversary may do")
        attacks = self.attacks or attacks_of(self.tier or "standard", grey, self.sources)
        return EvaluationPlan(
            threat=whole, attacks=attacks, n=self.n, seed=self.seed, batch_size=self.batch_size,
            shard_size=self.shard_size,
        )  # fmt: skip

    def resolved(self, threat: Threat | None, grey: bool) -> "Evaluation":
        """The same evaluation with its threat and its attacks written out, as a job's record holds it."""
        plan = self.plan(threat, grey)
        return self.model_copy(update={"threat": plan.threat, "attacks": plan.attacks, "tier": None, "sources": ()})

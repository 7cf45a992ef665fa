"""What each study is told."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from distrib.attack import PGD, Adversary, OfEpsilon
from distrib.data.augment import Augment
from distrib.evaluation.attacks import Fgsm, Pgd, once
from distrib.models import Model
from distrib.optim import Optim
from distrib.threat import Norm, Threat
from distrib.values import Count, PixelRadius, Radius, Seed, Value


class Labelled(Value):
    """A model, and what it is called in tables and plots."""

    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,30}$")]
    """What the model is called in tables, plots and the names of files."""
    model: str
    """models:/NAME/VERSION, models:/NAME@ALIAS, a checkpoint folder, an MLflow model folder or a .pt2 file."""


def _once(models: tuple[Labelled, ...]) -> tuple[Labelled, ...]:
    labels = [one.label for one in models]
    if len(set(labels)) < len(labels):
        raise ValueError(f"the label {max(labels, key=labels.count)!r} is given twice")
    return models


Models = Annotated[tuple[Labelled, ...], Field(min_length=1), AfterValidator(_once)]
"""Models, each with a label of its own."""


def addresses(models: tuple[Labelled, ...]) -> dict[str, str]:
    """Each model's address by its label."""
    return {one.label: one.model for one in models}


class LandscapeStudy(Value):
    """The loss over many random restarts of PGD (section 5, Figures 1 and 2, and the appendix)."""

    of: Literal["landscape"]
    models: Models
    """The models whose loss is looked at."""
    threat: Threat
    """What the adversary may do."""
    attack: PGD = PGD(num_steps=100, step_size=OfEpsilon(of_epsilon=1 / 30))
    """One restart: num_steps, step_size and step_schedule; it climbs the cross-entropy from a random start."""
    examples: Count = 5
    """How many test images are looked at, drawn with the seed."""
    restarts: Annotated[int, Field(ge=20)] = 1000
    """How many random restarts each image gets."""
    trajectories: Count = 20
    """Restarts whose loss is kept at every step."""
    maxima: Annotated[int, Field(ge=2, le=1000)] = 100
    """Restarts whose end points are compared: distances, angles, the loss between them."""
    chunk: Annotated[int, Field(ge=20)] = 500
    """Restarts that one task runs at a time."""
    seed: Seed = 0
    """Draws the images and the restarts."""

    @model_validator(mode="after")
    def _fits(self) -> "LandscapeStudy":
        if max(self.trajectories, self.maxima) > min(self.chunk, self.restarts):
            raise ValueError("trajectories and maxima are of the first chunk: neither may be above chunk or restarts")
        plain = PGD(num_steps=self.attack.num_steps, step_size=self.attack.step_size)
        if self.attack.model_copy(update={"step_schedule": "constant"}) != plain:
            raise ValueError("attack: a landscape is told num_steps, step_size and step_schedule; leave the rest out")
        return self

    @property
    def adversary(self) -> Adversary:
        """Who climbs, at every restart."""
        return Adversary(self.threat, self.attack)


class CurvesStudy(Value):
    """Accuracy against epsilon, in several norms, by PGD and by an attack without gradients (Figure 6)."""

    of: Literal["curves"]
    models: Models
    """The models; each gets a curve."""
    linf: tuple[PixelRadius, ...] = ()
    """The epsilons at which accuracy is measured in the maximum norm."""
    l2: tuple[Radius, ...] = ()
    """The epsilons at which accuracy is measured in the Euclidean norm."""
    l1: tuple[Radius, ...] = ()
    """The epsilons at which accuracy is measured in the norm that adds up all changes."""
    num_steps: Count = 40
    """Steps of PGD."""
    queries: Count = 500
    """Forward passes of Square Attack, which uses no gradient: where it breaks more than PGD, PGD is misled."""
    n: Count = 500
    """How many test images, drawn with the seed."""
    shard_size: Count = 250
    """Images that one task attacks at a time."""
    seed: Seed = 0
    """Draws the images and the attacks' random numbers."""

    @model_validator(mode="after")
    def _some(self) -> "CurvesStudy":
        if not self.points:
            raise ValueError("linf, l2 or l1: give at least one of them some epsilons")
        if len(set(self.points)) < len(self.points):
            raise ValueError("linf, l2, l1: an epsilon is listed twice")
        return self

    @property
    def points(self) -> list[tuple[Norm, float]]:
        """Every norm with every one of its epsilons."""
        by_norm: dict[Norm, tuple[float, ...]] = {"linf": self.linf, "l2": self.l2, "l1": self.l1}
        return [(norm, epsilon) for norm, epsilons in by_norm.items() for epsilon in epsilons]


class TransferStudy(Value):
    """Every source against every target: the black-box protocol of Tables 1 to 4."""

    of: Literal["transfer"]
    sources: Models
    """The models that images are made on."""
    targets: Models
    """The models that those images are shown to."""
    threat: Threat
    """What the adversary may do."""
    attacks: Annotated[tuple[Annotated[Fgsm | Pgd, Field(discriminator="attack")], ...], Field(min_length=1)] = (
        Fgsm(attack="fgsm"),
        Pgd(attack="pgd", num_steps=40, step_size=OfEpsilon(of_epsilon=1 / 30)),
        Pgd(attack="pgd", num_steps=40, step_size=OfEpsilon(of_epsilon=1 / 30), loss="cw_margin"),
    )
    """What makes the images on each source."""
    n: Count | None = None
    """How many test images, drawn with the seed; None: all."""
    shard_size: Count = 250
    """Images that one task attacks at a time."""
    seed: Seed = 0
    """Draws the images and the attacks' random numbers."""

    @model_validator(mode="after")
    def _whole(self) -> "TransferStudy":
        once(self.attacks)
        if any(attack.n is not None or attack.meets != "all" for attack in self.attacks):
            raise ValueError("attacks: each meets every image here; leave out their n and meets, and set the study's n")
        return self


CapacityMethod = Literal["natural", "fgsm", "pgd"]


class CapacityStudy(Value):
    """Width against the adversary that was trained on (section 4, Figure 4)."""

    of: Literal["capacity"]
    model: Model
    """Its width is replaced by each of widths."""
    widths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    """One network for each, as factors on the model's channels."""
    methods: Annotated[tuple[CapacityMethod, ...], Field(min_length=1)] = ("natural", "fgsm", "pgd")
    """How each network is trained: without an adversary, against FGSM, against the attack."""
    threat: Threat
    """What the adversary may do."""
    attack: PGD = PGD()
    """Trained against by the method pgd, and evaluated with; FGSM over the same threat is the other adversary."""
    epsilon_warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which epsilon rises linearly from 0 to its value."""
    optim: Optim
    """The optimiser, how long it runs, and how fast; the same for all."""
    augment: Augment = Augment()
    """How training images are varied."""
    n: Count | None = None
    """How many test images are judged; None: all."""
    shard_size: Count = 500
    """Images that one task attacks at a time."""
    seed: Seed = 0
    """Draws the first weights, the order of the images and the attacks' random numbers."""

    @model_validator(mode="after")
    def _whole(self) -> "CapacityStudy":
        if len(set(self.widths)) < len(self.widths) or len(set(self.methods)) < len(self.methods):
            raise ValueError("widths and methods: one of them is listed twice")
        if self.epsilon_warmup_epochs >= self.optim.epochs:
            raise ValueError("epsilon_warmup_epochs: not fewer than optim.epochs; epsilon would never be full")
        return self


StudyOf = Annotated[LandscapeStudy | CapacityStudy | CurvesStudy | TransferStudy, Field(discriminator="of")]
"""One of the studies."""

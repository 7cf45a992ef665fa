"""What an evaluation runs: attacks configured apart from training, over one threat."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distrib.attack import PGD, OfEpsilon, fgsm
from distrib.threat import Threat
from distrib.values import Radius, Value

Count = Annotated[int, Field(ge=1)]


class Fgsm(Value):
    """One step of length epsilon from the image itself."""

    attack: Literal["fgsm"]
    n: Count | None = None
    """Attack only the first so many of the evaluated images."""

    def resolve(self, threat: Threat) -> PGD:
        """The attack over this threat."""
        return fgsm(threat)


class Pgd(Value):
    """PGD with a random start; the final iterate counts, the worst of the restarts."""

    attack: Literal["pgd"]
    num_steps: Count
    step_size: Radius | OfEpsilon | None = None
    """None: 2.5 epsilon / num_steps, so that every point of the ball can be reached."""
    restarts: Count = 1
    loss: Literal["cross_entropy", "cw_margin"] = "cross_entropy"
    kappa: Annotated[float, Field(ge=0)] = 0.0
    target: Literal["none", "random", "least_likely"] = "none"
    n: Count | None = None
    """Attack only the first so many of the evaluated images."""

    def resolve(self, threat: Threat) -> PGD:
        """The attack over this threat."""
        return PGD(
            threat=threat,
            num_steps=self.num_steps,
            step_size=OfEpsilon(of_epsilon=2.5 / self.num_steps) if self.step_size is None else self.step_size,
            restarts=self.restarts,
            loss=self.loss,
            kappa=self.kappa,
            target=self.target,
        )


class AutoAttack(Value):
    """AutoAttack's standard version (Croce and Hein, arXiv 2003.01690), by its authors' package."""

    attack: Literal["autoattack"]
    n: Count | None = None
    """Attack only the first so many of the evaluated images."""


EvaluationAttack = Annotated[Fgsm | Pgd | AutoAttack, Field(discriminator="attack")]


class Evaluation(Value):
    """How a model is judged."""

    threat: Threat | None = None
    """None, in a train job: the threat that it trains against."""
    attacks: Annotated[tuple[EvaluationAttack, ...], Field(min_length=1)] = (
        Fgsm(attack="fgsm"),
        Pgd(attack="pgd", num_steps=20),
        AutoAttack(attack="autoattack"),
    )
    n: Count | None = None
    """How many images of the test split, drawn with the seed below; None: all."""
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 250
    shard_size: Count = 250
    """Images that one task attacks at a time; the unit of distribution and of resuming."""

    @model_validator(mode="after")
    def _distinct(self) -> "Evaluation":
        names = [name_of(attack) for attack in self.attacks]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"the attack {min(twice)} is listed twice")
        return self


def name_of(attack: EvaluationAttack) -> str:
    """The name of an attack in tables: fgsm, pgd-20, pgd-100x20, cw-30, autoattack."""
    if isinstance(attack, AutoAttack):
        return "autoattack"
    from distrib.threat import Linf

    return attack.resolve(Linf(epsilon=0)).name

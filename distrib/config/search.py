"""What a search is told: which fields vary, how they are chosen, what is early stopped, and what counts as better."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from distrib.attack import PGD, Adversary
from distrib.threat import Threat
from distrib.values import FRACTION, Count, Seed, Value, parse_fraction

FieldPath = Annotated[str, Field(pattern=r"^[a-z_0-9]+(\.[a-z_0-9]+)*$")]
"""A field of the train job: objective.threat.epsilon, model.width."""
Number = Annotated[float, BeforeValidator(parse_fraction), WithJsonSchema({"anyOf": [{"type": "number"}, FRACTION]})]
"""0.3 or 8/255."""
Setting = bool | int | float | str | dict
"""What a field may be set to, as a job file would write it: also a whole mapping, such as a model."""
# A list of JSON has become one of Python when a domain is told from the others by its keys: not strict
Listed = Annotated[tuple[Setting, ...], Field(min_length=1, strict=False)]
Pair = Annotated[tuple[Number, Number], Field(strict=False)]


class Grid(Value):
    """Every one of these, with every one of the other grids."""

    grid: Listed
    """The values to choose from."""


class Choice(Value):
    """One of these, each as likely as the others."""

    choice: Listed
    """The values to choose from."""


class _Range(Value):
    """What the ranges of numbers share."""

    step: Annotated[float, Field(gt=0)] | None = None
    """Only low + a multiple of this; None: any number between."""
    divided_by: FieldPath | None = None
    """The number is divided by this field of the same trial, after it was drawn.

    ``objective.attack.step_size.of_epsilon: {uniform: [1, 2.5], divided_by: objective.attack.num_steps}`` keeps the
    step between epsilon/num_steps and 2.5 epsilon/num_steps, whatever the number of steps.
    """

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _ordered(self) -> "_Range":
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"{low:g} is not below {high:g}")
        if self.step is not None and self.step > high - low:
            raise ValueError(f"step: {self.step:g} is wider than the range from {low:g} to {high:g}")
        return self


class Uniform(_Range):
    """A number between two, all alike."""

    uniform: Pair
    """[low, high]"""

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number."""
        return self.uniform


class LogUniform(_Range):
    """A number between two, all orders of magnitude alike."""

    loguniform: Pair
    """[low, high], low above 0."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number."""
        return self.loguniform

    @model_validator(mode="after")
    def _positive(self) -> "LogUniform":
        if self.loguniform[0] <= 0:
            raise ValueError("loguniform begins above 0; uniform may begin at 0")
        return self


class Integers(Value):
    """A whole number between two, both included."""

    integers: Annotated[tuple[int, int], Field(strict=False)]
    """[low, high]"""
    step: Count = 1
    """Only low + a multiple of this."""

    @model_validator(mode="after")
    def _ordered(self) -> "Integers":
        low, high = self.integers
        if low >= high:
            raise ValueError(f"{low} is not below {high}")
        return self


KINDS = {"grid": Grid, "choice": Choice, "uniform": Uniform, "loguniform": LogUniform, "integers": Integers}


def _kind(value: object) -> str | None:
    """The name of the domain's class, which is its tag."""
    if isinstance(value, Value):
        return type(value).__name__
    return next((one.__name__ for kind, one in KINDS.items() if isinstance(value, dict) and kind in value), None)


def _known(value: object) -> object:
    if _kind(value) is None:
        raise ValueError(f"expected a domain, a mapping with one of {', '.join(KINDS)}, not {value!r}")
    return value


Domain = Annotated[
    Annotated[Grid, Tag("Grid")]
    | Annotated[Choice, Tag("Choice")]
    | Annotated[Uniform, Tag("Uniform")]
    | Annotated[LogUniform, Tag("LogUniform")]
    | Annotated[Integers, Tag("Integers")],
    Discriminator(_kind),
    BeforeValidator(_known),
]
Space = Annotated[dict[FieldPath, Domain], Field(min_length=1)]
"""What varies: a domain for each field."""


class Draw(Value):
    """Grids crossed, everything else drawn at random: all trials are known before the first one starts."""

    method: Literal["random"]
    num_trials: Count
    """How many trials; of each combination, where there are grids."""
    seed: Seed = 0
    """Draws the settings of all trials."""


class Cross(Value):
    """Every combination of the grids."""

    method: Literal["grid"]


class Optuna(Value):
    """Optuna's TPE (one objective) or NSGA-II (several): each trial is chosen in the light of those before it."""

    method: Literal["optuna"]
    num_trials: Count
    """How many trials in all."""
    random_trials: Count = 10
    """How many of the first trials are drawn at random, before it begins to learn."""
    seed: Seed = 0
    """Seeds Optuna's own random numbers."""


SearchMethod = Annotated[Draw | Cross | Optuna, Field(discriminator="method")]


class Asha(Value):
    """Asynchronous successive halving (Li et al., arXiv 1810.05934).

    At each rung (grace_epochs, times reduction_factor, and so on) a trial goes on if its score is among the best
    1/reduction_factor of the trials that have reached that rung so far. Every decision is kept in rungs.csv.
    """

    stop: Literal["asha"]
    grace_epochs: Count
    """No trial is stopped before this epoch; at least as long as every warm-up."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """One in so many trials goes on at each rung; the next rung comes after so many times the epochs."""


class Median(Value):
    """A trial is stopped where its best score so far is below the median of the others' running means."""

    stop: Literal["median"]
    grace_epochs: Count
    """No trial is stopped before this epoch; at least as long as every warm-up."""
    min_trials: Count = 3
    """How many other trials must have come as far before one is stopped."""


class Never(Value):
    """Every trial runs to its end."""

    stop: Literal["never"]


Stopping = Annotated[Asha | Median | Never, Field(discriminator="stop")]
ScoreObjective = Literal["robust", "clean", "cost"]


class Score(Value):
    """What makes a trial better: one adversary, the same for all of them, whatever they trained against.

    It is measured on the validation images at the end of every epoch; a trial is worth its best epoch.
    """

    threat: Threat
    """What the adversary may do. Fixed: were each trial judged at its own epsilon, the smallest epsilon would win."""
    attack: PGD = PGD()
    """How it looks for the worst image; if left out: PGD-10, whatever a trial trains with."""
    max_examples: Count = 1000
    """How many of the held-out images, drawn with the seed: the same ones for every trial and epoch."""
    min_clean_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.0
    """An epoch below it does not count; a trial in which none counts ranks behind all others."""
    objectives: Annotated[tuple[ScoreObjective, ...], Field(min_length=1)] = ("robust",)
    """robust and clean accuracy are to be high; cost, the core- or GPU-hours of training, is to be low."""

    @model_validator(mode="after")
    def _useful(self) -> "Score":
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: one of them is listed twice")
        if "robust" not in self.objectives:
            raise ValueError("objectives: robust is missing; it is what a search here is for")
        if self.min_clean_accuracy and self.objectives != ("robust",):
            raise ValueError("min_clean_accuracy belongs to objectives: [robust]; list clean as an objective instead")
        return self

    @property
    def adversary(self) -> Adversary:
        """Who every trial meets."""
        return Adversary(self.threat, self.attack)


class Winner(Value):
    """The best trial, judged on the test split by train.evaluation and registered."""

    epochs: Count | None = None
    """Train its job anew for so many epochs first; None: it is taken as the search left it, trained to its end."""

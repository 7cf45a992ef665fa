"""A job: all the choices of one run, one frozen value; a file of it is read by :mod:`distrib.config.file`.

kind: prepare | train | evaluate | study | tune     a closed tagged union of frozen, strict values
"""

import hashlib
import json
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, model_validator

from distrib.attack import PGD, OfEpsilon
from distrib.config.cluster import Cluster, Tracking
from distrib.config.search import Cross, Grid, Never, Optuna, Score, SearchMethod, Space, Stopping, Winner
from distrib.config.study import CapacityStudy, StudyOf
from distrib.data.augment import Augment
from distrib.data.loader import LoaderName
from distrib.data.source import DataSource
from distrib.evaluation.attacks import Evaluation
from distrib.models import Model
from distrib.models.parts import check_parts
from distrib.objective import Natural, Objective
from distrib.optim import Optim
from distrib.precision import Precision
from distrib.values import Seed, Value

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""Letters, digits, dots, dashes and underscores: names folders, MLflow runs and Kubernetes objects alike."""


class Validation(Value):
    """How epochs are compared: robust accuracy on images held out from the train part; the best one is registered."""

    attack: PGD | None = None
    """None: PGD-10 with a step of epsilon/4, over the evaluation's threat. Where it names no step_size, that is
    epsilon/4 too; the evaluation's pgd has 2.5 epsilon / num_steps."""
    max_examples: Annotated[int, Field(ge=1)] = 1000
    """So many of the held-out images, drawn with the job's seed: the same ones at every epoch."""
    min_clean_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.0
    """An epoch below it is not the best one while there is one above it."""


class Prepare(Value):
    """Packs a data set, once."""

    kind: Literal["prepare"]
    data: DataSource
    """The data set."""
    loader: LoaderName = "auto"
    """The format that is packed: auto is FFCV's where it can be imported, else that of the in-memory loader."""


def grey(data: DataSource) -> bool:
    """Whether the images have one channel: the paper's tables differ (MNIST, CIFAR-10)."""
    return data.source in ("digits", "mnist") or getattr(data, "grey", False)


class Run(Value):
    """What every job has that leaves a run behind."""

    kind: str
    name: Name
    """Of the run: the same name again goes on where it was stopped."""
    storage: str = "runs"
    """The folder of checkpoints and results; on a cluster, one that every machine sees."""
    cluster: Cluster = Cluster()
    """Where the work runs, and on how many workers."""
    tracking: Tracking = Tracking()
    """Where the run is recorded."""


AnyRun = TypeVar("AnyRun", bound=Run)


class Training(Value):
    """What is trained, on what, and how."""

    seed: Seed = 0
    """Draws the first weights, the order of the images, the augmentation and the attacks' random starts."""
    data: DataSource
    """The data set, how it is cut, and where it is packed."""
    loader: LoaderName = "auto"
    """auto: FFCV where it can be imported, else memory. Both give identical batches."""
    augment: Augment = Augment()
    """How training images are varied."""
    model: Model
    """The network that is trained."""
    objective: Objective
    """What training descends: natural, or against an adversary."""
    optim: Optim
    """The optimiser, how long it runs, and how fast."""
    precision: Precision = "float32"
    """Of the forward pass in training. On GPUs float32 is as torch has it: convolutions in TF32 (10 of 23 bits), matrix
    products in float32; the run's tag ``distrib.precision`` says what was used. What is measured is always float32,
    without TF32."""
    evaluation: Evaluation = Evaluation()
    """How the trained model is judged on the test split."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """The last so many are kept, and the best one."""

    @model_validator(mode="after")
    def _warm(self) -> "Training":
        warmup = getattr(self.objective, "epsilon_warmup_epochs", 0.0)
        if warmup >= self.optim.epochs:
            raise ValueError(
                f"objective.epsilon_warmup_epochs: {warmup:g} of {self.optim.epochs} epochs: epsilon would never be "
                "trained against in full; lower it, or raise optim.epochs"
            )
        return self


class Train(Training, Run):
    """Trains a model, judges it on the test split, and registers it."""

    kind: Literal["train"]
    validation: Validation = Validation()
    """How epochs are compared, and the best one chosen."""
    compare_natural: bool = False
    """Also train the same model without an adversary, and show it under the same attacks."""
    register_as: Name | None = None
    """Of the registered model that gets a new version; None: the run's name."""

    @model_validator(mode="after")
    def _whole(self) -> "Train":
        if isinstance(self.objective, Natural) and self.evaluation.threat is None:
            raise ValueError("evaluation.threat: is missing; a natural objective has none that could be taken over")
        if isinstance(self.objective, Natural) and self.compare_natural:
            raise ValueError("compare_natural: this run is natural itself; leave it out")
        check_parts(self.model, self.optim.batch_size, self.cluster.max_workers)
        return self

    @property
    def model_name(self) -> str:
        """The registered model's name."""
        return self.register_as or self.name

    def resolved(self) -> "Train":
        """The same job with every default that depends on another field written out."""
        threat = self.evaluation.threat or self.objective.attack.threat  # pyright: ignore[reportAttributeAccessIssue]
        attack = self.validation.attack or PGD(threat=threat, num_steps=10, step_size=OfEpsilon(of_epsilon=0.25))
        return self.model_copy(
            update={
                "evaluation": self.evaluation.resolved(threat, grey(self.data)),
                "validation": self.validation.model_copy(update={"attack": attack}),
                "register_as": self.model_name,
            }
        )

    def natural_twin(self) -> "Train":
        """The same training without the adversary."""
        return self.model_copy(update={"objective": Natural(method="natural"), "compare_natural": False})


class Evaluate(Run):
    """Judges a model on the test split."""

    kind: Literal["evaluate"]
    model: str
    """models:/NAME/VERSION, models:/NAME@ALIAS, a checkpoint folder, an MLflow model folder, or a .pt2 file."""
    trust_pickle: bool = False
    """Load a model that runs whatever code is in it: a pickled one (.pt, .pth), or such a .pt2."""
    attach: bool = True
    """Give a registered version the card, and let it become champion if the card says so."""
    data: DataSource
    """The data set whose test split is judged on."""
    loader: LoaderName = "auto"
    """auto: FFCV where it can be imported, else memory. Both give identical images."""
    evaluation: Evaluation
    """The threat and the attacks that the model is judged by; threat must be given."""

    @model_validator(mode="after")
    def _whole(self) -> "Evaluate":
        if self.evaluation.threat is None:
            raise ValueError("evaluation.threat: is missing; say what the adversary may do")
        return self

    def resolved(self) -> "Evaluate":
        """The same job with the attacks of its tier written out."""
        assert self.evaluation.threat is not None
        evaluation = self.evaluation.resolved(self.evaluation.threat, grey(self.data))
        return self.model_copy(update={"evaluation": evaluation})


class Study(Run):
    """Carries out one of the paper's studies on the test split."""

    kind: Literal["study"]
    data: DataSource
    """The data set whose test split is studied."""
    loader: LoaderName = "auto"
    """auto: FFCV where it can be imported, else memory. Both give identical images."""
    study: StudyOf
    """Which study, and what it is told."""
    trust_pickle: bool = False
    """Load models that run whatever code is in them: pickled ones (.pt, .pth), or such .pt2."""

    @model_validator(mode="after")
    def _trainable(self) -> "Study":
        if isinstance(self.study, CapacityStudy):
            check_parts(self.study.model, self.study.optim.batch_size, self.cluster.max_workers)
        return self

    def resolved(self) -> "Study":
        """The job itself: nothing in it depends on another field."""
        return self


class Tune(Run):
    """Searches the space of a training's fields by Ray Tune; every trial is a distributed training of its own."""

    kind: Literal["tune"]
    train: Training
    """What every trial trains, but for the fields of the space."""
    space: Space
    """Which fields of train vary, and in which range."""
    search: SearchMethod
    """How the settings of the trials are chosen."""
    stopping: Stopping = Never(stop="never")
    """Which trials end early."""
    score: Score
    """What makes one trial better than another."""
    concurrent: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time, each with cluster.num_workers workers; None: as many as the cluster holds,
    with 1.25 GB of memory for each beside its workers."""
    budget_hours: Annotated[float, Field(gt=0)] | None = None
    """Core-hours (GPU-hours on GPUs) that the search may take; refused before it starts if it would take more."""
    winner: Winner | None = Winner()
    """What becomes of the best trial; null: nothing."""
    register_as: Name | None = None
    """Of the registered model that gets the winner as a new version; None: the run's name."""

    @model_validator(mode="after")
    def _whole(self) -> "Tune":
        if len(self.name) > 56:
            raise ValueError("name: at most 56 characters; those of the trials are longer by a number")
        if not isinstance(self.cluster.num_workers, int):
            raise ValueError("cluster.num_workers: trials have a fixed number of workers; give one number")
        grids = [path for path, domain in self.space.items() if isinstance(domain, Grid)]
        others = [path for path in self.space if path not in grids]
        if isinstance(self.search, Cross) and others:
            raise ValueError(f"space.{others[0]}: search method grid crosses grids; make it a grid, or draw at random")
        if isinstance(self.search, Optuna) and grids:
            raise ValueError(f"space.{grids[0]}: optuna chooses for itself; make it a choice")
        warmup = max(self.train.optim.warmup_epochs, getattr(self.train.objective, "epsilon_warmup_epochs", 0.0))
        if self.winner is not None and self.winner.epochs is not None and self.winner.epochs <= warmup:
            raise ValueError(f"winner.epochs: {self.winner.epochs}, and the warm-up alone lasts {warmup:g}; raise it")
        if len(self.score.objectives) > 1 and not isinstance(self.stopping, Never):
            raise ValueError("stopping: with several objectives no trial is behind all others; use stop: never")
        if not isinstance(self.stopping, Never):
            if "optim.epochs" in self.space:
                raise ValueError("space.optim.epochs: trials of unlike length are at unlike places of their learning "
                                 "rate at every rung; use stop: never, or leave optim.epochs out")  # fmt: skip
            if self.stopping.grace_epochs >= self.train.optim.epochs:
                raise ValueError(
                    f"stopping.grace_epochs: {self.stopping.grace_epochs} of {self.train.optim.epochs} epochs: "
                    "nothing would ever be stopped; lower it"
                )
        return self

    @property
    def model_name(self) -> str:
        """The registered model's name."""
        return self.register_as or self.name

    def resolved(self) -> "Tune":
        """The same job with its evaluation written out: over the score's threat, if it names none."""
        evaluation = self.train.evaluation.resolved(self.score.attack.threat, grey(self.train.data))
        return self.model_copy(
            update={
                "train": self.train.model_copy(update={"evaluation": evaluation}),
                "register_as": self.model_name,
            }
        )

    def trial(self, name: str, training: Training, storage: str) -> Train:
        """The train job of one trial (or of the winner)."""
        return Train(
            kind="train",
            name=name,
            storage=storage,
            cluster=self.cluster,
            tracking=self.tracking,
            validation=Validation(
                attack=self.score.attack,
                max_examples=self.score.max_examples,
                min_clean_accuracy=self.score.min_clean_accuracy,
            ),
            register_as=self.model_name,
            **{field: getattr(training, field) for field in Training.model_fields},
        ).resolved()


AnyJob = Prepare | Train | Evaluate | Study | Tune
Job = Annotated[AnyJob, Field(discriminator="kind")]
JOB: TypeAdapter[AnyJob] = TypeAdapter(Job)

PLACEMENT = {"cluster", "tracking", "storage", "loader", "keep_checkpoints", "concurrent", "budget_hours"}
"""Fields that say where and how a job runs, not what it computes: they may change between a run and its resumption."""
DATA_PLACEMENT = {"root", "store", "download"}
"""The same of its data: a named set may lie anywhere, its content is compared. A folder's root says which images."""


def dump(job: Value) -> dict:
    """The job as plain JSON values."""
    return job.model_dump(mode="json")


def digest(job: Value) -> str:
    """The sha256 of the whole job: its identity in records."""
    return hashlib.sha256(json.dumps(dump(job), sort_keys=True).encode()).hexdigest()


def differences(job: Value, other: dict) -> list[str]:
    """What of ``other`` (a dumped job) would give another result than ``job``: lines "optim.epochs: 3, not 5"."""
    return _differences(_what(dump(job)), _what(other), "")


def _what(job: dict) -> dict:
    """Of a dumped job: what its result depends on."""
    kept = {key: value for key, value in job.items() if key not in PLACEMENT}
    if isinstance(data := kept.get("data"), dict):
        free = DATA_PLACEMENT - {"root"} if data.get("source") == "folder" else DATA_PLACEMENT
        kept["data"] = {key: value for key, value in data.items() if key not in free}
    if isinstance(training := kept.get("train"), dict):  # of a search
        kept["train"] = _what(training)
    return kept


def _differences(mine: object, theirs: object, path: str) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = [key for key in [*mine, *(key for key in theirs if key not in mine)] if mine.get(key) != theirs.get(key)]
        return [line for key in keys for line in _differences(mine.get(key), theirs.get(key), f"{path}.{key}")]
    return [] if mine == theirs else [f"{path[1:]}: {mine}, not {theirs}"]

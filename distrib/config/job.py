"""A job: all the choices of one run, one frozen value; a file of it is read by :mod:`distrib.config.file`.

kind: prepare | train | evaluate | study | tune     a closed tagged union of frozen, strict values
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from distrib.attack import PGD, Adversary
from distrib.config.cluster import Cluster, Tracking
from distrib.config.explain import inside
from distrib.config.search import Cross, Grid, Never, Optuna, Score, SearchMethod, Space, Stopping, Winner
from distrib.config.study import CapacityStudy, LandscapeStudy, StudyOf
from distrib.config.validation import Validation
from distrib.data.augment import Augment
from distrib.data.loader import LoaderName
from distrib.data.source import DataSource
from distrib.errors import DistribError
from distrib.evaluation.attacks import Evaluation, EvaluationPlan
from distrib.models import Model
from distrib.models.batch_norm import Statistics
from distrib.models.parts import check_parts
from distrib.models.start import TENSORS, Init, Normalised
from distrib.objective import Natural, Objective, takes_shares
from distrib.optim import Optim
from distrib.precision import Precision
from distrib.threat import Threat
from distrib.values import Seed, Value

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""Letters, digits, dots, dashes and underscores: names folders, MLflow runs and Kubernetes objects alike."""


class Prepare(Value):
    """Packs a data set, once."""

    kind: Literal["prepare"]
    data: DataSource
    """The data set."""
    loader: LoaderName = "auto"
    """The format that is packed: auto is FFCV's where it can be imported, else that of the in-memory loader."""


def grey(data: DataSource) -> bool:
    """Whether the images have one channel: the paper's tables differ (MNIST, CIFAR-10)."""
    return data.source in ("digits", "mnist", "fashion_mnist") or getattr(data, "grey", False)


Attacking = TypeVar("Attacking", bound=Value)


def with_steps(value: Attacking) -> Attacking:
    """The same objective, score or study, with the step size of its attack, if it has one, written out."""
    fields = dict(value)
    attack = fields.get("attack")
    return value.model_copy(update={"attack": attack.resolved(fields["threat"])}) if isinstance(attack, PGD) else value


class Run(Value):
    """What every job has that leaves a run behind."""

    kind: str
    name: Name
    """The run's name. The same job under the same name goes on where it was stopped; a changed job needs another."""
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
    init: Init | None = None
    """The weights that training begins with; None: random ones, drawn with the seed."""
    objective: Objective
    """What training descends: natural, or against an adversary."""
    optim: Optim
    """The optimiser, how long it runs, and how fast."""
    batch_norm: Statistics = "synchronised"
    """Over whose images BatchNorm takes mean and variance in training, where several workers share a batch:
    synchronised: over all, as one worker would; local: each worker over its own, which are at least 16. Attacks with
    attack.batch_norm: train go by each worker's own in any case."""
    precision: Precision = "auto"
    """The number format of the forward pass in training. auto: bfloat16 where all workers compute it in hardware, else
    float32; decided when the run begins, and kept when it is resumed elsewhere. On GPUs float32 is as torch has it:
    convolutions in TF32 (10 of 23 bits), matrix products in float32; the run's tag ``distrib.precision`` says what was
    used. What is measured is always float32, without TF32."""
    evaluation: Evaluation = Evaluation()
    """How the trained model is judged on the test split."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """How many of the last checkpoints are kept; the best one is kept as well."""

    @model_validator(mode="after")
    def _varied(self) -> "Training":
        if (self.augment.mixup or self.augment.cutmix) and not takes_shares(self.objective):
            raise ValueError(
                "augment: mixup and cutmix give an image shares of several classes, which neither method mart nor an "
                "attack with targets, restarts or loss: cw_margin knows; leave those or these out"
            )
        if self.augment.crop_shift and self.data.cut is not None and self.augment.resized_crop == 1:
            raise ValueError("augment.crop_shift: data.resize has windows cut at random places already; leave one out")
        return self

    @model_validator(mode="after")
    def _warm(self) -> "Training":
        natural, warmup = self.objective.natural_epochs, self.objective.epsilon_warmup_epochs
        if natural + warmup >= self.optim.epochs:
            first = f"natural_epochs: {natural:g} and then " if natural else "epsilon_warmup_epochs: "
            raise ValueError(
                f"objective.{first}{warmup:g} of {self.optim.epochs} epochs: epsilon would never be trained against "
                "in full; lower it, or raise optim.epochs"
            )
        return self

    @property
    def warmup_epochs(self) -> float:
        """Epochs until the learning rate and epsilon are whole."""
        return max(self.optim.warmup_epochs, self.objective.natural_epochs + self.objective.epsilon_warmup_epochs)


class Train(Training, Run):
    """Trains a model, judges it on the test split, and registers it."""

    kind: Literal["train"]
    validation: Validation = Validation()
    """How epochs are compared, and the best one chosen."""
    compare_natural: bool = False
    """Also train the same model without an adversary, and show it under the same attacks."""
    register_as: Name | None = None
    """The registered model that gets a new version; None: the run's name."""

    @model_validator(mode="after")
    def _whole(self) -> "Train":
        if self.objective.adversary is None and self.evaluation.threat is None:
            raise ValueError("evaluation.threat: is missing; a natural objective has none that could be taken over")
        if isinstance(self.objective, Natural) and self.compare_natural:
            raise ValueError("compare_natural: this run is natural itself; leave it out")
        optim = self.optim
        check_parts(self.model, optim.batch_size, self.cluster.max_workers, self.batch_norm, optim.accumulate)
        return self

    @property
    def model_name(self) -> str:
        """The registered model's name."""
        return self.register_as or self.name

    @property
    def threat(self) -> Threat:
        """What the model is judged against: the evaluation's threat, or that of the training."""
        adversary = self.objective.adversary
        threat = self.evaluation.threat or (adversary and adversary.threat)
        assert threat is not None  # see _whole
        return threat

    @property
    def plan(self) -> EvaluationPlan:
        """How the trained model is judged."""
        return self.evaluation.plan(self.threat, grey(self.data))

    @property
    def examiner(self) -> Adversary:
        """Who compares the epochs."""
        return Adversary(self.validation.threat or self.threat, self.validation.attack)

    def resolved(self) -> "Train":
        """The same job with every default that depends on another field written out."""
        examiner = self.examiner
        validation = {"threat": examiner.threat, "attack": examiner.attack.resolved(examiner.threat)}
        return self.model_copy(
            update={
                "objective": with_steps(self.objective),
                "evaluation": self.evaluation.resolved(self.threat, grey(self.data)),
                "validation": self.validation.model_copy(update=validation),
                "register_as": self.model_name,
            }
        )

    def natural_twin(self) -> "Train":
        """The same training without the adversary."""
        natural = Natural(method="natural", label_smoothing=self.objective.label_smoothing)
        return self.model_copy(update={"objective": natural, "compare_natural": False})


class Evaluate(Run):
    """Judges a model on the test split."""

    kind: Literal["evaluate"]
    model: str
    """models:/NAME/VERSION, models:/NAME@ALIAS, a checkpoint folder, an MLflow model folder, or a .pt2 file; or, where
    network is given, a file of its tensors: .safetensors, or a state dict in .pt or .pth."""
    network: Model | None = None
    """The network that a file of tensors belongs to; those of RobustBench's WideResNets and PreActResNets, and what
    DataParallel and torch.compile put before names, are known."""
    normalise: Normalised | None = None
    """The mean and std that this network was trained with, unless they are in the file; None: those of the data."""
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
        if self.network is None and self.normalise is not None:
            raise ValueError("normalise: is for a file of tensors; name its network too, or leave it out")
        if self.network is not None and not self.model.endswith(TENSORS):
            raise ValueError(f"network: is for a file of tensors ({', '.join(TENSORS)}); leave it out")
        return self

    @property
    def plan(self) -> EvaluationPlan:
        """How the model is judged."""
        return self.evaluation.plan(None, grey(self.data))

    def resolved(self) -> "Evaluate":
        """The same job with the attacks of its tier written out."""
        return self.model_copy(update={"evaluation": self.evaluation.resolved(None, grey(self.data))})


class Study(Run):
    """Carries out one of the paper's studies on the test split."""

    kind: Literal["study"]
    data: DataSource
    """The data set whose test split is studied."""
    loader: LoaderName = "auto"
    """auto: FFCV where it can be imported, else memory. Both give identical images."""
    study: StudyOf
    """Which study, and its settings."""
    trust_pickle: bool = False
    """Load models that run whatever code is in them: pickled ones (.pt, .pth), or such .pt2."""

    @model_validator(mode="after")
    def _trainable(self) -> "Study":
        if isinstance(self.study, CapacityStudy):
            with inside("study", CapacityStudy):
                optim, workers = self.study.optim, self.cluster.max_workers
                check_parts(self.study.model, optim.batch_size, workers, accumulate=optim.accumulate)
        return self

    def resolved(self) -> "Study":
        """The same job with the step size of its attack written out."""
        if not isinstance(self.study, CapacityStudy | LandscapeStudy):
            return self
        return self.model_copy(update={"study": with_steps(self.study)})


class Tune(Run):
    """Searches the space of a training's fields by Ray Tune; every trial is a distributed training of its own."""

    kind: Literal["tune"]
    train: Training
    """The training that every trial takes over, but for the fields of the space."""
    space: Space
    """Which fields of train vary, and in which range."""
    search: SearchMethod
    """How the settings of the trials are chosen."""
    stopping: Stopping = Never(stop="never")
    """Which trials end early."""
    score: Score
    """What makes one trial better than another."""
    concurrent: Annotated[int, Field(ge=1)] | None = None
    """How many trials run at a time, each with cluster.num_workers workers; None: as many as the cluster holds,
    with 1.25 GB of memory for each beside its workers."""
    budget_hours: Annotated[float, Field(gt=0)] | None = None
    """Core-hours (GPU-hours on GPUs) that the search may take; refused before it starts if it would take more."""
    winner: Winner | None = Winner()
    """What becomes of the best trial; null: nothing."""
    register_as: Name | None = None
    """The registered model that gets the winner as a new version; None: the run's name."""

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
        warmup = self.train.warmup_epochs
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
        """The same job with its evaluation written out (over the score's threat, if it names none) and its steps.

        A step size that is not given stays open where num_steps is searched: each trial has the one of its own.
        """
        update: dict = {"evaluation": self.train.evaluation.resolved(self.score.threat, grey(self.train.data))}
        searched = any(path.startswith("objective.attack.step_size") for path in self.space)
        if searched or "objective.attack.num_steps" not in self.space:
            update["objective"] = with_steps(self.train.objective)
        return self.model_copy(
            update={
                "train": self.train.model_copy(update=update),
                "score": with_steps(self.score),
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
                threat=self.score.threat,
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


@contextmanager
def with_data(job: Any) -> Iterator[Any]:
    """The part of ``job`` that names the data: a search's training, else the job itself.

    An error that is raised meanwhile names the fields of that part by their paths in the job: ``train.data.root``.
    """
    with inside("train", Training) if isinstance(job, Tune) else nullcontext():
        yield job.train if isinstance(job, Tune) else job


def dump(job: Value) -> dict:
    """The job as plain JSON values."""
    return job.model_dump(mode="json")


def completed(record: dict) -> dict:
    """The dumped job ``record`` with fields that came later at their defaults; as it is where it is no job of today."""
    try:
        return dump(JOB.validate_json(json.dumps(record)))
    except (ValidationError, DistribError):
        return record


def digest(job: Value) -> str:
    """The sha256 of the whole job: its identity in records."""
    return hashlib.sha256(json.dumps(dump(job), sort_keys=True).encode()).hexdigest()

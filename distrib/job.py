"""A job: all the choices of one run, one frozen value, read from one YAML file.

    kind: prepare | train | evaluate | study     a closed tagged union; each field has its type, bounds and default

:func:`read` turns a file and ``--set`` overrides into a job, or raises :class:`JobError` with a line for each thing
that is wrong: the path of the key, what was expected, and the nearest valid name.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from distrib.attack import PGD, OfEpsilon
from distrib.data.augment import Augment
from distrib.data.loader import LoaderName
from distrib.data.source import DataSource
from distrib.errors import JobError
from distrib.evaluate.suite import Evaluation
from distrib.explain import explain
from distrib.models import Model
from distrib.objective import Natural, Objective
from distrib.optim import Optim
from distrib.precision import Precision
from distrib.study.values import StudyOf
from distrib.values import Value

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""Letters, digits, dots, dashes and underscores: names folders, MLflow runs and Kubernetes objects alike."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]
LARGEST_FILE = 1 << 20


class Elastic(Value):
    """A number of workers that may change while the run lasts."""

    min: Annotated[int, Field(ge=1)]
    max: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _ordered(self) -> "Elastic":
        if self.min > self.max:
            raise ValueError("min is above max")
        return self


class Cluster(Value):
    """Where the work runs, and how it is spread. Nothing here changes a result, beyond float rounding."""

    address: str | None = None
    """Of a Ray cluster (auto, HOST:PORT, ray://HOST:PORT); None: RAY_ADDRESS if set, else a local one for this run."""
    num_workers: Annotated[int, Field(ge=1, le=4096)] | Elastic = 1
    """Training processes, or {min: .., max: ..}."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU for each worker where the cluster has that many, else the CPU."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Lost workers that are replaced, before the run is given up."""
    timeout_seconds: Annotated[int, Field(ge=10)] = 300
    """How long a silent peer, or resources that do not come, are waited for."""

    @property
    def max_workers(self) -> int:
        """The most workers that the job may have."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers.max

    @property
    def min_workers(self) -> int:
        """The fewest workers that the job can do with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers.min


class Tracking(Value):
    """Where runs and models are recorded."""

    uri: str | None = None
    """Of MLflow; None: MLFLOW_TRACKING_URI if set, else sqlite:///mlflow.db in the working directory."""
    experiment: str = "distrib"


class Validation(Value):
    """How epochs are compared: robust accuracy on images held out from the train part."""

    attack: PGD | None = None
    """None: PGD-10 with a step of epsilon/4, over the evaluation's threat."""
    max_examples: Annotated[int, Field(ge=1)] = 1000


class Prepare(Value):
    """Packs a data set, once."""

    kind: Literal["prepare"]
    data: DataSource
    loader: LoaderName = "auto"


def grey(data: DataSource) -> bool:
    """Whether the images have one channel: the paper's tables differ (MNIST, CIFAR-10)."""
    return data.source in ("digits", "mnist") or getattr(data, "grey", False)


class Train(Value):
    """Trains a model, judges it on the test split, and registers it."""

    kind: Literal["train"]
    name: Name
    """Of the run: the same name again goes on where it was stopped."""
    seed: Seed = 0
    data: DataSource
    loader: LoaderName = "auto"
    """auto: FFCV where it can be imported, else memory. Both give identical batches."""
    augment: Augment = Augment()
    model: Model
    objective: Objective
    optim: Optim
    precision: Precision = "float32"
    """Of the forward pass in training; what is measured is always float32."""
    validation: Validation = Validation()
    evaluation: Evaluation = Evaluation()
    compare_natural: bool = False
    """Also train the same model without an adversary, and show it under the same attacks."""
    register_as: Name | None = None
    """Of the registered model that gets a new version; None: the run's name."""
    storage: str = "runs"
    """The folder of checkpoints and results; on a cluster, one that every machine sees."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """The last so many are kept, and the best one."""
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _whole(self) -> "Train":
        if isinstance(self.objective, Natural) and self.evaluation.threat is None:
            raise ValueError("evaluation.threat: is missing; a natural objective has none that could be taken over")
        if isinstance(self.objective, Natural) and self.compare_natural:
            raise ValueError("compare_natural: this run is natural itself; leave it out")
        warmup = getattr(self.objective, "epsilon_warmup_epochs", 0.0)
        if warmup >= self.optim.epochs:
            raise ValueError(
                f"objective.epsilon_warmup_epochs: {warmup:g} of {self.optim.epochs} epochs: epsilon would never be "
                "trained against in full; lower it, or raise optim.epochs"
            )
        if self.cluster.max_workers > self.optim.batch_size:
            workers, images = self.cluster.max_workers, self.optim.batch_size
            raise ValueError(f"cluster.num_workers: {workers} workers cannot share batches of {images}")
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


class Evaluate(Value):
    """Judges a model on the test split."""

    kind: Literal["evaluate"]
    name: Name
    """Of the run: the same name again goes on where it was stopped."""
    model: str
    """models:/NAME/VERSION, models:/NAME@ALIAS, a checkpoint folder, an MLflow model folder, or a .pt2 file."""
    trust_pickle: bool = False
    """Load a pickled model (.pt, .pth), which runs whatever code is in it."""
    attach: bool = True
    """Give a registered version the card, and let it become champion if the card says so."""
    data: DataSource
    loader: LoaderName = "auto"
    evaluation: Evaluation
    storage: str = "runs"
    """The folder of results; on a cluster, one that every machine sees."""
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

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


class Study(Value):
    """Carries out one of the paper's studies on the test split."""

    kind: Literal["study"]
    name: Name
    """Of the run: the same name again goes on where it was stopped."""
    data: DataSource
    loader: LoaderName = "auto"
    study: StudyOf
    trust_pickle: bool = False
    """Load pickled models (.pt, .pth), which run whatever code is in them."""
    storage: str = "runs"
    """The folder of results; on a cluster, one that every machine sees."""
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    def resolved(self) -> "Study":
        """The job itself: nothing in it depends on another field."""
        return self


AnyJob = Prepare | Train | Evaluate | Study
Job = Annotated[AnyJob, Field(discriminator="kind")]
JOB: TypeAdapter[AnyJob] = TypeAdapter(Job)

WHERE = {"cluster", "tracking", "storage", "loader", "keep_checkpoints"}
"""Fields that say where and how a job runs, not what it computes: they may change between a run and its resumption."""


class _Loader(yaml.SafeLoader):
    """YAML without its two traps: keys given twice, and 1e-3 read as text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does, but what it raises for dates and numbers that are none says where they stand."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError) as error:
            raise yaml.MarkedYAMLError(problem=f"{error}; put text in quotes", problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is no text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the text that :class:`_Loader` would read as a number."""


for _one in (_Loader, _Dumper):
    _one.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )


def write(job: Value) -> str:
    """The job as a job file; :func:`read` gives it back."""
    return yaml.dump(dump(job), Dumper=_Dumper, sort_keys=False)


def read(path: Path, overrides: list[str] | None = None) -> AnyJob:
    """The job in the YAML file ``path``, with ``overrides`` such as ``optim.epochs=3``.

    Raises :class:`JobError` with everything that is wrong with it.
    """
    return parse(_document(path), overrides or [], str(path))


def parse(document: object, overrides: list[str], origin: str) -> AnyJob:
    """The job in a document already read from YAML; ``origin`` names it in errors."""
    if not isinstance(document, dict):
        raise JobError(f"{origin}: a job is a mapping that begins with kind: prepare, train, evaluate or study")
    plain: dict = _plain(document, origin)
    for override in overrides:
        _override(plain, override)
    try:
        return JOB.validate_json(json.dumps(plain))
    except ValidationError as error:
        raise JobError("\n".join(f"{origin}: {line}" for line in explain(error, Job, plain))) from None


def dump(job: Value) -> dict:
    """The job as plain JSON values."""
    return job.model_dump(mode="json")


def digest(job: Value) -> str:
    """The sha256 of the whole job: its identity in records."""
    return hashlib.sha256(json.dumps(dump(job), sort_keys=True).encode()).hexdigest()


def differences(job: Value, other: dict) -> list[str]:
    """What of ``other`` (a dumped job) would give another result than ``job``: lines "optim.epochs: 3, not 5"."""
    mine = {key: value for key, value in dump(job).items() if key not in WHERE}
    theirs = {key: value for key, value in other.items() if key not in WHERE}
    for data in (mine.get("data"), theirs.get("data")):
        if isinstance(data, dict) and data.get("source") != "folder":
            data.pop("root", None)  # a named set is the same wherever it lies; a folder is what lies there
    return _differences(mine, theirs, "")


def _differences(mine: object, theirs: object, path: str) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = [key for key in [*mine, *(key for key in theirs if key not in mine)] if mine.get(key) != theirs.get(key)]
        return [line for key in keys for line in _differences(mine.get(key), theirs.get(key), f"{path}.{key}")]
    if path in (".data.store", ".data.download") or mine == theirs:
        return []
    return [f"{path[1:]}: {mine}, not {theirs}"]


def _document(path: Path) -> object:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise JobError(f"{path}: {path.stat().st_size} bytes: too large for a job file")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise JobError(f"{path}: there is no such job file{'; there are ' + ', '.join(near) if near else ''}") from None
    except IsADirectoryError:
        raise JobError(f"{path}: a folder; name a job file in it") from None
    except UnicodeDecodeError:
        raise JobError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from None
    return _yaml(text, str(path))


def _yaml(text: str, origin: str) -> object:
    """What the YAML ``text`` says. Raises :class:`JobError` with the line and column."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark else origin
        raise JobError(f"{place}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise JobError(f"{origin}: not YAML: nested too deeply") from None


def _plain(document: Any, origin: str) -> Any:
    """A copy made of JSON values, in which nothing is shared."""
    try:
        return json.loads(json.dumps(document))
    except (TypeError, ValueError) as error:
        raise JobError(f"{origin}: {error}; write dates and the like in quotes") from None


def _override(document: dict, override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise JobError(f"--set {override}: write it as path.to.field=value, such as optim.epochs=3")
    try:
        value = _yaml(text, "")
    except JobError:
        raise JobError(f"--set {override}: {text!r} is no value; quote it if it is text") from None
    value = _plain(value, f"--set {override}")
    for key in keys[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise JobError(f"--set {override}: {key} is no mapping, so it has no fields")
    document[keys[-1]] = value

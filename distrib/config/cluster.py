"""Where a job runs and where it is recorded: what may change between a run and its resumption."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distrib.values import PublicUri, Value


class Elastic(Value):
    """A number of workers that may change while the run lasts."""

    min: Annotated[int, Field(ge=1)]
    """The run never trains with fewer workers than this; it waits for more."""
    max: Annotated[int, Field(ge=1)]
    """The run never asks for more workers than this."""

    @model_validator(mode="after")
    def _ordered(self) -> "Elastic":
        if self.min > self.max:
            raise ValueError("min is above max")
        return self


MOST_PER_GPU = 64
LONGEST_EXPERIMENT = 256
"""Characters of an experiment's name that MLflow's stores take; a longer one is refused, other texts are cut."""


class Cluster(Value):
    """Where the work runs, and how it is spread.

    Nothing here changes a result beyond rounding, except ``num_workers`` for a network with BatchNorm where the job
    says ``batch_norm: local`` (more workers then train another network) or ``optim.accumulate`` (statistics are then
    of other images).
    """

    address: str | None = None
    """The Ray cluster (auto, HOST:PORT, ray://HOST:PORT); None: RAY_ADDRESS if set, else a local one for this run."""
    num_workers: Annotated[int, Field(ge=1, le=4096)] | Elastic = 1
    """How many processes train together; or {min: .., max: ..}, a number that may change."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPU cores that each worker computes and reads data with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs where ``num_workers`` (or its ``min``) fit on them, else CPUs. A resumed run keeps the device that it
    began on, and waits for it (``wait_seconds``), unless another one is named here."""
    workers_per_gpu: Annotated[int, Field(ge=1, le=MOST_PER_GPU)] = 1
    """Workers that share one GPU, and its memory. NCCL refuses two ranks on one device, so those that share exchange
    gradients by gloo, through the CPU's memory: slower."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How many lost workers are replaced before the run is given up."""
    timeout_seconds: Annotated[int, Field(ge=10)] = 300
    """How long to wait for a silent peer, and for one attempt to start the workers."""
    wait_seconds: Annotated[int, Field(ge=10)] = 3600
    """Total time to wait for missing machines: those that autoscaling adds, and any that are lost for good."""
    autoscaling: bool = False
    """The cluster adds machines when it is asked for more than it has: wait for them. For GPUs set device: cuda too."""
    stage: str | None = None
    """A folder of each machine's own disk into which packed data are copied once, and read from there; None: read
    where they are packed. The copies may take wait_seconds before training; while it lasts, on a machine that takes
    the place of a lost one, timeout_seconds: let that be longer than a copy takes."""

    @property
    def gpus_per_worker(self) -> float:
        """Of a GPU; Ray counts in ten-thousandths, and rounds: what is rounded up would not fit."""
        return (10_000 // self.workers_per_gpu) / 10_000

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

    uri: PublicUri | None = None
    """Where MLflow is; None: MLFLOW_TRACKING_URI if set, else sqlite:///mlflow.db in the working directory."""
    experiment: Annotated[str, Field(min_length=1, max_length=LONGEST_EXPERIMENT)] = "distrib"
    """MLflow's experiment that the run is listed in."""

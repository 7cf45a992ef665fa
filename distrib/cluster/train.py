"""Training on Ray Train: the worker from top to bottom, and the driver that starts it and listens."""

import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2._internal.callbacks import DatasetsCallback
from safetensors.torch import load_file

from distrib import checkpoints, trainer
from distrib.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from distrib.cluster.memory import shortage
from distrib.cluster.messages import Note, Started, post
from distrib.cluster.network import PinnedTorchConfig
from distrib.config.cluster import Cluster, Elastic
from distrib.config.job import Train, digest, dump
from distrib.data.beton import open_split
from distrib.data.loader import FfcvReader, TrainLoader, open_reader
from distrib.data.order import Portion, chosen
from distrib.data.stage import staged
from distrib.errors import CheckpointError, DistribError, InputError, NonFiniteLoss, NoRoom, RunError
from distrib.models.start import begin_from, freeze_body
from distrib.precision import begin_training, emulated, format_of
from distrib.processor import compute_with
from distrib.state import State
from distrib.world import World, current

PAUSES = (1, 2, 4, 8, 16, 32)
"""Seconds between the looks of workers that do not see the same."""


@dataclass(frozen=True)
class WorkOrder:
    """What a worker is told."""

    job: Train
    data: Path
    """The folder of the betons."""
    run: Path
    """The folder of the run, which every worker sees."""
    phases: dict[str, Train]
    """What is trained one after the other, by name; each has its checkpoints in ``run / name``."""
    label: str = ""
    """Stands before the name of the phase in what the workers post: the trial of a search."""
    reports: bool = False
    """Whether every epoch is reported to Ray Train, for callbacks. Its controller takes one report of each worker at
    every look (``RAY_TRAIN_HEALTH_CHECK_INTERVAL_S``), and the workers wait: short epochs would last as long."""
    init: Path | None = None
    """The file of the weights that training begins with; None: random ones."""


def worker(config: dict) -> None:
    """One rank's whole run: for each phase the state (loaded or new), then epochs, each validated, saved, reported."""
    order: WorkOrder = config["order"]
    mailbox = config["mailbox"]
    job = order.job
    device = get_device()
    compute_with(job.cluster.cpus_per_worker)
    world = current(device)
    data = staged(order.data, job.cluster.stage)
    train = open_split(data, "train", "training")
    held_out = open_split(data, "validation", "training")
    readers = [open_reader(split, job.loader, job.cluster.cpus_per_worker) for split in (train, held_out)]
    validation = trainer.ValidationSet(
        readers[1],
        chosen(held_out.card.count, job.validation.max_examples, job.seed),
        job.examiner,
        job.seed,
        every=job.validation.every,
    )
    height, width, channels = train.card.image
    for phase, part in order.phases.items():

        def tell(message: object, phase: str = phase) -> None:
            post(mailbox, order.label + phase, message)

        extras = zip(train.card.mixed, part.data.mix, strict=True)
        mixed = [Portion(extra.count, one.share) for extra, one in extras]
        loader = TrainLoader(readers[0], train.card.own, part.seed, part.optim.batch_size, part.augment, world, mixed,
            num_classes=len(train.card.classes), size=train.card.image[:2])  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(part.seed)
            model = part.model.build(
                (channels, height, width), len(train.card.classes), train.card.mean, train.card.std
            )
        if order.init is not None and part.init is not None:
            begin_from(model, load_file(order.init), part.init)
        if part.init is not None and part.init.freeze == "body":
            freeze_body(model)
        run = order.run / phase
        stored = newest(run, world, lambda text: tell(Note(text)))
        precision = format_of(part.precision, world) if part.precision != "auto" or stored is None else stored.precision
        state = State(model, part.optim, loader.steps, world, precision, part.batch_norm)
        if stored is not None:
            load_checkpoint(state, stored.folder)
        history = list(stored.history) if stored else []
        before = history[-1].get("num_workers") if history else None  # which an older version did not keep
        local = state.running and part.batch_norm == "local"
        if world.rank == 0 and local and before not in (None, world.size):
            tell(Note(_other_workers(int(before), world.size, part.optim.batch_size // part.optim.accumulate)))
        limited = job.validation.max_examples < held_out.card.count
        if world.rank == 0 and history and before is None and limited and len(history) < part.optim.epochs:
            tell(Note(_other_images(len(history))))
        reader = "ffcv" if isinstance(readers[0], FfcvReader) else "memory"
        node = ray.util.get_node_ip_address()
        if world.rank == 0 and emulated(precision, device):
            tell(Note(f"precision: this CPU has no {precision} in hardware and is slow at it; set it to float32"))
        numbers = begin_training(precision, device)
        tell(Started(world.rank, world.size, node, str(device), numbers, len(history), reader))
        if order.reports and len(history) == part.optim.epochs:  # a trial that was done, but for whoever listens
            ray.train.report({**history[-1], "epoch": len(history), "phase": phase})
        if history and trainer.STOPPED in history[-1]:
            continue
        try:
            for report in trainer.epochs(state, loader, part.objective, part.seed, validation):
                if isinstance(report, trainer.Progress):
                    if world.rank == 0:
                        tell(report)
                    continue
                history.append(report.metrics)
                before = max((n for n, one in enumerate(history[:-1], 1) if checkpoints.ROBUST in one), default=0)
                lasting, sign = (
                    trainer.overfitting(seen, len(validation.indices)) if part.objective.adversary else ""
                    for seen in (history[:before], history)
                )
                new = sign.partition(":")[0] != lasting.partition(":")[0] or job.validation.on_overfitting != "warn"
                if sign and new and world.rank == 0:
                    tell(Note(f"warning: {phase} epoch {report.epoch}: {sign}{DONE[job.validation.on_overfitting]}"))
                if sign and job.validation.on_overfitting == "stop" and report.epoch < part.optim.epochs:
                    report.metrics[trainer.STOPPED] = 1.0
                if sign and job.validation.on_overfitting == "roll_back":
                    go_back(state, checkpoints.best(run, job.validation.min_clean_accuracy, lambda text: None))
                if world.rank == 0:
                    folder = checkpoints.folder_for(run, report.epoch)
                    save_checkpoint(state, folder, history, dump(part), digest(part))
                    checkpoints.prune(run, history, part.keep_checkpoints, part.validation.min_clean_accuracy)
                    tell(report)
                if order.reports:
                    ray.train.report({**report.metrics, "epoch": report.epoch, "phase": phase})  # all ranks meet here
                else:
                    world.barrier()  # and here: no rank goes on before the epoch is stored
                if trainer.STOPPED in report.metrics:
                    break
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{phase} training: {error}; {_last_good(run)}") from None


DONE = {
    "warn": "",
    "stop": "; training ends here (validation.on_overfitting)",
    "roll_back": "; the state of the best epoch takes the place of this one's (validation.on_overfitting)",
}


def go_back(state: State, best: Checkpoint) -> None:
    """Puts the weights and the optimiser of ``best`` into ``state``, which stays at its step."""
    step = state.step
    load_checkpoint(state, best.folder)
    state.step = step


def _other_workers(before: int, now: int, batch_size: int) -> str:
    return (
        f"warning: trained on {before} workers so far, and on {now} from here: BatchNorm sees {batch_size // now} "
        f"images at a time, not {batch_size // before}, so the result is neither that of {before} workers nor of {now}"
    )


def _other_images(epochs: int) -> str:
    """Of a run that an older version began, which took the first ``validation.max_examples`` held-out images."""
    before = "epoch 1 was" if epochs == 1 else f"epochs 1 to {epochs} were"
    return (
        f"warning: {before} compared on other held-out images than those from here, so the best epoch may be chosen "
        "wrongly; to compare them all alike, train anew under another name (--set name=...)"
    )


def _last_good(run: Path) -> str:
    try:
        stored = checkpoints.latest(run, lambda text: None)
    except CheckpointError:
        return "no checkpoint is whole"
    return f"the last good checkpoint is {stored.folder}" if stored else "no checkpoint yet"


def newest(run: Path, world: World, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint, or None, as soon as every rank sees the same: a network file system shows late.

    Raises :class:`InputError` where they do not within a minute.
    """
    for seconds in (*PAUSES, None):
        stored = checkpoints.latest(run, say)
        if world.agree(stored.epoch if stored else 0):
            return stored
        if seconds is not None:
            time.sleep(seconds)
    raise InputError(f"storage: the workers see unlike checkpoints in {run}; name a folder that all of them see")


def fit(order: WorkOrder, use_gpu: bool, mailbox: ActorHandle, callbacks: Sequence[UserCallback] = ()) -> None:
    """Trains every phase of ``order`` to its end, going on from its checkpoints. Returns when all are done.

    The workers send what they do to ``mailbox``. Those that are lost are replaced, up to ``cluster.max_failures``
    times; where one ends by an error of distrib's own, training ends.
    Raises :class:`DistribError` as the worker raised it, or :class:`RunError` with the first cause.
    """
    cluster = order.job.cluster
    workers = cluster.num_workers
    scaling = ScalingConfig(
        num_workers=(workers.min, workers.max) if isinstance(workers, Elastic) else workers,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": cluster.gpus_per_worker} if use_gpu else {})},
    )
    alone = use_gpu and cluster.workers_per_gpu == 1  # NCCL refuses two ranks on one device
    torch_config = PinnedTorchConfig(backend="nccl" if alone else "gloo", timeout_s=cluster.timeout_seconds)
    ray_trainer = PlainTrainer(
        worker,
        train_loop_config={"order": order, "mailbox": mailbox},
        scaling_config=scaling,
        torch_config=torch_config,
        run_config=RunConfig(
            name=f"fit-{time.time_ns()}",  # resuming is by distrib's own checkpoints, so each fit is new to Ray
            storage_path=str(order.run / ".ray"),
            failure_config=FailureConfig(
                max_failures=cluster.max_failures,
                controller_failure_limit=math.ceil(cluster.wait_seconds / cluster.timeout_seconds) - 1,
            ),
            callbacks=[OnceIsEnough(), *callbacks],
        ),
    )
    try:
        ray_trainer.fit()
    except (TrainingFailedError, RayError) as error:
        raise _cause(error, cluster) from None
    finally:
        shutil.rmtree(order.run / ".ray", ignore_errors=True)


class PlainTrainer(TorchTrainer):
    """Ray Train's, less two things that it does not leave out itself (2.60)."""

    def _register_sigint_handler(self, controller: ActorHandle) -> None:
        """Nothing: its handler ends the command without a word; KeyboardInterrupt ends the controller as well."""

    def _create_default_callbacks(self) -> list:
        """Without that of Ray Data, which starts a process for data sets that there are none of."""
        return [one for one in super()._create_default_callbacks() if not isinstance(one, DatasetsCallback)]


class OnceIsEnough(UserCallback):
    """Ends training at an error of distrib's own: workers that start again would come to the same."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train, which takes what is raised here for a reason to end."""
        error = _own(worker_exceptions.values())
        if error is not None:
            raise error


def _own(failures: Iterable[BaseException]) -> DistribError | None:
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, DistribError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    return None


def _cause(error: TrainingFailedError | RayError, cluster: Cluster) -> DistribError:
    """The error of the worker that failed first, or what Ray says."""
    ended = getattr(error, "controller_failure", None)
    if isinstance(ended, DistribError):
        return ended
    if type(ended).__name__ == "WorkerGroupStartupTimeoutError":
        return NoRoom(
            f"cluster.num_workers: in {cluster.wait_seconds} s there was no room for {cluster.min_workers} workers of "
            f"{cluster.cpus_per_worker} CPUs each; add machines, or ask for fewer workers. The same command goes on "
            "where this run is; cluster.wait_seconds says how long to wait"
        )
    failures = getattr(error, "worker_failures", None) or {}
    own = _own(failures.values())
    if own is not None:
        return own
    texts = {rank: str(failure) for rank, failure in failures.items()}
    short = next(filter(None, map(shortage, [*texts.values(), str(error)])), None)
    if short is not None:
        own_pid = f"pid={short.pid},"
        rank = next((rank for rank, text in texts.items() if own_pid in text.partition("were killed")[0]), None)
        named = short if rank is None else replace(short, name=f"the worker of rank {rank}")
        return RunError(
            f"training failed: {named}; lower cluster.num_workers or optim.batch_size, or give the machine more memory"
            ". The same command goes on from the last checkpoint"
        )
    lines = [line for failure in failures.values() for line in str(failure).strip().splitlines()[-1:]]
    return RunError("training failed: " + ("; ".join(dict.fromkeys(lines)) or str(error).strip().splitlines()[-1]))

"""What a Ray cluster has, whether a job fits on it, and on which device its workers compute."""

import math
import os
import sys
from dataclasses import dataclass, replace
from typing import Literal

import torch

from distrib.config.cluster import MOST_PER_GPU, Cluster
from distrib.errors import JobError

Device = Literal["cpu", "cuda"]
TRIAL_BYTES = 1_250_000_000
"""What a trial's own process takes beside its workers (measured): Python with torch, Ray Train and Ray Tune."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has."""

    cpus: float
    gpus: float = 0
    memory: float = math.inf
    """Bytes that Ray may promise; inf where it is not known."""


@dataclass(frozen=True)
class Resources:
    """What the cluster has."""

    nodes: tuple[Node, ...]
    local: bool
    """Started for this job, on this machine."""
    device: Device | None = None
    """What the job's workers compute on, once that is decided (see :meth:`decided`)."""

    @property
    def cpus(self) -> float:
        """Of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """Of all nodes."""
        return sum(node.gpus for node in self.nodes)

    def room(self, cluster: Cluster, use_gpu: bool) -> int:
        """How many of the job's workers the nodes hold: none is spread over two."""
        return sum(
            min(
                int(node.cpus // cluster.cpus_per_worker),
                int(node.gpus) * cluster.workers_per_gpu if use_gpu else sys.maxsize,
            )
            for node in self.nodes
        )

    def trials(self) -> int:
        """How many trials' own processes the nodes have the memory for; one runs in any case."""
        if any(node.memory == math.inf for node in self.nodes):
            return sys.maxsize
        return max(1, sum(int(node.memory // TRIAL_BYTES) for node in self.nodes))

    def use_gpu(self, cluster: Cluster) -> bool:
        """Whether the job's workers compute on GPUs: as was decided, or else would be now."""
        return (self.device or self._choice(cluster, None)) == "cuda"

    def workers(self, cluster: Cluster) -> int:
        """How many of the job's workers have room at a time; the most that it may have where machines are added."""
        if cluster.autoscaling:
            return cluster.max_workers
        room = self.room(cluster, self.use_gpu(cluster))
        return max(cluster.min_workers, min(cluster.max_workers, room))

    def decided(self, cluster: Cluster, begun_on: Device | None = None) -> "Resources":
        """These resources, with the device of the job's workers decided; ``begun_on`` is the one that the run began on.

        Raises :class:`JobError` where the job does not fit.
        """
        self.check(cluster, begun_on)
        return replace(self, device=self._choice(cluster, begun_on))

    def _choice(self, cluster: Cluster, begun_on: Device | None) -> Device:
        if cluster.device != "auto":
            return cluster.device
        if cluster.autoscaling and begun_on == "cpu":  # there may have been no GPU machine yet
            begun_on = None
        return begun_on or ("cuda" if self.room(cluster, use_gpu=True) >= cluster.min_workers else "cpu")

    def check(self, cluster: Cluster, begun_on: Device | None = None) -> None:
        """Raises :class:`JobError` for a request that could never be placed, with the arithmetic."""
        use_gpu = self._choice(cluster, begun_on) == "cuda"
        least, each = cluster.min_workers, cluster.cpus_per_worker
        if cluster.autoscaling:
            return
        gpus = _gpus(cluster, least)
        if use_gpu and self.gpus < gpus:
            lack = f"needs {gpus} GPUs, but the cluster has {self.gpus:g}"
            if cluster.device == "cuda":
                raise JobError(
                    f"cluster.device: cuda {lack}; use auto or cpu, or let workers share one (cluster.workers_per_gpu)"
                )
            raise JobError(
                f"cluster.device: this run was begun on GPUs and {lack}; bring them back, or let it go on without: "
                "--set cluster.device=cpu"
            )
        if least * each > self.cpus:
            raise JobError(
                f"cluster.num_workers: {least} workers x {each} CPUs = {least * each} CPUs, but the "
                f"cluster has {self.cpus:g}; ask for fewer"
            )
        room = self.room(cluster, use_gpu)
        if least > room:
            nodes = ", ".join(f"{node.cpus:g} CPUs{f' {node.gpus:g} GPUs' if use_gpu else ''}" for node in self.nodes)
            share = f" and {_share(cluster)}" if use_gpu else ""
            raise JobError(
                f"cluster.cpus_per_worker: {least} workers of {each} CPUs{share} each, but the "
                f"nodes ({nodes}) hold {room}; ask for less"
            )

    def unused(self, cluster: Cluster) -> str | None:
        """Which GPUs the job leaves alone although nobody told it to, and what to do about it; None where it does not.

        Where machines are added, that may be GPUs that are not there yet.
        Only of an own cluster can it be said that no other job has them.
        """
        least = cluster.min_workers
        grows = cluster.device == "auto" and cluster.autoscaling and not self.use_gpu(cluster)
        if grows and self.gpus < 1:
            return (
                "cluster.device: auto found no GPUs, so the workers compute on CPUs; where the cluster would add GPU "
                "machines, --set cluster.device=cuda asks for them"
            )
        if cluster.device == "cpu" or self.gpus < 1:
            return None
        if self.use_gpu(cluster):
            idle = self.gpus - _gpus(cluster, cluster.max_workers)
            if not self.local or idle < 1:
                return None
            return (
                f"cluster.num_workers: {idle:g} of {self.gpus:g} GPUs stay unused; --set cluster.num_workers="
                f"{self.room(cluster, use_gpu=True)} would take them all"
            )
        stay = "1 GPU stays" if self.gpus == 1 else f"{self.gpus:g} GPUs stay"
        fit = self.room(cluster, use_gpu=True)
        if fit >= least:
            return (
                f"cluster.device: {stay} unused, for this run was begun on CPUs; --set cluster.device=cuda changes that"
            )
        shares = range(cluster.workers_per_gpu + 1, MOST_PER_GPU + 1)
        shared = (n for n in shares if self.room(cluster.model_copy(update={"workers_per_gpu": n}), True) >= least)
        cures = [f"--set cluster.num_workers={fit}"] if fit else []
        cures += [f"--set cluster.workers_per_gpu={n}" for n in [next(shared, None)] if n]
        return (
            f"cluster.device: {stay} unused: {least} workers of {cluster.cpus_per_worker} CPUs and {_share(cluster)} "
            f"each do not fit, so they compute on CPUs; "
            f"{' or '.join(cures) or 'lower cluster.cpus_per_worker'} changes that"
            + ("; or --set cluster.device=cuda, where the cluster would add GPU machines" if grows else "")
        )


def must_fit(cluster: Cluster, record: dict | None) -> None:
    """Raises :class:`JobError` where the job asks for what this machine lacks, if Ray is to be started on it.

    It touches nothing, so it is known before the data are packed, and by a dry run. ``record`` is what job.json says of
    a run that was begun.
    """
    if address_of(cluster) is None:
        cpus = max(cluster.max_workers * cluster.cpus_per_worker, os.cpu_count() or 1)  # as a local Ray is told
        Resources((Node(cpus, torch.cuda.device_count()),), local=True).check(cluster, begun_on(record))


def address_of(cluster: Cluster) -> str | None:
    """Where the Ray cluster is that the job joins; None: one is started on this machine."""
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    return None if address in ("", "local") else address


def begun_on(record: dict | None) -> Device | None:
    """The device that a run was begun on; records of earlier versions do not say."""
    device = (record or {}).get("device")
    return device if device in ("cpu", "cuda") else None


def _gpus(cluster: Cluster, workers: int) -> int:
    return math.ceil(workers / cluster.workers_per_gpu)


def _share(cluster: Cluster) -> str:
    return "a GPU" if cluster.workers_per_gpu == 1 else f"1/{cluster.workers_per_gpu} of a GPU"

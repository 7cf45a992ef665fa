"""Evaluation spread over a Ray cluster: a task a shard; what is done is kept, and not done again."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from distrib.cluster.session import Resources
from distrib.data.beton import Beton, open_split
from distrib.data.loader import LoaderName, Reader, open_reader, shard
from distrib.errors import DistribError, RunError
from distrib.evaluate.claim import Claim, chosen, conclude
from distrib.evaluate.subject import Subject
from distrib.evaluate.suite import Evaluation
from distrib.evaluate.witness import ShardResult, attack_shard
from distrib.files import write_json
from distrib.job import Cluster
from distrib.world import World


@dataclass(frozen=True)
class Task:
    """What a worker needs to know to judge any shard."""

    subject: Subject
    data: Path
    loader: LoaderName
    suite: Evaluation
    threads: int
    cuda: bool


def judge(task: Task, start: int) -> ShardResult:
    """The shard that begins at place ``start`` of the evaluation's order."""
    torch.set_num_threads(task.threads)
    device = torch.device("cuda" if task.cuda else "cpu")
    beton, reader = _test_split(task.data, task.loader, task.threads)
    order = chosen(beton.card.count, task.suite)[start : start + task.suite.shard_size]
    (batch,) = shard(reader, order, len(order), World(device=device))
    model = task.subject.load(device)
    return attack_shard(model, batch, np.arange(start, start + len(order)), task.suite)


@cache
def _test_split(data: Path, loader: LoaderName, threads: int) -> tuple[Beton, Reader]:
    """Opened once in each process: Ray gives the tasks of one kind to the same few processes."""
    beton = open_split(data, "test", "evaluation")
    return beton, open_reader(beton, loader, threads)


def evaluate(
    task: Task, kept: Path, key: str, cluster: Cluster, resources: Resources, progress: Callable[[int, int], None]
) -> Claim:
    """Judges every shard and concludes. Finished shards lie in ``kept`` under ``key`` (what was judged, and how).

    The claim is the same on one worker and on many. ``progress`` is told (images done, images in all).
    Raises :class:`DistribError` as a worker raised it, or :class:`RunError`.
    """
    card = open_split(task.data, "test", "evaluation").card
    count = len(chosen(card.count, task.suite))
    starts = range(0, count, task.suite.shard_size)
    files = {start: kept / f"{key}-{start:07d}.json" for start in starts}
    done = {start: found for start, file in files.items() if (found := _kept(file)) is not None}
    progress(sum(len(result.position) for result in done.values()), count)
    kept.mkdir(parents=True, exist_ok=True)
    for start, result in _judged([start for start in starts if start not in done], task, cluster, resources):
        write_json(files[start], result.as_json())
        done[start] = result
        progress(sum(len(result.position) for result in done.values()), count)
    return conclude([done[start] for start in starts], task.suite, count, len(card.classes))


def _kept(file: Path) -> ShardResult | None:
    """The result of a shard that was judged before, if it can be read."""
    try:
        return ShardResult(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _judged(starts: list[int], task: Task, cluster: Cluster, resources: Resources) -> Iterator[tuple[int, ShardResult]]:
    """Results as they come, with at most one task a worker under way."""
    if not starts:
        return
    remote = ray.remote(judge).options(
        num_cpus=cluster.cpus_per_worker, num_gpus=1 if task.cuda else 0, max_retries=cluster.max_failures
    )
    shared, waiting, running = ray.put(task), list(starts), {}
    width = cluster.max_workers
    while waiting or running:
        while waiting and len(running) < width:
            start = waiting.pop(0)
            running[remote.remote(shared, start)] = start
        ready, _ = ray.wait(list(running), timeout=3600)
        if not ready:
            raise RunError("no shard was finished within an hour; lower evaluation.shard_size")
        for reference in ready:
            try:
                yield running.pop(reference), ray.get(reference)
            except RayTaskError as error:
                if isinstance(error.cause, DistribError):
                    raise error.cause from None
                raise RunError(f"evaluation failed: {str(error.cause or error).strip().splitlines()[-1]}") from None
            except RayError as error:
                raise RunError(f"evaluation failed: {str(error).strip().splitlines()[0]}") from None

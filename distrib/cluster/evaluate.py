"""Evaluation spread over a Ray cluster: a task a shard; what is done is kept, and not done again.

The first round attacks; each shard's result and its worst images are written to KEPT. Where a probe says that the
model's gradient cannot be believed, a second round tries harder on what stood. The last reads those files, scores the
images again and measures their distance from the test split: what does not agree is a flag.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from distrib.cluster.map import Workers, map_tasks
from distrib.cluster.messages import AttackBegins, post
from distrib.config.cluster import Cluster
from distrib.convolution import quickened
from distrib.data.beton import open_split
from distrib.data.loader import Batch, LoaderName
from distrib.data.order import chosen
from distrib.data.stage import staged
from distrib.errors import RunError
from distrib.evaluation import frozen
from distrib.evaluation.attacks import EvaluationPlan
from distrib.evaluation.crafting import AttackInputs
from distrib.evaluation.evidence import Evidence, gather
from distrib.evaluation.harder import try_harder
from distrib.evaluation.model_flags import needs_harder_attacks
from distrib.evaluation.models import StoredModel
from distrib.evaluation.outcomes import ShardResult
from distrib.evaluation.points import points
from distrib.evaluation.shard import attack_shard, score_images
from distrib.files import write_bytes, write_json
from distrib.processor import compute_with


@dataclass(frozen=True)
class EvaluationTask:
    """What a worker needs to know to judge any shard."""

    model: StoredModel
    data: Path
    loader: LoaderName
    plan: EvaluationPlan
    threads: int
    cuda: bool
    sources: dict[str, StoredModel] = field(default_factory=dict)
    """The models that transfer attacks start from, by their address."""
    stage: str | None = None
    """The folder of a worker's own disk that the data are copied into."""
    mailbox: Any = None
    """Is told of every attack as it begins."""
    here: Path = field(default_factory=Path.cwd)
    """Where the paths of stored attacks begin: the driver's folder, which need not be that of a worker."""

    @property
    def device(self) -> torch.device:
        """Where the shard is judged."""
        return torch.device("cuda" if self.cuda else "cpu")

    def order(self) -> np.ndarray:
        """The evaluated images, as places in the test split."""
        return chosen(open_split(self.data, "test", "evaluation").card.count, self.plan.n, self.plan.seed)


@dataclass(frozen=True)
class Judged:
    """An evaluation that is done."""

    evidence: Evidence
    files: list[Path]
    """The shards' worst images (safetensors: ``x_adv``), in the evaluation's order."""


def judge_shard(task: EvaluationTask, start: int) -> tuple[ShardResult, bytes]:
    """The shard that begins at place ``start`` of the evaluation's order, and its worst images as safetensors."""
    model, batch, positions = _shard(task, start)

    def source(address: str) -> nn.Module:
        return quickened(task.sources[address].load(task.device))

    def stored(path: str, index: Tensor) -> Tensor:
        return frozen.stored_images(task.here / path, index.cpu()).to(task.device)

    def began(name: str) -> None:
        if task.mailbox is not None:
            post(task.mailbox, str(start), AttackBegins(name))

    result, worst = attack_shard(model, batch, positions, task.plan, AttackInputs(source, stored, began))
    return result, save({"x_adv": worst.cpu().contiguous()})


def judge_harder(task: EvaluationTask, start: int, result: ShardResult, images: bytes) -> tuple[ShardResult, bytes]:
    """What :func:`judge_shard` gave for a shard, after harder attacks on the images that stood."""
    model, batch, _ = _shard(task, start)
    result, worst = try_harder(model, batch, result, load(images)["x_adv"].to(task.device), task.plan)
    return result, save({"x_adv": worst.cpu().contiguous()})


def score_again(task: EvaluationTask, start: int, images: bytes) -> list[float]:
    """The margins of a shard's stored worst images.

    Raises :class:`RunError` where one lies outside the threat.
    """
    model, batch, _ = _shard(task, start)
    x_adv = load(images)["x_adv"].to(task.device)
    margins, far = score_images(model, batch.x, x_adv, batch.y, task.plan.threat)
    if far:
        raise RunError(f"{far} stored images lie outside the threat; no result")
    return margins


def _shard(task: EvaluationTask, start: int) -> tuple[nn.Module, Batch, np.ndarray]:
    compute_with(task.threads)
    order = task.order()[start : start + task.plan.shard_size]
    batch = points(staged(task.data, task.stage), task.loader, task.threads, order, task.device)
    return quickened(task.model.load(task.device)), batch, np.arange(start, start + len(order))


def in_rounds(
    task: EvaluationTask, kept: Path, key: str, cluster: Cluster, progress: Callable[[int, int, int | None], None]
) -> Judged:
    """Judges every shard. Finished shards lie in ``kept`` under ``key`` (what was judged, and how).

    The evidence is the same on one worker and on many. ``progress`` is told (images done, images in all, the shard that
    has just ended, if one has).
    Raises :class:`DistribError` as a worker raised it, or :class:`RunError`.
    """
    card = open_split(task.data, "test", "evaluation").card
    count = len(task.order())
    starts = range(0, count, task.plan.shard_size)
    kept.mkdir(parents=True, exist_ok=True)
    workers = Workers(cluster, task.cuda)

    def judged(function: Callable, files: dict[int, Path], given: Callable[[int], tuple]) -> dict[int, ShardResult]:
        """Every shard's result by ``function``, which takes what is ``given``; those that lie in ``files`` are read."""
        done = {start: found for start, file in files.items() if (found := kept_shard(file)) is not None}
        progress(sum(len(result.position) for result in done.values()), count, None)
        left = ((start, *given(start)) for start in starts if start not in done)
        for (start, *_), (result, images) in map_tasks(function, task, left, workers):
            write_bytes(files[start].with_suffix(".safetensors"), images)
            write_json(files[start], result.as_json())
            done[start] = result
            progress(sum(len(result.position) for result in done.values()), count, start)
        return done

    files = {start: kept / f"{key}-{start:07d}.json" for start in starts}
    done = first = judged(judge_shard, files, lambda _: ())
    tensors = {start: files[start].with_suffix(".safetensors") for start in starts}
    if needs_harder_attacks(gather([first[start] for start in starts], task.plan, count, len(card.classes))):
        before, files = tensors, {start: kept / f"{key}-{start:07d}-harder.json" for start in starts}
        done = judged(judge_harder, files, lambda start: (first[start], before[start].read_bytes()))
        tensors = {start: files[start].with_suffix(".safetensors") for start in starts}
    again = ((start, tensors[start].read_bytes()) for start in starts)
    disagree: list[int] = []
    for (start, _), margins in map_tasks(score_again, task, again, workers):
        disagree += done[start].disagreeing(margins)
    evidence = gather([done[start] for start in starts], task.plan, count, len(card.classes), disagree)
    return Judged(replace(evidence, classes=card.classes), [tensors[start] for start in starts])


def kept_files(kept: Path, key: str) -> list[Path]:
    """The files of an evaluation's shards; where there was a second round, those that it left."""
    second = list(kept.glob(f"{key}-*-harder.json"))
    return second or list(kept.glob(f"{key}-*.json"))


def kept_shard(file: Path) -> ShardResult | None:
    """The result of a shard that was judged before, if it and its images can be read."""
    try:
        result = ShardResult.of_json(json.loads(file.read_bytes()))
        images = load(file.with_suffix(".safetensors").read_bytes())["x_adv"]
        return result if len(images) == len(result.position) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError):
        return None

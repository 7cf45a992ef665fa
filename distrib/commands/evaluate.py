"""An end evaluation, from a model's address to the card that is kept with its run."""

import hashlib
import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from distrib import __version__
from distrib.checkpoints import verify
from distrib.cluster.evaluate import EvaluationTask, Judged, evaluate
from distrib.cluster.resources import must_fit
from distrib.cluster.session import Resources
from distrib.commands.prepare import prepared_for
from distrib.config.cluster import Cluster
from distrib.config.job import Evaluate, digest, dump
from distrib.data.beton import Beton, DataCard, open_split
from distrib.data.loader import LoaderName, open_reader, shard
from distrib.errors import CheckpointError, JobError
from distrib.evaluation import frozen
from distrib.evaluation.attacks import Evaluation, Stored, Transfer
from distrib.evaluation.card import Card, Origin, card_files
from distrib.evaluation.models import StoredModel, Weights, fingerprint, in_folder
from distrib.evaluation.outcomes import BROKEN
from distrib.evaluation.result import Result, conclude
from distrib.files import file_sha256, write_bytes, write_json
from distrib.registry import store, versions
from distrib.tracking import client
from distrib.tracking.clock import Clock
from distrib.tracking.display import Display
from distrib.tracking.folder import kept_result, resuming, run_folder
from distrib.tracking.tracker import Tracker, tracked
from distrib.values import Value
from distrib.world import World

SHARDS = 3
"""The form of kept shards: another one when what they hold, or how it is found, changes."""
SHOWN = 8
"""Images that a card shows."""


@dataclass(frozen=True)
class Evaluated:
    """A model, judged."""

    subject: StoredModel
    suite: Evaluation
    judged: Judged
    claim: Result
    contents: dict[str, str]
    """The hashes of the models and sets that attacks take images from, by address."""
    key: str
    """Of the kept shards: what was judged, and how."""


@dataclass(frozen=True)
class Evaluator:
    """Where models are judged: the data, the cluster, and the folder that keeps what is done."""

    data: Path
    """The folder of the betons."""
    loader: LoaderName
    cluster: Cluster
    resources: Resources
    kept: Path
    uri: str
    """Of MLflow, for addresses of registered models."""
    trusted: bool
    """Pickled models may be loaded."""
    display: Display

    @cached_property
    def test(self) -> DataCard:
        """What the test split is."""
        return self.split.card

    @property
    def split(self) -> Beton:
        """The packed test split."""
        return open_split(self.data, "test", "evaluation")

    def subject(self, address: str) -> StoredModel:
        """The model of an address. Raises :class:`InputError` where it is not there, or made for other data."""
        return subject_of(address, self.split, self.loader, self.uri, self.trusted, self.display)

    def judge(self, subject: StoredModel, suite: Evaluation, title: str) -> Evaluated:
        """Runs every attack of ``suite``, on all workers; what was done before is not done again."""
        began = time.perf_counter()
        sources = {one.source: self.subject(one.source) for one in suite.attacks if isinstance(one, Transfer)}
        task = EvaluationTask(
            subject, self.data, self.loader, suite, self.cluster.cpus_per_worker,
            self.resources.use_gpu(self.cluster), sources, self.cluster.stage,
        )  # fmt: skip
        own = hashlib.sha256(subject.content()).hexdigest()
        contents = {address: hashlib.sha256(source.content()).hexdigest() for address, source in sources.items()}
        mine = fingerprint(subject) if sources else ""
        same = next((address for address, source in sources.items() if fingerprint(source) == mine), None)
        if same is not None:
            raise JobError(f"evaluation: {same} is the judged model itself; transfer from another one")
        contents |= {one.path: frozen.identity(Path(one.path)) for one in suite.attacks if isinstance(one, Stored)}
        terms = [
            suite.model_dump(mode="json", exclude={"batch_size"}), self.test.content_sha256, __version__, SHARDS,
            own, sorted(contents.items()),
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(terms).encode()).hexdigest()[:16]

        def progress(done: int, count: int) -> None:
            detail = f"{done} of {count} images, {time.perf_counter() - began:.0f} s"
            self.display.advance(f"evaluating {title}", done, count, detail)

        judged = evaluate(task, self.kept, key, self.cluster, progress)
        self.display.end()
        return Evaluated(subject, suite, judged, conclude(judged.evidence), contents, key)


def subject_of(
    address: str, split: Beton, loader: LoaderName, uri: str, trusted: bool, display: Display
) -> StoredModel:
    """The model of ``address``: a registered version, a checkpoint folder, an MLflow folder, a .pt2 or pickled file.

    Raises :class:`InputError` where it is not there, or was made for other images or classes than those of ``split``,
    the test split.
    """
    test = split.card
    height, width, channels = test.image
    if address.startswith("models:"):
        subject, card = versions.fetch_subject(address, uri, trusted, display.say)
        image, classes = card.get("image"), card.get("classes") or ()
        mine = {"channels": channels, "height": height, "width": width}
        if image is not None and (image != mine or len(classes) != len(test.classes)):
            raise JobError(
                f"data: {len(test.classes)} classes of images {channels}x{height}x{width}, but {address} takes "
                f"{len(classes)} classes of {image}; name the data it was made for"
            )
        return subject if image is not None else _fitting(subject, address, split, loader)
    path = Path(address).absolute()
    if not path.exists():
        raise CheckpointError(
            f"model: {path} is not there; name models:/NAME/VERSION, a checkpoint folder, an MLflow model folder, or a "
            ".pt2 file"
        )
    if (path / "state.json").exists():
        stored = verify(path)
        subject = Weights.of(stored.job["model"], test, stored.judged)
        subject.load(World().device)  # refuses weights of other images or classes before anything starts
        return subject
    return _fitting(in_folder(path, trusted), address, split, loader)


def _fitting(subject: StoredModel, address: str, split: Beton, loader: LoaderName) -> StoredModel:
    """The subject. Raises :class:`JobError` unless it maps images of the test split to a logit a class."""
    test = split.card
    height, width, channels = test.image
    module = subject.load(World().device)
    # The batch that it will be judged on: one made here could lie otherwise in memory, which some networks feel
    (batch,) = shard(open_reader(split, loader), np.arange(min(2, test.count)), 2, World())
    try:
        with torch.no_grad():
            logits = module(batch.x)
    except Exception as error:  # whatever the model's own code raises for images it was not made for
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise JobError(
            f"model: {address} does not take float32 images [B, {channels}, {height}, {width}] ({reason}); name the "
            "data it was made for, and export it for any batch size"
        ) from None
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (len(batch.x), len(test.classes)):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise JobError(
            f"model: {address} gives {shape} for {len(batch.x)} images, not [{len(batch.x)}, {len(test.classes)}], a "
            "logit a class"
        )
    return subject


def card_of(verdict: Evaluated, bench: Evaluator, model: str, job: Value) -> tuple[Card, dict[str, bytes]]:
    """The card of a verdict, and its files."""
    weights = verdict.subject
    sha256 = (
        file_sha256(weights.path) if isinstance(weights, Weights) else hashlib.sha256(weights.content()).hexdigest()
    )
    origin = Origin(model, sha256, verdict.contents, dump(job), digest(job))
    card = Card.of(verdict.claim, verdict.suite, bench.test, origin)
    return card, card_files(card, verdict.judged.evidence, _shown(verdict, bench))


def keep_card(content: dict[str, bytes], folder: Path, tracker: Tracker) -> None:
    """Writes a card's files beside the run, and stores them with its MLflow run, under card/."""
    (folder / "card").mkdir(exist_ok=True)
    for name, part in content.items():
        write_bytes(folder / "card" / name, part)
    for name in content:
        tracker.file(folder / "card" / name, "card")


def _shown(verdict: Evaluated, bench: Evaluator) -> list[tuple]:
    """A few images of the first shard with their worst ones: broken ones first."""
    found, first = verdict.judged.evidence, verdict.judged.evidence.shards[0]
    worst = load_file(verdict.judged.files[0])["x_adv"]
    attacked = [i for i, name in enumerate(first.worst) if name]
    broken = [i for i in attacked if any(one[i] == BROKEN for one in first.outcomes.values())]
    rows = (broken + [i for i in attacked if i not in broken])[:SHOWN]
    if not rows:
        return []
    reader = open_reader(bench.split, bench.loader)
    (batch,) = shard(reader, found.index[rows], len(rows), World())
    classes = bench.test.classes
    return [
        (
            image.permute(1, 2, 0).numpy(), worst[i].permute(1, 2, 0).numpy(),
            f"{classes[first.label[i]]}\n{first.worst[i]}{'' if i in broken else ' failed'}",
        )
        for i, image in zip(rows, batch.x, strict=True)
    ]  # fmt: skip


def in_figures(claim: Result, folder: Path) -> str:
    """What is known of a model before MLflow is told of it, and where it is kept."""
    return f"judged (clean {claim.clean_accuracy:.2%}, robust {claim.robust_accuracy:.2%}; kept in {folder})"


def run_evaluate(job: Evaluate, display: Display) -> dict:
    """Judges a registered model or a checkpoint on the test split."""
    from distrib.cluster.preflight import check_nodes
    from distrib.cluster.session import session

    clock = Clock.start()
    uri = client.address(job.tracking.uri)
    job, pins = versions.pinned(job, uri, display.say)
    with run_folder(job) as folder:
        if (result := kept_result(job, folder, display)) is not None:
            return result
        must_fit(job.cluster, resuming(folder))
        data = prepared_for(job, folder, display)
        test = open_split(data, "test", "evaluation")
        subject = subject_of(job.model, test, job.loader, uri, job.trust_pickle, display)
        with (
            session(job.cluster, display.say, resuming(folder)) as resources,
            tracked(job, folder, display, pins, resources.device) as tracker,
        ):
            check_nodes(resources, folder, data, job.cluster)
            bench = Evaluator(
                data, job.loader, job.cluster, resources, folder / "evaluation", uri, job.trust_pickle, display
            )
            verdict = bench.judge(subject, job.evaluation, job.model)
            claim, workers = verdict.claim, resources.workers(job.cluster)
            with client.recorded(f"{job.model} is {in_figures(claim, folder)}"):
                card, files = card_of(verdict, bench, job.model, job)
                keep_card(files, folder, tracker)
                decision = (
                    {"champion": store.attach(job.model, card, tracker)}
                    if job.attach and job.model.startswith("models:")
                    else {}
                )
                result = {
                    "kind": "evaluate",
                    "name": job.name,
                    "run_id": tracker.run_id,
                    "model": job.model,
                    **claim.model_dump(mode="json"),
                    **decision,
                    "num_workers": workers,
                    "seconds": clock.seconds,
                    "images_per_second": round(
                        claim.n_clean / max(sum(claim.attack_seconds.values()), 1e-9) * workers, 2
                    ),
                    "job_digest": digest(job),
                    "data_sha256": bench.test.content_sha256,
                    "evaluation_key": verdict.key,
                    "card": str(folder / "card" / "card.html"),
                }
                values = {"test/clean_accuracy": claim.clean_accuracy, "test/robust_accuracy": claim.robust_accuracy}
                tracker.results(values | {f"test/{name}": value for name, value in claim.attacks.items()}, 0)
                tracker.text(json.dumps(result, indent=2), "result.json")
        write_json(folder / "result.json", result)
        return result

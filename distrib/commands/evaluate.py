"""An evaluate job, carried out; and the end evaluation of any run, from a model to the card that is kept with it."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distrib import __version__
from distrib.cluster.evaluate import EvaluationTask, Judged, in_rounds
from distrib.commands.opened import OpenRun, opened
from distrib.commands.progress import ShardProgress
from distrib.commands.tensors import read_tensors
from distrib.config.job import Evaluate, digest, dump
from distrib.data.loader import open_reader, shard
from distrib.errors import JobError
from distrib.evaluation import frozen
from distrib.evaluation.attacks import EvaluationPlan, Stored, Transfer
from distrib.evaluation.card import Card, Origin, card_files, markdown
from distrib.evaluation.made import Made, num_parameters
from distrib.evaluation.models import StoredModel, Weights, fingerprint
from distrib.evaluation.outcomes import BROKEN
from distrib.evaluation.plots import Shown
from distrib.evaluation.result import Result, conclude
from distrib.files import file_sha256
from distrib.models import Model
from distrib.models.start import Init, begin_from
from distrib.models.weights import save_weights
from distrib.registry import store
from distrib.tracking import client
from distrib.tracking.display import Display
from distrib.tracking.folder import judged_file, read_start
from distrib.world import World

SHARDS = 4
"""The form of kept shards: another one when what they hold, or how it is found, changes."""
SHOWN = 8
"""Images that a card shows."""


def run_evaluate(job: Evaluate, display: Display) -> dict:
    """Judges a registered model or a checkpoint on the test split."""
    with opened(job, display) as run:
        if run.result is not None:
            return run.result
        run.prepare()
        model = run.models.at(run.job.model) if run.job.network is None else of_tensors(run, run.job.network)
        run.join()
        run.track()
        found = evaluated(run, model, run.job.model)
        workers = run.resources.workers(run.job.cluster)
        with client.recorded(f"{run.job.model} is {in_figures(found.result, run.folder)}"):
            card, files = card_of(run, found, run.job.model, made=_made(run, model))
            kept = run.keep("card", files)
            decision = {}
            if run.job.attach and run.job.model.startswith("models:"):
                decision = {"champion": store.attach(run.job.model, card, run.tracker)}
            run.tracker.results(metrics(found.result), 0)
            run.tracker.describe(markdown(card), "card/card.html")
            seconds = max(sum(found.result.attack_seconds.values()), 1e-9)
            return run.finish(
                {
                    "model": run.job.model,
                    **found.result.model_dump(mode="json"),
                    **decision,
                    "num_workers": workers,
                    "images_per_second": round(found.result.n_clean / seconds * workers, 2),
                    "data_sha256": run.test.card.content_sha256,
                    "evaluation_key": found.key,
                    "card": str(kept / "card.html"),
                }
            )


def of_tensors(run: OpenRun[Evaluate], network: Model) -> Weights:
    """The network with the tensors that the job names, put together in the run's folder.

    Raises :class:`InputError` where they cannot be read, or do not fit.
    """
    job, card = run.job, run.test.card
    tensors = read_tensors(Path(job.model), "model")
    height, width, channels = card.image
    scale = (job.normalise.mean, job.normalise.std) if job.normalise else (card.mean, card.std)
    with torch.random.fork_rng(devices=[]):
        net = network.build((channels, height, width), len(card.classes), *scale)
    begin_from(net, tensors, Init(weights=job.model), "model")
    save_weights(net, judged_file(run.folder))
    return Weights.of(network.model_dump(mode="json"), card, judged_file(run.folder))


@dataclass(frozen=True)
class Evaluated:
    """A model, judged."""

    model: StoredModel
    plan: EvaluationPlan
    judged: Judged
    result: Result
    contents: dict[str, str]
    """The hashes of the models and sets that attacks take images from, by address."""
    key: str
    """Of the kept shards: what was judged, and how."""


def evaluated(run: OpenRun[Any], model: StoredModel, title: str) -> Evaluated:
    """Runs every attack of the job's evaluation on all workers; what was done before is not done again.

    ``title`` is what the progress bar calls the model. Raises :class:`InputError` where an attack's source is not
    there, or is the judged model itself.
    """
    from distrib.cluster.messages import listening

    plan: EvaluationPlan = run.job.plan
    cluster, test = run.job.cluster, run.test.card
    sources = {one.source: run.models.at(one.source) for one in plan.attacks if isinstance(one, Transfer)}
    task = EvaluationTask(
        model, run.data, run.job.loader, plan, cluster.cpus_per_worker, run.use_gpu, sources, cluster.stage
    )
    contents = _contents(model, plan, sources)
    terms = [
        plan.model_dump(mode="json", exclude={"batch_size"}), test.content_sha256, __version__, SHARDS,
        hashlib.sha256(model.content()).hexdigest(), sorted(contents.items()),
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(terms).encode()).hexdigest()[:16]

    shown = ShardProgress(run.display, plan, f"evaluating {title}")
    with listening(shown.hear) as mailbox:
        judged = in_rounds(replace(task, mailbox=mailbox), run.folder / "evaluation", key, cluster, shown.judged)
    run.display.end()
    return Evaluated(model, plan, judged, conclude(judged.evidence), contents, key)


def _contents(model: StoredModel, plan: EvaluationPlan, sources: dict[str, StoredModel]) -> dict[str, str]:
    mine = fingerprint(model) if sources else ""
    same = next((address for address, source in sources.items() if fingerprint(source) == mine), None)
    if same is not None:
        raise JobError(f"evaluation: {same} is the judged model itself; transfer from another one")
    contents = {address: hashlib.sha256(source.content()).hexdigest() for address, source in sources.items()}
    return contents | {one.path: frozen.identity(Path(one.path)) for one in plan.attacks if isinstance(one, Stored)}


def in_figures(result: Result, folder: Path) -> str:
    """What is known of a model before MLflow is told of it, and where it is kept."""
    return f"judged (clean {result.clean_accuracy:.2%}, robust {result.robust_accuracy:.2%}; kept in {folder})"


def metrics(result: Result) -> dict[str, float]:
    """What MLflow is told of a result, by the metrics' names."""
    found = {"test/clean_accuracy": result.clean_accuracy, "test/robust_accuracy": result.robust_accuracy}
    return found | {f"test/{name}": value for name, value in result.attacks.items()}


def card_of(run: OpenRun[Any], found: Evaluated, model: str, **more: Any) -> tuple[Card, dict[str, bytes]]:
    """The card of a model that was judged, and the card's files.

    ``model`` is what it is called there; ``more`` says of its :class:`Origin` what the job does not.
    """
    weights = found.model
    sha256 = (
        file_sha256(weights.path) if isinstance(weights, Weights) else hashlib.sha256(weights.content()).hexdigest()
    )
    said = Origin(model, sha256, found.contents, dump(run.job), digest(run.job), read_start(run.folder), **more)
    card = Card.of(found.result, found.plan, run.test.card, said, found.judged.evidence)
    return card, card_files(card, found.judged.evidence, _shown(run, found))


def _made(run: OpenRun[Evaluate], model: StoredModel) -> Made:
    """What is known of a model that others made: the registry's tags say more than its file."""
    network, training = model.title, ""
    if run.job.model.startswith("models:"):
        tags = store.tags_of(run.job.model, run.uri)
        network, training = tags.get("arch", network), tags.get("training", "")
    count = num_parameters(model.load(torch.device("cpu")))
    return Made(network=network, parameters=count, training=training)


def _shown(run: OpenRun[Any], found: Evaluated) -> list[Shown]:
    """A few images of the first shard with their worst ones: broken ones first."""
    evidence, first = found.judged.evidence, found.judged.evidence.shards[0]
    worst = load_file(found.judged.files[0])["x_adv"]
    attacked = [i for i, name in enumerate(first.worst) if name]
    broken = [i for i in attacked if any(one[i] == BROKEN for one in first.outcomes.values())]
    rows = (broken + [i for i in attacked if i not in broken])[:SHOWN]
    if not rows:
        return []
    (batch,) = shard(open_reader(run.test, run.job.loader), evidence.index[rows], len(rows), World())
    return [
        Shown(
            image.permute(1, 2, 0).numpy(), worst[i].permute(1, 2, 0).numpy(), evidence.called(first.label[i]),
            evidence.called(first.attacked[i]), first.worst[i],
        )
        for i, image in zip(rows, batch.x, strict=True)
    ]  # fmt: skip

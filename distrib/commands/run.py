"""Jobs, carried out: prepare -> train -> evaluate -> register. Each stage is kept, and not done again.

STORAGE/NAME/
    job.json          the resolved job, its digest, the MLflow run
    robust/           checkpoints, epoch by epoch
    natural/          those of the same model trained without an adversary, if asked for
    evaluation/       finished shards of the end evaluation
    result.json       the run is complete
"""

import json
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from distrib import checkpoints
from distrib.cluster.resources import must_fit
from distrib.commands.evaluator import Bench, card_of, keep_card, subject_of
from distrib.commands.prepare import must_suffice, prepared, prepared_for
from distrib.commands.train import train
from distrib.config.job import AnyJob, Evaluate, Prepare, Study, Train, Tune, digest
from distrib.data.beton import open_split
from distrib.data.loader import open_reader, shard
from distrib.data.order import chosen
from distrib.data.split import SPLITS
from distrib.evaluation.card import Card
from distrib.evaluation.models import Weights
from distrib.evaluation.result import Claim
from distrib.files import write_json
from distrib.objective import Natural
from distrib.registry import versions
from distrib.search.run import run_search
from distrib.state import Stored
from distrib.studies.run import run_study
from distrib.tracking import client
from distrib.tracking.client import Tracker
from distrib.tracking.clock import Clock
from distrib.tracking.display import Display
from distrib.tracking.epochs import metric_name
from distrib.tracking.folder import NATURAL, ROBUST, begun, kept_result, run_folder
from distrib.tracking.tracker import tracked
from distrib.world import World


def run(job: AnyJob, display: Display) -> dict:
    """Carries a job out and returns its result as plain values. Raises :class:`DistribError`."""
    match job:
        case Prepare():
            return run_prepare(job, display)
        case Train():
            return run_train(job.resolved(), display)
        case Evaluate():
            return run_evaluate(job.resolved(), display)
        case Study():
            return run_study(job, display)
        case Tune():
            return run_tune(job.resolved(), display)


def run_prepare(job: Prepare, display: Display) -> dict:
    """Packs the data; the result lists the splits."""
    folder = prepared(job, display)
    cards = [open_split(folder, split, "evaluation").card for split in SPLITS]
    return {
        "kind": "prepare",
        "folder": str(folder),
        "splits": {
            card.split: {"count": card.count, "encoding": card.encoding, "sha256": card.sha256} for card in cards
        },
        "classes": len(cards[0].classes),
        "image": list(cards[0].image),
        "mean": list(cards[0].mean),
        "std": list(cards[0].std),
    }


def run_train(job: Train, display: Display) -> dict:
    """Trains, judges, registers. A run that is complete is told again from its record."""
    from distrib.cluster.preflight import prove
    from distrib.cluster.session import session

    clock = Clock.start()
    with run_folder(job) as folder:
        if (result := kept_result(job, folder, display)) is not None:
            return result
        must_fit(job.cluster, begun(folder))
        # a wrong address is told now, not after hours of packing
        client.client(client.address(job.tracking.uri), job.tracking.experiment)
        with clock.measure("prepare"):
            data = prepared_for(job, folder, display)
        must_suffice(job, data)
        main = NATURAL if isinstance(job.objective, Natural) else ROBUST
        phases = {main: job} | ({NATURAL: job.natural_twin()} if job.compare_natural else {})
        with ExitStack() as stack:
            with clock.measure("ray_start"):
                resources = stack.enter_context(session(job.cluster, display.say, begun(folder)))
                prove(resources, folder, data, job.cluster)
            with clock.measure("mlflow_start"):
                tracker = stack.enter_context(tracked(job, folder, display, device=resources.device))
            with clock.measure("train"):
                journal = train(phases, job, folder, data, tracker, resources, display, clock)
            floor = job.validation.min_clean_accuracy
            best = {phase: checkpoints.best(folder / phase, floor, display.say) for phase in phases}
            histories = {phase: checkpoints.history(folder / phase, display.say) for phase in phases}
            bench = Bench(data, job.loader, job.cluster, resources, folder / "evaluation", tracker.uri, False, display)
            with clock.measure("evaluate"):
                verdicts = {
                    phase: bench.judge(_weights(job, data, best[phase]), job.evaluation, f"the {phase} model")
                    for phase in phases
                }
                claims = {phase: verdict.claim for phase, verdict in verdicts.items()}
            with client.recorded(f"the {main} model is {_judged(claims[main], folder)}", "registered"):
                with clock.measure("register"):
                    card, files = card_of(verdicts[main], bench, job.model_name, job)
                    keep_card(files, folder, tracker)
                    journal.settle()
                    registered = _register(job, best[main], card, files, data, tracker, display)
                result = _train_result(job, main, best, claims, histories, registered, tracker.run_id, clock)
                result |= {"evaluation_key": verdicts[main].key, "card": str(folder / "card" / "card.html")}
                _log_results(result, claims, histories, tracker, folder)
        write_json(folder / "result.json", result)
        return result


def _judged(claim: Claim, folder: Path) -> str:
    """What is known of a model before MLflow is told of it, and where it is kept."""
    return f"judged (clean {claim.clean_accuracy:.2%}, robust {claim.robust_accuracy:.2%}; kept in {folder})"


def _weights(job: Train, data: Path, best: Stored) -> Weights:
    return Weights.of(job.model.model_dump(mode="json"), open_split(data, "train", "training").card, best.judged)


def _register(
    job: Train, best: Stored, card: Card, files: dict[str, bytes], data: Path, tracker: Tracker, display: Display
) -> versions.Registered:
    validation = open_split(data, "validation", "training")
    few = chosen(validation.card.count, 4, job.seed)
    (batch,) = shard(open_reader(validation, job.loader), few, len(few), World())
    entry = versions.Entry(_weights(job, data, best), card, files, batch.x.numpy())
    registered = versions.register(entry, job.model_name, tracker)
    display.say(f"registered: {registered.uri} ({registered.champion})")
    return registered


def _train_result(
    job: Train,
    main: str,
    best: dict[str, Stored],
    claims: dict[str, Claim],
    histories: dict[str, list[dict]],
    registered: versions.Registered,
    run_id: str,
    clock: Clock,
) -> dict:
    history = histories[main]
    images = sum(entry["images_per_second"] * entry["train_seconds"] for entry in history)
    seconds = sum(entry["train_seconds"] for entry in history)
    natural = claims.get(NATURAL) if main != NATURAL else None
    return {
        "kind": "train",
        "name": job.name,
        "run_id": run_id,
        "model": registered.uri,
        "champion": registered.champion,
        **claims[main].model_dump(mode="json"),
        "natural": None if natural is None else natural.model_dump(mode="json"),
        "best_epoch": best[main].epoch,
        "epochs": len(history),
        "num_workers": int(history[-1].get("num_workers", job.cluster.max_workers)),  # as the last epoch ran
        "seconds": clock.seconds,
        "train_seconds": round(seconds, 2),
        "images_per_second": round(images / seconds, 1),
        "data_wait_share": round(float(np.mean([entry["data_wait_share"] for entry in history])), 4),
        "timings": clock.marks,
        "weights_sha256": best[main].weights_sha256,
        "job_digest": digest(job),
        "checkpoint": str(best[main].folder),
    }


def _log_results(
    result: dict, claims: dict[str, Claim], histories: dict[str, list[dict]], tracker, folder: Path
) -> None:
    """Stores the end evaluation, the curves and the result with the MLflow run."""
    from distrib.plots import training_curves

    for phase, claim in claims.items():
        values = {"test/clean_accuracy": claim.clean_accuracy, "test/robust_accuracy": claim.robust_accuracy}
        values |= {f"test/{name}": value for name, value in claim.attacks.items()}
        tracker.results({metric_name(phase, name): value for name, value in values.items()}, result["best_epoch"])
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "training_curves.png"
        training_curves(histories, path)
        tracker.file(path, "plots")
        shutil.copy(path, folder / path.name)
    tracker.text(json.dumps(result, indent=2), "result.json")
    tracker.tags({"model": result["model"], "norm": result["norm"], "epsilon": f"{result['epsilon']:.6g}"})


def run_tune(job: Tune, display: Display) -> dict:
    """Searches; then judges and registers the winner, whose version names the search."""
    result, winner = run_search(job, display)
    if winner is None:
        return result | {"winner": None}
    display.say(f"the winner is trial {result['best']['number']}: {result['best']['settings']}")
    judged = run_train(winner, display)
    versions.tag(
        judged["model"], {"search": job.name, "search_run": result["run_id"]}, client.address(winner.tracking.uri)
    )
    return result | {"winner": judged}


def run_evaluate(job: Evaluate, display: Display) -> dict:
    """Judges a registered model or a checkpoint on the test split."""
    from distrib.cluster.preflight import prove
    from distrib.cluster.session import session

    clock = Clock.start()
    uri = client.address(job.tracking.uri)
    job, pins = versions.pinned(job, uri, display.say)
    with run_folder(job) as folder:
        if (result := kept_result(job, folder, display)) is not None:
            return result
        must_fit(job.cluster, begun(folder))
        data = prepared_for(job, folder, display)
        test = open_split(data, "test", "evaluation")
        subject = subject_of(job.model, test, job.loader, uri, job.trust_pickle, display)
        with (
            session(job.cluster, display.say, begun(folder)) as resources,
            tracked(job, folder, display, pins, resources.device) as tracker,
        ):
            prove(resources, folder, data, job.cluster)
            bench = Bench(
                data, job.loader, job.cluster, resources, folder / "evaluation", uri, job.trust_pickle, display
            )
            verdict = bench.judge(subject, job.evaluation, job.model)
            claim, workers = verdict.claim, resources.workers(job.cluster)
            with client.recorded(f"{job.model} is {_judged(claim, folder)}"):
                card, files = card_of(verdict, bench, job.model, job)
                keep_card(files, folder, tracker)
                decision = (
                    {"champion": versions.attach(job.model, card, tracker)}
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

"""A train job, carried out: prepare -> train -> evaluate -> register. Each stage is kept, and not done again."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from distrib import checkpoints
from distrib.checkpoints import Checkpoint
from distrib.cluster.resources import must_fit
from distrib.cluster.session import Resources
from distrib.commands.curves import training_curves
from distrib.commands.evaluate import Evaluator, card_of, in_figures, keep_card
from distrib.commands.prepare import must_suffice, prepared_for
from distrib.config.job import Train, digest
from distrib.data.beton import open_split
from distrib.data.loader import open_reader, shard
from distrib.data.order import chosen
from distrib.evaluation.card import Card
from distrib.evaluation.models import Weights
from distrib.evaluation.result import Result
from distrib.files import write_bytes, write_json
from distrib.objective import Natural
from distrib.registry import store
from distrib.tracking import client
from distrib.tracking.clock import Clock
from distrib.tracking.display import Display
from distrib.tracking.epochs import EpochLog, metric_name
from distrib.tracking.folder import NATURAL, ROBUST, kept_result, resuming, run_folder
from distrib.tracking.tracker import Tracker, must_answer, tracked
from distrib.world import World


def train(
    phases: dict[str, Train],
    job: Train,
    folder: Path,
    data: Path,
    tracker: Tracker,
    resources: Resources,
    display: Display,
    clock: Clock,
) -> EpochLog:
    """Trains every phase that is not at its end yet. What MLflow has not taken of it is left in the journal."""
    from distrib.cluster.messages import Note, Started, listening
    from distrib.cluster.train import WorkOrder, fit
    from distrib.trainer import EpochEnd, Progress

    journal = EpochLog(tracker, display)
    for phase in phases:
        journal.catch_up(phase, checkpoints.history(folder / phase, display.say))
    if all(journal.epochs.get(phase) == part.optim.epochs for phase, part in phases.items()):
        display.say("training: complete already")
        return journal
    began = time.perf_counter()

    def listen(phase: str, notice: object) -> None:
        match notice:
            case Started():
                journal.started(notice.rank, notice.ranks, notice.node, notice.precision)
                if notice.rank == 0:
                    clock.marks.setdefault("workers_start", round(time.perf_counter() - began, 2))
                    display.say(
                        f"{phase} training: {notice.ranks} workers on {notice.device}, {notice.precision}, "
                        f"{notice.loader} loader"
                        + (f", resumed after epoch {notice.start_epoch}" if notice.start_epoch else "")
                    )
            case Note():
                display.say(notice.text)
            case Progress():
                clock.marks.setdefault("first_step", round(time.perf_counter() - began, 2))
                epoch = notice.step * phases[phase].optim.epochs / notice.steps
                detail = f"epoch {epoch:.1f}, loss {notice.loss:.3f}, {notice.images_per_second:.0f} images/s"
                display.advance(f"{phase} training", notice.step, notice.steps, detail + journal.latest(phase))
            case EpochEnd():
                journal.add(phase, notice.epoch, notice.metrics)
                journal.tell(phase, notice.epoch, phases[phase].optim.epochs)

    with listening(listen) as board:
        fit(WorkOrder(job, data, folder, phases), resources.use_gpu(job.cluster), board)
    display.end()
    for phase in phases:
        journal.catch_up(phase, checkpoints.history(folder / phase, display.say))
    return journal


def run_train(job: Train, display: Display) -> dict:
    """Trains, judges, registers. A run that is complete is told again from its record."""
    from distrib.cluster.preflight import check_nodes
    from distrib.cluster.session import session

    clock = Clock.start()
    with run_folder(job) as folder:
        if (result := kept_result(job, folder, display)) is not None:
            return result
        must_fit(job.cluster, resuming(folder))
        # a wrong address is told now, not after hours of packing
        must_answer(job.tracking)
        with clock.measure("prepare"):
            data = prepared_for(job, folder, display)
        must_suffice(job, data)
        main = NATURAL if isinstance(job.objective, Natural) else ROBUST
        phases = {main: job} | ({NATURAL: job.natural_twin()} if job.compare_natural else {})
        with ExitStack() as stack:
            with clock.measure("ray_start"):
                resources = stack.enter_context(session(job.cluster, display.say, resuming(folder)))
                check_nodes(resources, folder, data, job.cluster)
            with clock.measure("mlflow_start"):
                tracker = stack.enter_context(tracked(job, folder, display, device=resources.device))
            with clock.measure("train"):
                journal = train(phases, job, folder, data, tracker, resources, display, clock)
            floor = job.validation.min_clean_accuracy
            best = {phase: checkpoints.best(folder / phase, floor, display.say) for phase in phases}
            histories = {phase: checkpoints.history(folder / phase, display.say) for phase in phases}
            bench = Evaluator(
                data, job.loader, job.cluster, resources, folder / "evaluation", tracker.uri, False, display
            )
            with clock.measure("evaluate"):
                verdicts = {
                    phase: bench.judge(_weights(job, data, best[phase]), job.evaluation, f"the {phase} model")
                    for phase in phases
                }
                claims = {phase: verdict.claim for phase, verdict in verdicts.items()}
            with client.recorded(f"the {main} model is {in_figures(claims[main], folder)}", "registered"):
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


def _weights(job: Train, data: Path, best: Checkpoint) -> Weights:
    return Weights.of(job.model.model_dump(mode="json"), open_split(data, "train", "training").card, best.judged)


def _register(
    job: Train, best: Checkpoint, card: Card, files: dict[str, bytes], data: Path, tracker: Tracker, display: Display
) -> store.Registered:
    validation = open_split(data, "validation", "training")
    few = chosen(validation.card.count, 4, job.seed)
    (batch,) = shard(open_reader(validation, job.loader), few, len(few), World())
    entry = store.Entry(_weights(job, data, best), card, files, batch.x.numpy())
    registered = store.register(entry, job.model_name, tracker)
    display.say(f"registered: {registered.uri} ({registered.champion})")
    return registered


def _train_result(
    job: Train,
    main: str,
    best: dict[str, Checkpoint],
    claims: dict[str, Result],
    histories: dict[str, list[dict]],
    registered: store.Registered,
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
    result: dict, claims: dict[str, Result], histories: dict[str, list[dict]], tracker, folder: Path
) -> None:
    """Stores the end evaluation, the curves and the result with the MLflow run."""
    for phase, claim in claims.items():
        values = {"test/clean_accuracy": claim.clean_accuracy, "test/robust_accuracy": claim.robust_accuracy}
        values |= {f"test/{name}": value for name, value in claim.attacks.items()}
        tracker.results({metric_name(phase, name): value for name, value in values.items()}, result["best_epoch"])
    write_bytes(folder / "training_curves.png", training_curves(histories))
    tracker.file(folder / "training_curves.png", "plots")
    tracker.text(json.dumps(result, indent=2), "result.json")
    tracker.tags({"model": result["model"], "norm": result["norm"], "epsilon": f"{result['epsilon']:.6g}"})

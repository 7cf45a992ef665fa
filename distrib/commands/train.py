"""A train job, carried out: prepare -> train -> evaluate -> register. Each stage is kept, and not done again."""

import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import safetensors.torch
import torch

from distrib import checkpoints
from distrib.checkpoints import Checkpoint
from distrib.commands.curves import training_curves
from distrib.commands.evaluate import Evaluated, card_of, evaluated, in_figures, metrics
from distrib.commands.opened import OpenRun, opened
from distrib.commands.prepare import must_suffice
from distrib.commands.start import begun_with, must_keep_its_promises
from distrib.config.job import Train
from distrib.data.beton import Beton, open_split
from distrib.data.loader import Batch, open_reader, shard
from distrib.data.order import chosen
from distrib.evaluation.card import Card, markdown
from distrib.evaluation.made import Made, Twin, num_parameters, training_of
from distrib.evaluation.models import Weights
from distrib.objective import Natural
from distrib.registry import store
from distrib.tracking import client
from distrib.tracking.display import Display
from distrib.tracking.epochs import EpochLog, metric_name
from distrib.tracking.folder import NATURAL, ROBUST, read_start, write_files
from distrib.values import counted, shown_radius
from distrib.world import World


@dataclass(frozen=True)
class Trained:
    """The model of one phase: at its best epoch, and how it came there."""

    best: Checkpoint
    history: list[dict]
    """One dict of metrics an epoch."""
    found: Evaluated


def run_train(job: Train, display: Display) -> dict:
    """Trains, judges, registers. A run that is complete is told again from its record."""
    with opened(job, display) as run:
        if run.result is not None:
            return run.result
        run.prepare()
        must_suffice(run.job, run.data)
        must_keep_its_promises(run)
        init = begun_with(run)
        main = NATURAL if isinstance(run.job.objective, Natural) else ROBUST
        phases = {main: run.job} | ({NATURAL: run.job.natural_twin()} if run.job.compare_natural else {})
        run.join()
        run.track()
        with run.clock.measure("train"):
            log = train(run, phases, init)
        with run.clock.measure("evaluate"):
            models = {phase: _judged(run, phase) for phase in phases}
        with client.recorded(f"the {main} model is {in_figures(models[main].found.result, run.folder)}", "registered"):
            with run.clock.measure("register"):
                card, files = card_of(run, models[main].found, run.job.model_name, **_origin(run, main, models))
                kept = run.keep("card", files)
                log.settle()
                registered = _register(run, models[main].best, card, files)
            _log_results(run, models, card, registered.uri)
            result = _figures(run, main, models)
            return run.finish(
                {"model": registered.uri, "champion": registered.champion, **result, "card": str(kept / "card.html")}
            )


def train(run: OpenRun[Any], phases: dict[str, Train], init: Path | None = None) -> EpochLog:
    """Trains every phase that is not at its end yet, from the weights ``init``, if any.

    What MLflow has not taken of it is left in the log.
    """
    from distrib.cluster.messages import Note, Started, listening
    from distrib.cluster.train import WorkOrder, fit
    from distrib.trainer import EpochEnd, Progress

    display, clock = run.display, run.clock
    log = EpochLog(run.tracker, display, next((one for one in phases if one in (ROBUST, NATURAL)), ""))
    for phase in phases:
        log.catch_up(phase, checkpoints.history(run.folder / phase, display.say))
    if all(log.ended(phase, part.optim.epochs) for phase, part in phases.items()):
        display.say("training: complete already")
        return log
    began = time.perf_counter()

    def mark(name: str) -> None:
        clock.marks.setdefault(name, round(time.perf_counter() - began, 2))

    def listen(phase: str, message: object) -> None:
        match message:
            case Started():
                log.started(message.rank, message.ranks, message.node, message.precision)
                if message.rank == 0:
                    mark("workers_start")
                    display.say(
                        f"{phase} training: {counted(message.ranks, 'worker')} on {message.device}, "
                        f"{message.precision}, {message.loader} loader"
                        + (f", resumed after epoch {message.start_epoch}" if message.start_epoch else "")
                    )
            case Note():
                display.say(message.text)
            case Progress():
                mark("first_step")
                epoch = message.step * phases[phase].optim.epochs / message.steps
                detail = f"epoch {epoch:.1f}, loss {message.loss:.3f}, {message.images_per_second:.0f} images/s"
                display.advance(f"{phase} training", message.work, 1.0, detail + log.latest(phase))
            case EpochEnd():
                mark("first_step")  # where there was no news of the first epoch before its end
                log.add(phase, message.epoch, message.metrics)
                log.tell(phase, message.epoch, phases[phase].optim.epochs)

    display.say(f"training: starting {counted(run.job.cluster.max_workers, 'worker')} ...")
    Thread(target=store.warm, daemon=True).start()  # beside the start of the workers, which leaves cores idle
    first = next(iter(phases.values()))
    with listening(listen) as mailbox:
        fit(WorkOrder(first, run.data, run.folder, phases, init=init), run.use_gpu, mailbox)
    display.end()
    for phase in phases:
        log.catch_up(phase, checkpoints.history(run.folder / phase, display.say))
    return log


def _judged(run: OpenRun[Train], phase: str) -> Trained:
    """The best model of a phase, judged."""
    folder, say = run.folder / phase, run.display.say
    best = checkpoints.best(folder, run.job.validation.min_clean_accuracy, say)
    found = evaluated(run, _weights(run, best), f"the {phase} model")
    return Trained(best, checkpoints.history(folder, say), found)


def _weights(run: OpenRun[Train], best: Checkpoint) -> Weights:
    card = open_split(run.data, "train", "training").card
    return Weights.of(run.job.model.model_dump(mode="json"), card, best.judged)


def _origin(run: OpenRun[Train], main: str, models: dict[str, Trained]) -> dict:
    """What the card of the main model says of it beside its figures."""
    one, twin = models[main], models.get(NATURAL) if main != NATURAL else None
    assert isinstance(one.found.model, Weights)
    made = Made(
        network=one.found.model.title,
        parameters=num_parameters(one.found.model.load(torch.device("cpu"))),
        training=training_of(run.job.objective, len(one.history), one.best.epoch),
    )
    beside = None
    if twin is not None:
        result = twin.found.result
        beside = Twin(clean_accuracy=result.clean_accuracy, robust_accuracy=result.robust_accuracy, n=result.n)
    return {"made": made, "natural": beside}


def _register(run: OpenRun[Train], best: Checkpoint, card: Card, files: dict[str, bytes]) -> store.Registered:
    batch = _few(run, open_split(run.data, "validation", "training"), 4)
    shown = _few(run, run.test, 8)
    images = {"image": (shown.x * 255).round().byte(), "label": shown.y, "index": shown.index}
    whole = files | {"test_images.safetensors": safetensors.torch.save(images)}
    registered = store.register(
        store.Entry(_weights(run, best), card, whole, batch.x.numpy()), run.job.model_name, run.tracker
    )
    run.display.say(f"registered: {registered.uri} ({registered.champion})")
    return registered


def _few(run: OpenRun[Train], split: Beton, n: int) -> Batch:
    few = chosen(split.card.count, n, run.job.seed)
    (batch,) = shard(open_reader(split, run.job.loader), few, len(few), World())
    return batch


def _figures(run: OpenRun[Train], main: str, models: dict[str, Trained]) -> dict:
    """What the run came to: the main model, and its natural twin beside it."""
    one = models[main]
    history = one.history
    images = sum(entry["images_per_second"] * entry["train_seconds"] for entry in history)
    seconds = sum(entry["train_seconds"] for entry in history)
    twin = models.get(NATURAL) if main != NATURAL else None
    return {
        **one.found.result.model_dump(mode="json"),
        "natural": None if twin is None else twin.found.result.model_dump(mode="json"),
        "best_epoch": one.best.epoch,
        "init": read_start(run.folder),
        "epochs": len(history),
        "num_workers": int(history[-1].get("num_workers", run.job.cluster.max_workers)),  # as the last epoch ran
        "train_seconds": round(seconds, 2),
        "images_per_second": round(images / seconds, 1),
        "data_wait_share": round(float(np.mean([entry["data_wait_share"] for entry in history])), 4),
        "timings": dict(run.clock.marks),
        "weights_sha256": one.best.weights_sha256,
        "checkpoint": str(one.best.folder),
        "evaluation_key": one.found.key,
    }


def _log_results(run: OpenRun[Train], models: dict[str, Trained], card: Card, version: str) -> None:
    """Stores the end evaluation and the curves with the MLflow run, whose description is the card."""
    main = next(iter(models))
    for phase, one in models.items():
        values = metrics(one.found.result)
        run.tracker.results(
            {metric_name(name, phase, main): value for name, value in values.items()}, models[main].best.epoch
        )
    result = models[main].found.result
    held_out = open_split(run.data, "validation", "training").card.count
    images = min(held_out, run.job.validation.max_examples)
    about = (
        f"{version} · {result.norm} {shown_radius(result.epsilon)} · {images:,} validation images · run {run.job.name}"
    )
    curves = training_curves(
        {phase: one.history for phase, one in models.items()},
        models[main].best.epoch,
        about,
        run.job.examiner.attack.name,
    )
    for path in write_files(run.folder, {"training_curves.svg": curves}):
        run.tracker.file(path, "plots")
    run.tracker.tags({"model": version, "norm": result.norm, "epsilon": f"{result.epsilon:.6g}"})
    described = markdown(card.model_copy(update={"model": version}))
    run.tracker.describe(described, "card/card.html", "plots/training_curves.svg")

"""A robust network trained by distrib against the clock, and judged: PGD-20 on all test images, AutoAttack on some."""

import itertools
import time

import numpy as np
import torch

from benchmarks.on_gpu.report import Report
from benchmarks.on_gpu.setting import Setting, synchronise
from distrib import trainer
from distrib.attack import PGD, Adversary
from distrib.checkpoints import folder_for, save_checkpoint, verify
from distrib.config.job import Train, digest, dump
from distrib.data.beton import open_split
from distrib.data.loader import MemoryReader, TrainLoader, shard
from distrib.data.order import chosen
from distrib.evaluation.attacks import AutoAttack, EvaluationPlan, Square
from distrib.evaluation.models import Weights
from distrib.evaluation.outcomes import STOOD
from distrib.evaluation.shard import attack_shard
from distrib.noise import Noise
from distrib.precision import begin_training
from distrib.state import State
from distrib.step import update

PGD_20 = tuple(PGD(num_steps=20, step_size=step / 255) for step in (1, 2))
SHARD = 250
"""Images that AutoAttack meets at a time."""


def _state(setting: Setting, job: Train, steps: int) -> State:
    card = open_split(setting.room / "data", "train", "training").card
    height, width, channels = card.image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        model = job.model.build((channels, height, width), len(card.classes), card.mean, card.std)
    return State(model, job.optim, steps, setting.world, setting.numbers)


def _loader(setting: Setting, job: Train) -> TrainLoader:
    train = open_split(setting.room / "data", "train", "training")
    return TrainLoader(
        MemoryReader(train), train.card.count, job.seed, job.optim.batch_size, job.augment, setting.world
    )


def measure(setting: Setting, report: Report) -> None:
    """Trains as many epochs as fit, up to those of the job; then attacks every test image."""
    job, data = setting.recipe, setting.room / "data"
    loader, numbers = _loader(setting, job), begin_training(setting.numbers, setting.device)
    an_epoch = _seconds_an_epoch(setting, job, loader)
    epochs = max(1, min(job.optim.epochs, int(setting.train_seconds / an_epoch)))
    job = job.model_copy(update={"optim": job.optim.model_copy(update={"epochs": epochs})})
    origin = open_split(data, "train", "training").card.job["origin"]
    report.say(
        f"images: {origin}; {job.name}: {job.model!r}; {job.objective!r}; {job.optim!r}; seed {job.seed}; {numbers}"
    )
    report.say(f"{epochs} epochs of {loader.steps} steps, {an_epoch:.2f} s each as measured before")
    held_out = open_split(data, "validation", "training")
    some = chosen(held_out.card.count, job.validation.max_examples, job.seed)
    validation = trainer.ValidationSet(MemoryReader(held_out), some, job.examiner, job.seed, 500, job.validation.every)
    state = _state(setting, job, loader.steps)
    history: list[dict] = []
    for told in trainer.epochs(state, loader, job.objective, job.seed, validation):
        if isinstance(told, trainer.EpochEnd):
            history.append(told.metrics)
            report.row("Epochs", epoch=told.epoch, **told.metrics)
            if setting.left < 20:
                report.say(f"stopped after epoch {told.epoch} of {epochs}: time ended")
                break
    stored = save_checkpoint(state, folder_for(setting.room / "run", len(history)), history, dump(job), digest(job))
    report.fact("trained", str(stored.folder.relative_to(setting.room)))
    report.fact("training_seconds", sum(epoch["train_seconds"] for epoch in history))
    report.fact("validation_seconds", sum(epoch["validation_seconds"] for epoch in history))
    report.fact("training_images_per_second", history[-1]["images_per_second"])
    report.fact("training_data_wait_%", 100 * float(np.mean([epoch["data_wait_share"] for epoch in history])))
    _attacked(setting, report, job, state)


def _seconds_an_epoch(setting: Setting, job: Train, loader: TrainLoader) -> float:
    """Of a state that is thrown away: so many steps, after a few that are not counted."""
    state = _state(setting, job, loader.steps)
    before, counted = (1, 2) if setting.quick else (10, 40)
    began = 0.0
    for number, batch in enumerate(itertools.islice(loader.epoch(0), before + counted)):
        if number == before:
            synchronise(setting.device)
            began = time.perf_counter()
        update(state, batch, job.objective, Noise.of(batch.index, job.seed, "attack", 0), 1.0)
    synchronise(setting.device)
    return (time.perf_counter() - began) / counted * loader.steps


def _attacked(setting: Setting, report: Report, job: Train, state: State) -> None:
    """PGD-20 with two step sizes on all test images, and the lower count of the two."""
    test = open_split(setting.room / "data", "test", "evaluation")
    reader, everything = MemoryReader(test), np.arange(test.card.count)
    attacks = PGD_20 if not setting.quick else tuple(one.model_copy(update={"num_steps": 2}) for one in PGD_20)
    robust = []
    for attack in attacks:
        began = time.perf_counter()
        whole = trainer.ValidationSet(reader, everything, Adversary(job.threat, attack), 0, 1000)
        clean, stands = whole.accuracy(state.judged, setting.world)
        robust.append(stands)
        report.row(
            "All test images",
            attack=attack.name,
            step_size=f"{round(255 * next(attack.path(job.threat))[1])}/255",
            n=len(everything),
            clean_accuracy=clean,
            robust_accuracy=stands,
            seconds=time.perf_counter() - began,
        )
    report.fact("clean_%", 100 * clean)
    report.fact("PGD_20_%", 100 * min(robust))


def autoattack(setting: Setting, report: Report) -> None:
    """AutoAttack by distrib's evaluation on images drawn with the job's seed, in parts, while time remains.

    A quick run takes Square with ten queries in its place.
    """
    trained = report.known("trained")
    assert trained, "nothing was trained, so nothing can be judged"
    job, data = setting.recipe, setting.room / "data"
    test = open_split(data, "test", "evaluation")
    weights = Weights.of(job.model.model_dump(mode="json"), test.card, verify(setting.room / trained).judged)
    model = weights.load(setting.device)
    attack = Square(attack="square", queries=10) if setting.quick else AutoAttack(attack="autoattack")
    size = 8 if setting.quick else SHARD
    count = min(setting.autoattack, test.card.count)
    plan = EvaluationPlan(threat=job.threat, attacks=(attack,), n=count, seed=0, batch_size=size, shard_size=size)
    order, reader = chosen(test.card.count, count, plan.seed), MemoryReader(test)
    done = clean = robust = 0
    longest = 0.0
    for batch in shard(reader, order, size, setting.world):
        if setting.left < 1.1 * longest + 2:
            report.say(f"stopped after {done} of {count} images: {setting.left:.0f} s are left")
            break
        began = time.perf_counter()
        result = attack_shard(model, batch, np.arange(done, done + len(batch.y)), plan).result
        longest = max(longest, time.perf_counter() - began)
        done += len(batch.y)
        clean += sum(result.clean)
        robust += sum(outcome == STOOD for outcome in result.outcomes[attack.name])
        report.row(
            "AutoAttack" if not setting.quick else "Square",
            n=done,
            clean_accuracy=clean / done,
            robust_accuracy=robust / done,
            seconds=time.perf_counter() - began,
        )
    if done:
        report.fact(f"{attack.name}_%", 100 * robust / done)
        report.fact(f"{attack.name}_n", done)

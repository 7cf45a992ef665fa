"""The loop: epochs of steps, followed by validation. It knows no Ray, no MLflow and no files."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from distrib.attack import Adversary, predicted, undisturbed
from distrib.checkpoints import ROBUST
from distrib.data.loader import Reader, TrainLoader, shard
from distrib.errors import NonFiniteLoss
from distrib.noise import Noise
from distrib.objective import SaddlePoint, passes_of
from distrib.optim import epsilon_scale_at
from distrib.precision import exact_float32
from distrib.state import State
from distrib.step import update
from distrib.world import World

PROGRESS_SECONDS = 0.5
STOPPED = "stopped"
"""Among the metrics of an epoch after which training ended, though it was not the last one."""


@dataclass(frozen=True)
class Progress:
    """Where the run is, while an epoch lasts; figures of this rank."""

    step: int
    steps: int
    """In the whole run."""
    work: float
    """The share of the whole run's passes that is done: steps without an adversary take one, others one more for each
    of its steps."""
    loss: float
    images_per_second: float
    """Over all ranks."""


@dataclass(frozen=True)
class EpochEnd:
    """One epoch is done (the state has been changed accordingly); figures of all ranks together."""

    epoch: int
    """From 1."""
    metrics: dict[str, float]


def epochs(
    state: State, loader: TrainLoader, objective: SaddlePoint, seed: int, validation: "ValidationSet"
) -> Iterator[Progress | EpochEnd]:
    """Trains from where ``state`` stands to the last epoch, and says how it goes. Every rank runs it alike.

    Raises :class:`NonFiniteLoss` on every rank, before the epoch is reported.
    """
    world, natural, warmup = state.world, objective.natural_epochs, objective.epsilon_warmup_epochs
    last, passes = state.optim.epochs * loader.steps, passes_of(objective) + (1 if state.optim.awp_gamma else 0)
    quick = min(natural * loader.steps, last)

    def work(steps: int) -> float:
        return min(steps, quick) + passes * max(steps - quick, 0)

    for epoch in range(state.step // loader.steps, state.optim.epochs):
        began = shown = time.perf_counter()
        waited, seen, sums = 0.0, 0, torch.zeros(3, device=world.device)
        batches = loader.epoch(epoch)
        lr = state.lr
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            noise = Noise.of(batch.index, seed, "attack", epoch)
            scale = epsilon_scale_at(state.step, loader.steps, natural, warmup)
            step = update(state, batch, objective, noise, scale)
            seen += step.count
            sums += torch.stack([step.loss, step.correct.float(), torch.full_like(step.loss, step.count)])
            now = time.perf_counter()
            if now - shown > PROGRESS_SECONDS:
                shown = now
                share, rate = work(state.step) / work(last), seen * world.size / (now - began)
                yield Progress(state.step, last, share, sums[0].item() / seen, rate)
        seconds = time.perf_counter() - began
        loss, correct, count = world.sum(sums).tolist()
        waiting = world.sum(torch.tensor([waited / seconds], device=world.device)).item() / world.size
        if world.sum(torch.tensor([float(not state.finite())], device=world.device)).item():
            raise NonFiniteLoss(
                f"the weights are no longer finite after epoch {epoch + 1} (learning rate {lr:.3g}); lower optim.lr, "
                "set optim.clip_norm, or warm up"
            )
        metrics = {"train_loss": loss / count, "train_accuracy": correct / count}
        began = time.perf_counter()
        if (epoch + 1) % validation.every == 0 or epoch + 1 == state.optim.epochs:
            clean, robust = validation.accuracy(state.judged, world)
            metrics |= {"validation_clean_accuracy": clean, "validation_robust_accuracy": robust}
        metrics |= {
            "learning_rate": lr,
            "images_per_second": count / seconds,
            "data_wait_share": waiting,
            "num_workers": world.size,
            "train_seconds": seconds,
            "validation_seconds": time.perf_counter() - began,
        }
        yield EpochEnd(epoch + 1, metrics)


SUDDEN, SLOW, PATIENCE = 0.5, 0.02, 3
"""The share of its best robust accuracy that a model loses at once, or the points at so many validations in turn."""


def overfitting(history: Sequence[Mapping[str, float]], images: int) -> str:
    """What the metrics of all epochs so far show of overfitting at the last one, in words; nothing: the empty text.

    Robust accuracy on ``images`` held-out images falls, by more than two standard errors, while the images that are
    trained on are classified better than they were at its best.
    """
    validated = [(epoch, one) for epoch, one in enumerate(history, 1) if ROBUST in one]
    if len(validated) < 2 or validated[-1][0] != len(history):
        return ""
    number, best = max(validated, key=lambda pair: pair[1][ROBUST])
    now = history[-1]
    if now["train_accuracy"] <= best["train_accuracy"]:
        return ""
    told = f"validation robust accuracy is {now[ROBUST]:.1%}, after {best[ROBUST]:.1%} at epoch {number}, while "
    told += f"that of the images trained on rose from {best['train_accuracy']:.1%} to {now['train_accuracy']:.1%}"
    noise = 2 * math.sqrt(best[ROBUST] * (1 - best[ROBUST]) / images)
    if best[ROBUST] - now[ROBUST] > max(SUDDEN * best[ROBUST], noise):
        return f"catastrophic overfitting: {told}"
    last = [one for epoch, one in validated if epoch > number][-PATIENCE:]
    if len(last) == PATIENCE and all(best[ROBUST] - one[ROBUST] >= max(SLOW, noise) for one in last):
        return f"robust overfitting: {told}"
    return ""


@dataclass
class ValidationSet:
    """Clean and robust accuracy on images held out from the train part, by an attack of its own."""

    reader: Reader
    indices: np.ndarray
    adversary: Adversary
    seed: int
    batch_size: int = 250
    every: int = 1
    """Epochs from one to the next; the last one is always validated."""

    @exact_float32()
    def accuracy(self, model: nn.Module, world: World) -> tuple[float, float]:
        """(clean, robust) accuracy of ``model`` over all ranks; the model is left as it was. Always exact float32."""
        hits = torch.zeros(3, device=world.device)
        for batch in shard(self.reader, self.indices, self.batch_size, world):
            noise = Noise.of(batch.index, self.seed, "validation")
            x_adv = self.adversary.perturb(model, batch.x, batch.y, noise)
            with undisturbed(model, "eval"), torch.no_grad():
                clean = predicted(model(batch.x)) == batch.y
                robust = clean & (predicted(model(x_adv)) == batch.y)
            hits += torch.stack([clean.sum(), robust.sum(), torch.tensor(len(batch.y), device=world.device)])
        clean, robust, count = world.sum(hits).tolist()
        assert count == len(self.indices), f"validation counted {count:g} of {len(self.indices)} images"
        return clean / count, robust / count

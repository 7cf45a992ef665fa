"""Estimates what a search will cost: times a few steps of every kind of trial, on the machines that will train."""

import itertools
import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass

import torch

from distrib.config.job import Training, Tune, dump
from distrib.config.search import Asha, Optuna, Setting
from distrib.data.beton import DataCard
from distrib.data.loader import Batch
from distrib.errors import JobError
from distrib.noise import Noise
from distrib.objective import passes_of
from distrib.precision import format_of
from distrib.processor import compute_with
from distrib.search.space import Settings, ends, known_settings, settle
from distrib.state import State
from distrib.step import update
from distrib.world import World

SECONDS = 2.0
"""How long a kind of trial is timed after its first step, which warms up."""
AT_MOST = 50
"""The most steps that are timed."""
COMBINED = 32
"""The most combinations of a sampler's choices that are timed."""


@dataclass(frozen=True)
class Estimate:
    """Core-hours of training and validation (GPU-hours on GPUs), without start-up."""

    at_most: float
    """The cost if no trial is stopped early and a sampler chooses the most expensive kind each time."""
    about: float
    """The cost if the stopping rule stops the share of trials that it is set to stop."""
    trials: int


def kind_of(training: Training) -> str:
    """A key of everything that the time of a step depends on: trials of one kind are timed once."""
    adversary = training.objective.adversary
    steps = adversary and [adversary.attack.num_steps, adversary.attack.restarts]
    kept = [dump(training.model), training.objective.method, steps, training.optim.name,
            training.optim.batch_size, training.precision]  # fmt: skip
    return json.dumps(kept, sort_keys=True)


def timed(card: DataCard, training: Training, workers: int, threads: int, cuda: bool) -> float:
    """Images per second of one worker of this training, on random images. It runs on a worker of the cluster."""
    compute_with(threads)
    device = torch.device("cuda" if cuda else "cpu")
    height, width, channels = card.image
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = training.model.build((channels, height, width), len(card.classes), card.mean, card.std)
        count = max(1, training.optim.batch_size // workers)
        x, y = torch.rand(count, channels, height, width), torch.randint(0, len(card.classes), (count,))
    gentle = training.optim.model_copy(
        update={"lr": 1e-9, "batch_size": count}
    )  # a rate that explodes is the trial's affair
    world = World(device=device)
    state = State(model, gentle, 1000, world, format_of(training.precision, world))
    batch = Batch(x.to(device), y.to(device), torch.arange(count, device=device))
    began = steps = 0
    for steps in range(AT_MOST):
        update(state, batch, training.objective, Noise.of(batch.index, steps), 1.0)
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        began = began or now
        if now - began > SECONDS:
            break
    return steps * count / (now - began)


def plausible(job: Tune) -> list[Training]:
    """The trials that will run. Where a sampler chooses them: one for each cost, and at most ``COMBINED`` in all.

    A range is represented by its ends, and only where they differ in cost.
    """
    known = known_settings(job)
    if known is not None:
        return [settle(job, one) for one in known]
    base = {path: ends(domain)[0] for path, domain in job.space.items()}
    telling: dict[str, list[Setting]] = {}
    for path, domain in job.space.items():
        found = {(kind_of(one), one.optim.epochs) for one in _sound(job, [base | {path: end} for end in ends(domain)])}
        if len(found) > 1:
            telling[path] = ends(domain)
    if math.prod(map(len, telling.values())) > COMBINED:
        telling = {path: [values[0], values[-1]] for path, values in telling.items()}
    crossed = [base | dict(zip(telling, values, strict=True)) for values in itertools.product(*telling.values())]
    return _sound(job, crossed if len(crossed) <= COMBINED else [*crossed[: COMBINED - 1], crossed[-1]])


def _sound(job: Tune, settings: list[Settings]) -> list[Training]:
    """The trainings of these settings, without those that are refused."""
    found = []
    for one in settings:
        with suppress(JobError):
            found.append(settle(job, one))
    return found


def kinds(job: Tune) -> dict[str, Training]:
    """A training of each kind."""
    return {kind_of(training): training for training in plausible(job)}


def estimate(job: Tune, speeds: dict[str, float], card: DataCard, held_out: int, units: float) -> Estimate:
    """The cost, from one worker's images per second by kind; a trial takes ``units`` cores or GPUs."""
    hours = []
    for training in plausible(job):
        judged = min(held_out, job.score.max_examples) * (job.score.attack.num_steps * job.score.attack.restarts + 2)
        images = card.own + judged / passes_of(training.objective)
        rate = speeds[kind_of(training)] * job.cluster.max_workers
        hours.append(training.optim.epochs * images / rate * units / 3600)
    if isinstance(job.search, Optuna):
        count = job.search.num_trials
        return Estimate(max(hours) * count, sum(hours) / len(hours) * count * _share(job), count)
    return Estimate(sum(hours), sum(hours) * _share(job), len(hours))


def _share(job: Tune) -> float:
    """The share of all epochs that is trained if every rung lets the best 1/reduction_factor of the trials go on."""
    if not isinstance(job.stopping, Asha):
        return 1.0
    total, factor = job.train.optim.epochs, job.stopping.reduction_factor
    spent, last, rung, alive = 0.0, 0.0, float(job.stopping.grace_epochs), 1.0
    while last < total:
        spent += alive * (min(rung, total) - last)
        last, rung, alive = min(rung, total), rung * factor, alive / factor
    return spent / total


def within_budget(job: Tune, found: Estimate, unit: str) -> None:
    """Raises :class:`JobError` if the search would take more than it may."""
    if job.budget_hours is not None and found.at_most > job.budget_hours:
        raise JobError(
            f"budget_hours: {found.trials} trials would take {found.at_most:.2g} {unit}-hours (about "
            f"{found.about:.2g} if as many are stopped early as can be), and {job.budget_hours:g} are allowed; search "
            "less, or allow more"
        )

"""Draws settings from the domains of a search, and turns settings into the training of one trial."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from distrib.commands.prepare import must_fill
from distrib.config.explain import explain
from distrib.config.job import Train, Training, Tune, dump
from distrib.config.search import Choice, Domain, Draw, Grid, Integers, LogUniform, Never, Optuna, Setting, Uniform
from distrib.errors import JobError

TRAINING: TypeAdapter[Training] = TypeAdapter(Training)
FIXED = ("evaluation", "data", "init", "loader", "keep_checkpoints", "seed")
"""Parts of a training that are the same for every trial, or the trials could not be compared."""
DIGITS = 6
"""Significant digits of a drawn number: few enough to be read and copied from a trial's job file."""

Settings = dict[str, Setting]
"""What one trial sets, by field."""


def check_space(job: Tune) -> None:
    """Tries every end of every domain, and all settings that are drawn, before anything starts.

    Raises :class:`JobError` with the field, what was tried and what is wrong with it.
    """
    for path in job.space:
        if path.split(".")[0] in FIXED:
            raise JobError(f"space.{path}: {path.split('.')[0]} is the same for all trials; they could not be compared")
        inside = next((other for other in job.space if other.startswith(f"{path}.")), None)
        if inside:
            raise JobError(f"space.{path}: holds {inside}, which is searched too; leave one of them out")
    base = {path: ends(domain)[0] for path, domain in job.space.items()}
    warmups = []
    for path, domain in job.space.items():
        for value in ends(domain):
            training = settle(job, base | {path: value})
            _whole(job, "trial", training, job.storage, {path: value})
            warmups.append(training.warmup_epochs)
    for number, settings in enumerate(known_settings(job) or (), 1):
        trial_job(job, number, settings)
    if job.winner is not None and job.winner.epochs is not None and job.winner.epochs <= max(warmups):
        raise JobError(f"winner.epochs: {job.winner.epochs}, and a warm-up alone may last {max(warmups):g}; raise it")
    if not isinstance(job.stopping, Never) and job.stopping.grace_epochs < max(warmups):
        raise JobError(
            f"stopping.grace_epochs: {job.stopping.grace_epochs} epochs, but the warm-up lasts {max(warmups):g}: "
            "trials would be compared while it lasts; raise grace_epochs"
        )


def must_suffice_for_all(job: Tune, data: Path) -> None:
    """Raises :class:`JobError` where a trial may ask for more images than the betons in ``data`` hold."""
    if "optim.batch_size" not in job.space:
        must_fill(data, job.train.data, job.train.optim.batch_size, "train.optim.batch_size")
        return
    for size in ends(job.space["optim.batch_size"]):
        must_fill(data, job.train.data, int(size), "space.optim.batch_size")  # pyright: ignore[reportArgumentType]


def ends(domain: Domain) -> list[Setting]:
    """Every value of a grid or a choice; of a range, the lowest and the highest."""
    match domain:
        case Grid():
            return list(domain.grid)
        case Choice():
            return list(domain.choice)
        case Integers():
            low, high = domain.integers
            return [low, high - (high - low) % domain.step]
        case _:
            return [number(domain, bound) for bound in domain.bounds]


def settle(job: Tune, settings: Settings) -> Training:
    """The training with these settings. Raises :class:`JobError` if they do not go together."""
    document = dump(job.train)
    for path, value in settings.items():
        _put(document, path, value)
    for path, domain in job.space.items():
        by = getattr(domain, "divided_by", None)
        if by is not None:
            value = settings[path]
            assert isinstance(value, float)
            _put(document, path, round_to(value / _divisor(document, path, by)))
    try:
        return TRAINING.validate_json(json.dumps(document))
    except ValidationError as error:
        tried = ", ".join(f"{path} = {json.dumps(value)}" for path, value in settings.items())
        lines = [f"space: with {tried}: train.{line}" for line in explain(error, Training, document)]
        raise JobError("\n".join(lines)) from None


def told(job: Tune, settings: Settings) -> str:
    """The settings of a trial for a person: each as it was drawn and, where it is divided, as it is trained with."""
    document = dump(settle(job, settings))

    def one(path: str, value: Setting) -> str:
        by = getattr(job.space[path], "divided_by", None)
        trained = "" if by is None else f"/{_found(document, by)} = {_found(document, path)}"
        return f"{path} = {json.dumps(value)}{trained}"

    return ", ".join(one(path, value) for path, value in settings.items())


def known_settings(job: Tune) -> list[Settings] | None:
    """The settings of every trial in order; None if a sampler chooses each by the outcome of others."""
    if isinstance(job.search, Optuna):
        return None
    grids = {path: domain.grid for path, domain in job.space.items() if isinstance(domain, Grid)}
    crossed = [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]
    draws = _draws(job.search, job.space) if isinstance(job.search, Draw) else [{}]
    return [{path: (draw | cell)[path] for path in job.space} for draw in draws for cell in crossed]


def _draws(search: Draw, space: dict[str, Domain]) -> Iterator[Settings]:
    generator = np.random.default_rng(search.seed)
    for _ in range(search.num_trials):
        yield {path: _draw(domain, generator) for path, domain in space.items() if not isinstance(domain, Grid)}


def _draw(domain: Domain, generator: np.random.Generator) -> Setting:
    match domain:
        case Choice():
            return domain.choice[int(generator.integers(len(domain.choice)))]
        case Integers():
            low, high = domain.integers
            return low + domain.step * int(generator.integers((high - low) // domain.step + 1))
        case LogUniform():
            low, high = domain.loguniform
            return number(domain, math.exp(generator.uniform(math.log(low), math.log(high))))
        case Uniform(step=float(step)):
            low, high = domain.uniform
            return round_to(low + step * int(generator.integers(math.floor((high - low) / step + 1e-9) + 1)))
        case Uniform():
            return number(domain, generator.uniform(*domain.uniform))
        case Grid():
            raise AssertionError("grids are crossed, not drawn")


def number(domain: Uniform | LogUniform, value: float) -> float:
    """The number of the domain that is nearest to ``value``."""
    low, high = domain.bounds
    if domain.step is not None:
        most = math.floor((high - low) / domain.step + 1e-9)
        value = low + domain.step * min(most, round((value - low) / domain.step))
    return round_to(value)


def round_to(value: float) -> float:
    """``value`` rounded to ``DIGITS`` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _found(document: dict, path: str) -> object:
    found: object = document
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _divisor(document: dict, path: str, by: str) -> float:
    found = _found(document, by)
    if found is None:
        raise JobError(
            f"space.{path}.divided_by: train has no number at {by}; name a field, such as objective.attack.num_steps"
        )
    if not isinstance(found, int | float) or isinstance(found, bool) or found <= 0:
        raise JobError(f"space.{path}.divided_by: train.{by} is {found!r}, not a number above 0")
    return found


def _put(document: dict, path: str, value: Setting) -> None:
    *parents, last = path.split(".")
    for depth, key in enumerate(parents):
        found = document.setdefault(key, {})  # what is no field at all is refused with the whole
        if not isinstance(found, dict):
            where = ".".join(parents[: depth + 1])
            raise JobError(f"space.{path}: train.{where} is {found!r} and has no field {path.split('.')[depth + 1]}; "
                           f"write it as a mapping in train")  # fmt: skip
        document = found
    document[last] = value


def trial_job(job: Tune, number: int, settings: Settings) -> Train:
    """The train job of trial ``number``, in the search's own folder."""
    training = settle(job, settings)
    return _whole(job, f"{job.name}-{number:04d}", training, f"{job.storage}/{job.name}/trials", settings)


def _whole(job: Tune, name: str, training: Training, storage: str, settings: Settings) -> Train:
    try:
        return job.trial(name, training, storage)
    except ValidationError as error:
        tried = ", ".join(f"{path} = {json.dumps(value)}" for path, value in settings.items())
        lines = [f"space: with {tried}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors()]
        raise JobError("\n".join(lines)) from None

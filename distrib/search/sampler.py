"""Translates a search to Optuna and back: distributions, samplers, and the importance of each field."""

import math
import warnings
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from distrib.config.job import Tune
from distrib.config.search import Choice, Domain, Grid, Integers, LogUniform, Optuna, SearchMethod, Space, Uniform
from distrib.search.space import Settings, number
from distrib.search.trials import Trial, TrialOutcome

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"robust": "maximize", "clean": "maximize", "cost": "minimize"}
STUDY = "search"
LEAST_OUTCOMES = 8
"""Importance is computed from this many trials on."""


def distributions(space: dict[str, Domain]) -> dict[str, BaseDistribution]:
    """Optuna's distribution for each field. A choice is a categorical over the places in its list."""
    return {path: _distribution(domain) for path, domain in space.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Choice():
            return CategoricalDistribution(tuple(range(len(domain.choice))))
        case Grid():
            return CategoricalDistribution(tuple(range(len(domain.grid))))
        case Integers():
            return IntDistribution(*domain.integers, step=domain.step)
        case Uniform(step=float(step)):
            low, high = domain.uniform
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a bound may be off its steps by the sixteenth digit
                return FloatDistribution(low, low + step * math.floor((high - low) / step + 1e-9), step=step)
        case Uniform():
            return FloatDistribution(*domain.uniform)
        case LogUniform():
            return FloatDistribution(*domain.loguniform, log=True)


def settings_of(space: dict[str, Domain], chosen: dict[str, Any]) -> Settings:
    """The settings that Optuna chose."""
    found = {}
    for path, domain in space.items():
        value = chosen[path]
        match domain:
            case Choice() | Grid():
                found[path] = _listed(domain)[value]
            case Uniform() | LogUniform():
                found[path] = number(domain, value)
            case _:
                found[path] = value
    return found


def raw(space: dict[str, Domain], settings: Settings) -> dict[str, Any]:
    """Settings as Optuna holds them; the inverse of :func:`settings_of`."""
    return {path: _raw(domain, settings[path]) for path, domain in space.items()}


def _raw(domain: Domain, value: Any) -> Any:
    match domain:
        case Choice() | Grid():
            return _listed(domain).index(value)
        case Uniform(step=float(step)):  # settings are rounded; Optuna takes its own numbers only
            low, high = domain.uniform
            return min(low + step * round((value - low) / step), high)
        case Uniform() | LogUniform():
            return min(max(value, domain.bounds[0]), domain.bounds[1])
        case _:
            return value


def _listed(domain: Choice | Grid) -> tuple:
    return domain.choice if isinstance(domain, Choice) else domain.grid


def sampler(search: SearchMethod, several: bool, known: int) -> optuna.samplers.BaseSampler:
    """TPE, or NSGA-II for several objectives. ``known`` trials shift its seed, so that a restart repeats no draw."""
    assert isinstance(search, Optuna)
    seed = search.seed + known
    if several:
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(2, search.random_trials))
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.random_trials)


def memory(job: Tune, outcomes: list[TrialOutcome], left: list[Trial]) -> optuna.storages.InMemoryStorage:
    """Storage with a study named ``STUDY``, which knows the outcomes and proposes the trials ``left`` first."""
    _quiet()
    storage, names = optuna.storages.InMemoryStorage(), job.score.objectives
    study = optuna.create_study(study_name=STUDY, storage=storage, directions=[DIRECTIONS[name] for name in names])
    for one in outcomes:
        values = [one.value(name) for name in names] if len(names) > 1 else [one.score]
        study.add_trial(_told(job.space, one, values))
    for trial in left:
        study.enqueue_trial(raw(job.space, trial.settings))
    return storage


def _told(space: Space, outcome: TrialOutcome, values: list[float]) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        params=raw(space, outcome.trial.settings), distributions=distributions(space), values=values
    )


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def importance(space: Space, outcomes: list[TrialOutcome]) -> dict[str, float]:
    """The share of the differences in robust accuracy that each field explains (fANOVA); the shares sum to 1.

    Empty where there are too few trials, or where they do not differ.
    """
    if len(outcomes) < LEAST_OUTCOMES or len({one.robust_accuracy for one in outcomes}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns that the evaluator is experimental
        _quiet()
        study = optuna.create_study(direction="maximize")
        for one in outcomes:
            study.add_trial(_told(space, one, [one.robust_accuracy]))
        return optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )

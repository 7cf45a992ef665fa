"""What Optuna is told of a search, and what it says of it."""

import numpy as np
import optuna
import pytest
from searches import EPSILON, STEP, WIDTH, epoch, outcome, tune

from distrib.config.search import Choice, Integers, LogUniform, Optuna, Uniform
from distrib.search import sampler
from distrib.search.trials import Trial, TrialOutcome


@pytest.mark.parametrize(
    ("domain", "settings"),
    [
        (Choice(choice=(1, {"arch": "x"}, True)), (1, {"arch": "x"})),
        (Integers(integers=(2, 8), step=2), (2, 6)),
        (Uniform(uniform=(0.1, 0.4)), (0.1, 0.25)),
        (Uniform(uniform=("2/255", "16/255"), step=0.00784314), (0.0156863, 0.0470588)),
        (LogUniform(loguniform=("4/255", "16/255")), (0.0156863, 0.0627451)),
        (LogUniform(loguniform=(1e-4, 1e-1)), (1e-4, 0.02)),
    ],
)
def test_settings_go_to_optuna_and_back(domain, settings):
    for value in settings:
        given = sampler.raw({"a": domain}, {"a": value})
        known = sampler.distributions({"a": domain})
        optuna.trial.create_trial(params=given, distributions=known, value=0.0)  # raises if it is none of its values
        assert sampler.settings_of({"a": domain}, given) == {"a": value}


def test_importance_finds_the_field_that_matters():
    draw = np.random.default_rng(0)
    space = {EPSILON: Uniform(uniform=(0.05, 0.3)), WIDTH: Choice(choice=(0.25, 0.5))}
    found = []
    for number in range(1, 31):
        settings = {EPSILON: float(draw.uniform(0.05, 0.3)), WIDTH: (0.25, 0.5)[int(draw.integers(2))]}
        robust = settings[EPSILON] + 0.01 * settings[WIDTH]
        found.append(TrialOutcome.of(tune(), Trial(number, settings, "finished"), [epoch(robust)], 1))
    shares = sampler.importance(space, found)
    assert shares[EPSILON] > 0.9 > 0.1 > shares[WIDTH] and sum(shares.values()) == pytest.approx(1)
    assert sampler.importance(space, found[:5]) == {}, "too few to say"
    flat = [TrialOutcome.of(tune(), one.trial, [epoch(0.5)], 1) for one in found]
    assert sampler.importance(space, flat) == {}, "nothing to explain"


def test_optuna_asks_first_for_what_was_begun_and_knows_what_ended():
    job = tune({"search": {"method": "optuna", "num_trials": 9}})
    left = [Trial(7, {EPSILON: 0.123, STEP: 1.5, WIDTH: 0.5})]
    memory = sampler.memory(job, [outcome(1, 0.3), outcome(2, 0.6)], left)
    assert isinstance(job.search, Optuna)
    study = optuna.load_study(study_name=sampler.STUDY, storage=memory, sampler=sampler.sampler(job.search, False, 2))
    assert [one.value for one in study.trials[:2]] == [0.3, 0.6] and study.best_value == 0.6
    asked = study.ask(sampler.distributions(job.space))
    assert sampler.settings_of(job.space, asked.params) == left[0].settings

"""The space of a search: what is drawn, how it becomes a training, and what is refused before anything starts."""

import json

import numpy as np
import pytest
from adversaries import lengths
from pydantic import TypeAdapter
from searches import tune

from distrib.config.job import Tune
from distrib.config.search import Domain
from distrib.errors import JobError
from distrib.search.space import check_space, ends, known_settings, settle, told, trial_job

EPSILON, STEP, WIDTH = "objective.threat.epsilon", "objective.attack.step_size.of_epsilon", "model.width"


def with_space(space: dict, **fields: object) -> Tune:
    return tune({"space": space, **fields})


def domain(**fields: object) -> Domain:
    return TypeAdapter(Domain).validate_json(json.dumps(fields))


def values(space: dict, path: str, trials: int = 400) -> np.ndarray:
    settings = known_settings(with_space(space, search={"method": "random", "num_trials": trials}))
    assert settings is not None and len(settings) == trials
    return np.array([one[path] for one in settings])


def test_uniform_fills_its_range_evenly_and_nothing_else():
    found = values({EPSILON: {"uniform": ["8/255", 0.4]}}, EPSILON)
    assert 8 / 255 <= found.min() < 0.05 and 0.38 < found.max() <= 0.4
    assert abs(np.mean(found < (0.4 + 8 / 255) / 2) - 0.5) < 0.08


def test_loguniform_gives_every_order_of_magnitude_its_share():
    found = values({"optim.lr": {"loguniform": [1e-4, 1e-1]}}, "optim.lr")
    shares = [np.mean((low <= found) & (found < 10 * low)) for low in (1e-4, 1e-3, 1e-2)]
    assert all(abs(share - 1 / 3) < 0.08 for share in shares) and found.max() <= 1e-1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"uniform": [0.1, 0.4], "step": 0.1}, {0.1, 0.2, 0.3, 0.4}),
        ({"uniform": [0.1, 0.35], "step": 0.1}, {0.1, 0.2, 0.3}),
        ({"choice": [0.1, 0.25]}, {0.1, 0.25}),
    ],
)
def test_steps_and_choices_are_all_met_and_alike_often(given: dict, expected: set):
    found = values({EPSILON: given}, EPSILON)
    assert set(found.tolist()) == expected
    assert all(abs(np.mean(found == one) - 1 / len(expected)) < 0.09 for one in expected)


def test_whole_numbers_include_both_ends():
    found = values({"objective.attack.num_steps": {"integers": [3, 7], "step": 2}}, "objective.attack.num_steps", 200)
    assert set(found.tolist()) == {3, 5, 7}
    assert ends(domain(integers=[3, 8], step=2)) == [3, 7]


def test_grids_are_crossed_and_draws_repeated_for_each():
    space = {WIDTH: {"grid": [0.5, 1]}, EPSILON: {"grid": [0.1, 0.2, 0.3]}}
    crossed = known_settings(with_space(space, search={"method": "grid"}))
    assert crossed is not None and len(crossed) == 6 and len({tuple(one.items()) for one in crossed}) == 6
    mixed = known_settings(with_space({WIDTH: {"grid": [0.5, 1]}, EPSILON: {"uniform": [0.1, 0.3]}}))
    assert mixed is not None and [one[WIDTH] for one in mixed] == [0.5, 1] * 3
    assert mixed[0][EPSILON] == mixed[1][EPSILON] != mixed[2][EPSILON]
    assert list(mixed[0]) == [WIDTH, EPSILON], "in the order of the space"


def test_the_same_seed_draws_the_same_and_another_seed_others():
    space = {EPSILON: {"uniform": [0.1, 0.3]}}
    first, again, other = (
        known_settings(with_space(space, search={"method": "random", "num_trials": 5, "seed": seed}))
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_settings_become_the_training_and_only_there():
    job = tune()
    settings = {EPSILON: 0.25, STEP: 2.0, WIDTH: 0.5}
    found = settle(job, settings)
    attack = found.objective.attack
    assert (found.objective.threat.epsilon, found.model.width) == (0.25, 0.5)
    assert attack.step_size.of_epsilon == pytest.approx(2.0 / attack.num_steps), "divided by the number of steps"
    assert sum(lengths(attack, found.objective.threat)) == pytest.approx(2.0 * 0.25, rel=1e-5)
    back = found.model_copy(update={"objective": job.train.objective, "model": job.train.model})
    assert back == job.train


def test_a_person_is_told_what_was_drawn_and_what_is_trained_with():
    found = told(tune(), {EPSILON: 0.25, STEP: 1.40468, WIDTH: 0.5})
    assert found == f"{EPSILON} = 0.25, {STEP} = 1.40468/5 = 0.280936, {WIDTH} = 0.5"
    steps = "objective.attack.num_steps"
    job = with_space({STEP: {"uniform": [1, 2.5], "divided_by": steps}, steps: {"choice": [7, 10]}})
    assert told(job, {STEP: 1.40468, steps: 7}) == f"{STEP} = 1.40468/7 = 0.200669, {steps} = 7", (
        "the trial's own field"
    )


def test_divided_by_takes_the_trials_own_field():
    space = {STEP: {"uniform": [1, 2.5], "divided_by": "objective.attack.num_steps"},
             "objective.attack.num_steps": {"choice": [5, 10]}}  # fmt: skip
    job = with_space(space)
    for steps in (5, 10):
        found = settle(job, {STEP: 2.0, "objective.attack.num_steps": steps}).objective.attack
        assert found.step_size.of_epsilon == pytest.approx(2.0 / steps)


def test_every_trial_is_judged_alike_whatever_it_trains_with():
    """The smallest epsilon would win otherwise."""
    job = tune()
    weak, strong = (trial_job(job, 1, {EPSILON: epsilon, STEP: 1.0, WIDTH: 1}) for epsilon in (0.05, 0.3))
    assert weak.objective.threat.epsilon == 0.05 and strong.objective.threat.epsilon == 0.3
    assert weak.validation == strong.validation and weak.validation.attack == job.score.attack
    assert weak.evaluation == strong.evaluation and weak.evaluation.threat == weak.validation.threat == job.score.threat
    assert (weak.name, weak.storage) == ("search-0001", "runs/search/trials")


REFUSED = [
    ({"model.widht": {"choice": [1]}}, {}, "train.model.widht: no such field (did you mean width?)"),
    ({WIDTH: {"choice": [1, -1]}}, {}, "model.width = -1: train.model.width: expected greater than 0"),
    ({WIDTH: {"choice": ["wide"]}}, {}, "train.model.width: expected a valid number, not 'wide'"),
    ({EPSILON: {"uniform": [0.1, 2]}}, {}, "epsilon = 2"),
    ({"step_size.of_epsilon": {"uniform": [1, 2], "divided_by": "objective.attack.num_steps"}}, {},
     ": train.step_size: no such field (did you mean objective.attack.step_size?); the fields here are seed, data, "),
    ({"objective.atack.num_steps": {"choice": [1]}}, {},
     ": train.objective.atack: no such field (did you mean attack?)"),
    ({"num_steps": {"choice": [1]}}, {}, "no such field (did you mean objective.attack.num_steps?); the fields"),
    ({"optim.lr.peak": {"choice": [1]}}, {}, "train.optim.lr is 0.1 and has no field peak"),
    ({"evaluation.threat.epsilon": {"choice": [0.1]}}, {}, "evaluation is the same for all trials"),
    ({"seed": {"choice": [1, 2]}}, {}, "seed is the same for all trials"),
    ({"optim.batch_size": {"choice": [1]}}, {"cluster": {"num_workers": 2}}, "2 workers cannot share batches of 1"),
    ({"model": {"choice": [{"arch": "small_cnn"}, {"arch": "preact_resnet"}]}, "batch_norm": {"choice": ["local"]}},
     {"cluster": {"num_workers": 9}}, "9 workers have 14 of 128 images each, and preact_resnet has BatchNorm"),
    ({"data.limit": {"choice": [10]}}, {}, "data is the same for all trials"),
    ({"init.head": {"choice": ["keep", "new"]}}, {}, "init is the same for all trials"),
    ({"model": {"choice": [{"arch": "small_cnn"}]}, WIDTH: {"choice": [1]}}, {}, "space.model: holds model.width"),
    ({STEP: {"uniform": [1, 2], "divided_by": "optim.schedule"}}, {}, "divided_by: train.optim.schedule is {"),
    ({STEP: {"uniform": [1, 2], "divided_by": "optim.nothing"}}, {}, "train has no number at optim.nothing; name"),
    ({"optim.warmup_epochs": {"choice": [1, 3]}}, {"stopping": {"stop": "asha", "grace_epochs": 2}}, "warm-up lasts 3"),
    ({"objective.epsilon_warmup_epochs": {"choice": [0, 3]}}, {"winner": {"epochs": 3}}, "warm-up alone may last 3"),
    ({"objective.natural_epochs": {"choice": [0, 3]}}, {"winner": {"epochs": 3}}, "warm-up alone may last 3"),
]  # fmt: skip


@pytest.mark.parametrize(("space", "fields", "words"), REFUSED, ids=[words[:40] for *_, words in REFUSED])
def test_a_space_that_does_not_fit_the_job_is_refused(space: dict, fields: dict, words: str):
    with pytest.raises(JobError) as caught:
        check_space(with_space(space, **fields))
    assert words in str(caught.value), str(caught.value)


def test_settings_that_do_not_go_together_are_refused_too():
    space = {"optim.epochs": {"grid": [2, 9]}, "objective.epsilon_warmup_epochs": {"grid": [1, 3]}}
    with pytest.raises(JobError, match=r"optim.epochs = 2, objective.epsilon_warmup_epochs = 3: .* 3 of 2 epochs"):
        check_space(with_space(space, search={"method": "grid"}))


def test_a_space_that_fits_is_let_through():
    check_space(tune())
    check_space(with_space({"model": {"choice": [{"arch": "small_cnn"}, {"arch": "paper_cnn", "width": 0.25}]}}))
    check_space(tune({"train.objective": {"method": "natural"}, "space": {WIDTH: {"choice": [1]}}}))

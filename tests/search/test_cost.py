"""What a search says that it will cost."""

from pathlib import Path

import pytest
from searches import EPSILON, STEP, WIDTH, tune

from distrib.data.beton import open_split
from distrib.errors import JobError
from distrib.search import cost
from distrib.search.space import settle


def test_kinds_of_trial_are_told_by_what_their_time_depends_on():
    job = tune()
    one, other = ({EPSILON: epsilon, STEP: 1.0, WIDTH: 0.25} for epsilon in (0.1, 0.3))
    assert cost.kind_of(settle(job, one)) == cost.kind_of(settle(job, other))
    assert cost.kind_of(settle(job, one)) != cost.kind_of(settle(job, one | {WIDTH: 0.5}))
    longer = tune({"train.objective.attack.num_steps": 9})
    assert cost.kind_of(settle(job, one)) != cost.kind_of(settle(longer, one))
    sgd, adam = (tune({"train.optim": {"name": name, "lr": 0.1, "epochs": 4}}) for name in ("sgd", "adam"))
    assert cost.kind_of(settle(sgd, one)) != cost.kind_of(settle(adam, one)), "Muon's steps take longest"


def test_the_estimate_is_images_by_speed_and_the_budget_is_kept(digits: Path):
    card = open_split(digits, "train", "training").card
    job = tune({"search": {"method": "random", "num_trials": 6}})
    speeds = dict.fromkeys(cost.kinds(job), 100.0)
    found = cost.estimate(job, speeds, card, held_out=30, units=1)
    # 6 trials x 4 epochs x (270 images trained on + 30 judged at 7/6 of a training step) / 100 images/s
    assert found.at_most == pytest.approx(6 * 4 * (270 + 30 * 7 / 6) / 100 / 3600) and found.about == found.at_most
    halved = tune({"search": {"method": "random", "num_trials": 6},
                   "stopping": {"stop": "asha", "grace_epochs": 2, "reduction_factor": 2}})  # fmt: skip
    assert cost.estimate(halved, speeds, card, 30, 1).about == pytest.approx(found.at_most * (2 + 2 / 2) / 4)
    faster = cost.estimate(tune({"cluster.num_workers": 2}), speeds, card, 30, units=2)
    assert faster.at_most == pytest.approx(found.at_most / 2), "half the trials; two workers take half as long"
    cost.within_budget(tune({"budget_hours": 1}), found, "core")
    with pytest.raises(JobError, match=r"6 trials would take 0\.02 core-hours.*0\.01 are allowed"):
        cost.within_budget(tune({"budget_hours": 0.01}), found, "core")


def test_every_choice_of_a_sampler_is_timed_and_it_may_choose_the_dearest_each_time(digits: Path):
    card = open_split(digits, "train", "training").card
    widths = {"space": {WIDTH: {"choice": [0.25, 0.5, 1, 2]}}, "search": {"method": "optuna", "num_trials": 8}}
    job = tune(widths)
    kinds = cost.kinds(job)
    assert sorted(training.model.width for training in kinds.values()) == [0.25, 0.5, 1, 2]
    speeds = {kind: 100 / training.model.width for kind, training in kinds.items()}
    found = cost.estimate(job, speeds, card, held_out=30, units=1)
    one = 4 * (270 + 30 * 7 / 6) / 100 / 3600
    assert found.about == pytest.approx(2 * (0.25 + 0.5 + 1 + 2) * one)
    assert found.at_most == pytest.approx(8 * 2 * one)
    few = tune(widths | {"search": {"method": "optuna", "num_trials": 2}})
    assert len(cost.kinds(few)) == 4 and cost.estimate(few, speeds, card, 30, 1).at_most == pytest.approx(2 * 2 * one)


STEPS = "objective.attack.num_steps"


def test_what_a_sampler_may_combine_is_timed_if_it_can_be_trained_and_matters():
    def timed(space: dict) -> list[tuple]:
        job = tune({"space": space, "search": {"method": "optuna", "num_trials": 8}})
        found = cost.kinds(job).values()
        return sorted((one.model.width, one.objective.attack.num_steps) for one in found)

    lr = {"optim.lr": {"loguniform": [1e-3, 1e-1]}}
    width, steps = {WIDTH: {"choice": [2, 0.25]}}, {STEPS: {"integers": [1, 20]}}
    assert timed({**width, **steps, **lr}) == [(0.25, 1), (0.25, 20), (2, 1), (2, 20)]
    nesterov = {"optim.nesterov": {"choice": [False, True]}, "optim.momentum": {"choice": [0.9, 0]}}
    assert timed({**width, **nesterov}) == [(0.25, 5), (2, 5)], "nesterov without momentum is no reason to refuse"
    many = {
        WIDTH: {"choice": [0.25, 0.5, 1, 2]},
        STEPS: {"choice": [1, 2, 3]},
        "optim.batch_size": {"choice": [8, 16, 32]},
    }
    job = tune({"space": many, "search": {"method": "optuna", "num_trials": 8}})
    found = [(one.model.width, one.objective.attack.num_steps, one.optim.batch_size) for one in cost.plausible(job)]
    assert len(found) == 8 and (2, 3, 32) in found, "the ends, where all are too many"


def test_a_step_of_every_kind_can_be_timed(digits: Path):
    card = open_split(digits, "train", "training").card
    job = tune({"space": {WIDTH: {"choice": [0.25, 2]}}})
    speeds = [cost.timed(card, training, workers=2, threads=1, cuda=False) for training in cost.kinds(job).values()]
    assert all(speed > 0 for speed in speeds)

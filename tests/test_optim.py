"""Learning rates and epsilon as functions of the step; parameter groups; optimisers."""

import math
from itertools import pairwise

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from distrib.models import PreActResNet, SmallCNN
from distrib.optim import (
    SGD,
    Adam,
    Constant,
    Cosine,
    Cyclic,
    Linear,
    Multistep,
    Muon,
    Optim,
    decay_groups,
    epsilon_scale_at,
)

CONSTANT, LINEAR, COSINE = Constant(), Linear(shape="linear"), Cosine(shape="cosine")
CYCLIC, EARLY = Cyclic(shape="cyclic"), Cyclic(shape="cyclic", peak=0.25)
STEPS = Multistep(shape="multistep", milestones=(10.0, 15.0))


def sgd(**fields) -> SGD:
    return SGD(**{"name": "sgd", "epochs": 20, "lr": 0.1, **fields})


@pytest.mark.parametrize(
    ("schedule", "landmarks"),
    [
        (CONSTANT, {0: 1, 7.3: 1, 20: 1}),
        (LINEAR, {0: 1, 5: 0.75, 10: 0.5, 19: 0.05, 20: 0}),
        (COSINE, {0: 1, 20 / 3: 0.75, 10: 0.5, 40 / 3: 0.25, 20: 0}),
        (CYCLIC, {0: 0, 4: 0.5, 8: 1, 14: 0.5, 20: 0}),
        (EARLY, {0: 0, 2.5: 0.5, 5: 1, 12.5: 0.5, 20: 0}),
        (STEPS, {0: 1, 9.99: 1, 10: 0.1, 14.99: 0.1, 15: 0.01, 20: 0.01}),
        (Multistep(shape="multistep", milestones=(0.5,), gamma=0.5), {0.49: 1, 0.5: 0.5, 20: 0.5}),
    ],
    ids=lambda value: value.shape if hasattr(value, "shape") else "",
)
def test_schedules_at_their_landmarks(schedule, landmarks: dict[float, float]):
    found = {epoch: schedule.factor(epoch, 20) for epoch in landmarks}
    assert found == pytest.approx(landmarks, abs=1e-12)


MEANS = {"constant": (CONSTANT, 1.0), "linear": (LINEAR, 0.5), "cosine": (COSINE, 0.5), "cyclic": (CYCLIC, 0.5),
         "cyclic, early": (EARLY, 0.5), "multistep": (STEPS, (10 + 5 * 0.1 + 5 * 0.01) / 20)}  # fmt: skip


@pytest.mark.parametrize(("schedule", "mean"), MEANS.values(), ids=MEANS.keys())
@pytest.mark.parametrize("steps_per_epoch", [1, 2, 10])
def test_the_mean_learning_rate_is_the_integral_of_the_schedule(schedule, mean: float, steps_per_epoch: int):
    """Exactly, since the middle of each step counts: the midpoint rule has no error on straight pieces."""
    optim = sgd(schedule=schedule)
    rates = [optim.lr_at(step, steps_per_epoch) for step in range(20 * steps_per_epoch)]
    assert sum(rates) / len(rates) == pytest.approx(0.1 * mean, rel=1e-9)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in MEANS.values()], ids=MEANS.keys())
@pytest.mark.parametrize("warmup", [0.0, 0.5, 3.0])
def test_no_step_is_wasted_and_none_exceeds_the_peak(schedule, warmup: float):
    rates = [sgd(schedule=schedule, warmup_epochs=warmup).lr_at(step, 7) for step in range(140)]
    assert all(0 < rate <= 0.1 for rate in rates)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, STEPS, CONSTANT], ids=lambda schedule: schedule.shape)
def test_without_a_rise_the_rate_never_rises(schedule):
    rates = [sgd(schedule=schedule).lr_at(step, 9) for step in range(180)]
    assert all(late <= early for early, late in pairwise(rates))


def test_a_warmup_rises_in_a_straight_line_and_then_leaves_the_schedule_alone():
    warm, plain = sgd(schedule=COSINE, warmup_epochs=4.0), sgd(schedule=COSINE)
    shares = [warm.lr_at(step, 10) / plain.lr_at(step, 10) for step in range(200)]
    assert shares[:40] == pytest.approx([(step + 0.5) / 40 for step in range(40)])
    assert shares[40:] == [1.0] * 160


def test_the_rate_does_not_depend_on_how_steps_are_cut_into_epochs():
    """Only the epoch counts: the middle of an epoch is step 5 of 11, or step 16 of 33."""
    optim = sgd(schedule=CYCLIC, warmup_epochs=2.0)
    for epoch in (0, 1, 5, 8, 19):
        assert optim.lr_at(epoch * 11 + 5, 11) == pytest.approx(optim.lr_at(epoch * 33 + 16, 33))


def test_beyond_the_end_the_last_rate_stays():
    """A step more, after a restart, must not give a negative rate."""
    assert sgd(schedule=LINEAR).lr_at(1000, 10) == 0 and sgd(schedule=CYCLIC).lr_at(1000, 10) == pytest.approx(0)


@pytest.mark.parametrize("warmup", [0.5, 1.0, 2.5, 10.0])
@pytest.mark.parametrize("steps_per_epoch", [1, 3, 100])
def test_epsilon_rises_in_a_straight_line_to_exactly_one(warmup: float, steps_per_epoch: int):
    scales = [epsilon_scale_at(step, steps_per_epoch, 0.0, warmup) for step in range(20 * steps_per_epoch)]
    rising = [scale for scale in scales if scale < 1]
    assert 0 < scales[0] <= 1 and scales == sorted(scales)
    assert rising == pytest.approx([(step + 0.5) / (warmup * steps_per_epoch) for step in range(len(rising))])
    reached = math.ceil(warmup * steps_per_epoch - 0.5)
    assert set(scales[reached:]) == {1.0}, "nearly 1 is not 1: PGD.scaled would make another attack of it"
    assert len(rising) == reached


def test_without_a_warmup_epsilon_is_whole_from_the_first_step():
    assert epsilon_scale_at(0, 100, 0.0, 0.0) == 1.0 and epsilon_scale_at(0, 100, 0, 0) == 1.0


@pytest.mark.parametrize("warmup", [0.0, 1.5])
def test_in_the_natural_epochs_epsilon_is_0_and_rises_after_them(warmup: float):
    scales = [epsilon_scale_at(step, 10, 2.0, warmup) for step in range(60)]
    assert scales[:20] == [0.0] * 20
    assert scales[20:] == pytest.approx([epsilon_scale_at(step, 10, 0.0, warmup) for step in range(40)])


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 3))
        self.kernel = nn.Parameter(torch.ones(2, 3, 1, 1))
        self.vector = nn.Parameter(torch.ones(4))
        self.number = nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.ones(5, 5), requires_grad=False)


def test_matrices_and_kernels_decay_and_vectors_do_not():
    model = Mixed()
    decayed, spared = decay_groups(model.parameters(), 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(model.matrix), id(model.kernel)}
    assert {id(p) for p in spared["params"]} == {id(model.vector), id(model.number)}


@pytest.mark.parametrize(
    ("model", "groups"), [(nn.Linear(3, 2, bias=False), 1), (nn.LayerNorm(3), 1), (nn.Linear(3, 2), 2), (nn.ReLU(), 0)]
)
def test_empty_groups_are_left_out(model: nn.Module, groups: int):
    found = decay_groups(model.parameters(), 0.1)
    assert len(found) == groups and all(group["params"] for group in found)


@pytest.mark.parametrize("value", [SmallCNN(width=0.25), PreActResNet(width=1 / 16)], ids=lambda value: value.arch)
def test_every_parameter_of_a_real_model_is_in_one_group_and_normalisation_is_spared(value):
    model = value.build((1, 8, 8), 10, [0.5], [0.25])
    groups = decay_groups(model.parameters(), 5e-4)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    spared = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert {id(module.weight), id(module.bias)} <= spared
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            assert id(module.weight) not in spared


BUILT = {
    "sgd": ({"name": "sgd", "momentum": 0.8, "nesterov": True}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "adam": (
        {"name": "adam", "betas": [0.8, 0.99], "eps": 1e-6},
        torch.optim.Adam,
        {"betas": (0.8, 0.99), "eps": 1e-6},
    ),
    "adamw": ({"name": "adamw"}, torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8}),
}


@pytest.mark.parametrize(("fields", "kind", "expected"), BUILT.values(), ids=BUILT.keys())
def test_what_is_written_is_what_is_built(fields: dict, kind: type, expected: dict):
    optim = TypeAdapter(Optim).validate_python({"epochs": 1, "lr": 0.2, "weight_decay": 0.1, **fields}, strict=False)
    built = optim.build(Mixed())
    assert type(built) is kind
    assert [group["weight_decay"] for group in built.param_groups] == [0.1, 0.0]
    for group in built.param_groups:
        assert {"lr": group["lr"], **{key: group[key] for key in expected}} == {"lr": 0.2, **expected}


def test_weight_decay_shrinks_matrices_only_and_adamw_decouples_it():
    """With a zero gradient, AdamW multiplies by 1 - lr * decay, exactly; vectors stay."""
    model = Mixed()
    optimiser = Adam(name="adamw", epochs=1, lr=0.5, weight_decay=0.1).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert torch.equal(model.matrix, torch.full((2, 3), 1 - 0.5 * 0.1))
    assert torch.equal(model.vector, torch.ones(4)) and torch.equal(model.frozen, torch.ones(5, 5))


def test_milestones_must_rise():
    for milestones in [(0.0, 1.0), (-1.0,), (2.0, 2.0), (3.0, 2.0), (1.0, 3.0, 2.0)]:
        with pytest.raises(ValidationError, match="milestones must rise"):
            Multistep(shape="multistep", milestones=milestones)


def test_every_optimiser_that_a_job_may_name_can_be_built():
    """torch refuses Nesterov's step without momentum: a job must not get as far as a worker with it."""
    with pytest.raises(ValidationError, match="nesterov"):
        sgd(momentum=0.0, nesterov=True)
    assert sgd(momentum=0.0).build(Mixed()) and sgd(nesterov=True).build(Mixed())


def test_muon_steps_kernels_at_its_own_rate_and_all_else_by_sgd_at_another():
    muon = Muon(name="muon", lr=0.06, rest_lr=0.3, momentum=0.5, weight_decay=0.1, epochs=1)
    model = Mixed()
    kernels, matrices, vectors = muon.build(model).param_groups
    assert [group["params"] for group in (kernels, matrices, vectors)] == [
        [model.kernel], [model.matrix], [model.vector, model.number],
    ]  # fmt: skip
    assert (kernels["inertia"], kernels["momentum"], kernels["steps"]) == (0.5, 0, 3)
    assert [group.get("share", 1.0) for group in (kernels, matrices, vectors)] == pytest.approx([1, 5, 5])
    assert all(group["momentum"] == 0.9 and group["nesterov"] for group in (matrices, vectors))
    assert [group["weight_decay"] for group in (kernels, matrices, vectors)] == [0.1, 0.1, 0.0]
    assert len(muon.build(nn.Linear(2, 2)).param_groups) == 2, "no convolution: no empty group"

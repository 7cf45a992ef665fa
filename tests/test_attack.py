"""distrib.attack: as strong as mathematics allows where that is known, and without a trace in the model."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from adversaries import (
    MANY_SHRINKING,
    PIXELS,
    QUARTER,
    SHAPE,
    adversary,
    but,
    draws,
    images,
    lengths,
    margins,
    network,
    noise,
)
from pydantic import ValidationError
from torch import Tensor, nn

from distrib.attack import FGSM, PGD, Adversary, OfEpsilon, margin, wrong_class
from distrib.noise import Noise
from distrib.threat import L1, L2, Linf, Threat, outside

Build = Callable[..., nn.Module]


# On a linear model the worst case is known


STARTS = {
    "from the image": {"random_start": False},
    "random start": {"random_start": True},
    "three starts": {"restarts": 3},
    "linear steps": {"step_schedule": "linear", "step_size": OfEpsilon(of_epsilon=0.5)},
    "cosine steps": {"step_schedule": "cosine", "step_size": OfEpsilon(of_epsilon=0.5)},
    "absolute steps": {"step_size": 0.1},
    "cw_margin": {"loss": "cw_margin", "kappa": 1e4},
    "random target": {"target": "random"},
    "least likely target": {"target": "least_likely"},
    "every target": {"target": "all"},
    "batch norm of the batch": {"batch_norm": "train"},
}


@pytest.mark.parametrize("fields", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_classes_reach_the_exact_worst_case(linear: Build, norm: str, fields: dict):
    weight, x = torch.randn(2, PIXELS, generator=draws()), images(6)
    threat, dual = (Linf(epsilon=0.05), 1) if norm == "linf" else (L2(epsilon=0.25), 2)
    model, y = linear(weight), torch.tensor([0, 1, 0, 1, 0, 1])
    # a random start drifts to the L2 optimum by a factor of 0.8 a step; under Linf ten steps are enough
    attack = adversary(threat, num_steps=60, **({"step_size": QUARTER} | fields))
    x_adv = attack.perturb(model, x, y, noise(6))
    lost = margins(model, x, y) - margins(model, x_adv, y)
    expected = threat.epsilon * (weight[0] - weight[1]).norm(p=dual).double()
    torch.testing.assert_close(lost, expected.expand(6), rtol=2e-5, atol=0)


@pytest.mark.parametrize("loss", [{}, {"loss": "cw_margin", "kappa": 1e4}], ids=["cross_entropy", "cw_margin"])
@pytest.mark.parametrize("threat", [Linf(epsilon=0.05), L2(epsilon=0.25)], ids=["linf", "l2"])
def test_many_classes_with_one_rival_reach_the_exact_worst_case(linear: Build, threat: Threat, loss: dict):
    """All but the true class and its rival are out of reach, so the rival's hyperplane is the one that counts."""
    weight = torch.randn(7, PIXELS, generator=draws())
    y, rival = torch.tensor([2, 5, 2, 5]), torch.tensor([5, 2, 5, 2])
    bias = torch.full((7,), -60.0)
    bias[[2, 5]] = 0.0
    model, x = linear(weight, bias), images(4)
    x_adv = adversary(threat, num_steps=60, step_size=QUARTER, **loss).perturb(model, x, y, noise(4))
    lost = margins(model, x, y) - margins(model, x_adv, y)
    expected = threat.epsilon * (weight[y] - weight[rival]).norm(p=1 if isinstance(threat, Linf) else 2, dim=1)
    torch.testing.assert_close(lost, expected.double(), rtol=2e-5, atol=0)


def test_many_classes_end_on_a_vertex_and_never_beyond_the_bound(linear: Build):
    """The margin attack climbs a maximum of linear functions: it ends where one of them is largest in the ball."""
    weight, x = torch.randn(6, PIXELS, generator=draws()), images(32)
    model, epsilon = linear(weight), 0.05
    y = torch.arange(32) % 6
    x_adv = adversary(Linf(epsilon=epsilon), num_steps=60, step_size=QUARTER, loss="cw_margin", kappa=1e4).perturb(
        model, x, y, noise(32)
    )
    with torch.no_grad():
        before, after = model(x), model(x_adv)
    reach = epsilon * (weight[y][:, None] - weight[None]).abs().sum(dim=2)  # [32, 6], the dual norms
    lowest = before.gather(1, y[:, None]) - before - reach
    lowest = lowest.scatter(1, y[:, None], float("inf"))
    rival = after.scatter(1, y[:, None], float("-inf")).argmax(dim=1)
    torch.testing.assert_close(margin(after, y), lowest[torch.arange(32), rival], rtol=1e-4, atol=1e-5)
    assert (margin(after, y) >= lowest.amin(dim=1) - 1e-5).all()


@pytest.mark.parametrize("random_start", [False, True])
def test_where_the_box_binds_each_pixel_goes_to_its_own_bound(linear: Build, random_start: bool):
    weight, x = torch.randn(2, PIXELS, generator=draws()), images(5, 0, 1)
    x[0], x[1] = 0.0, 1.0
    y = torch.tensor([0, 0, 1, 0, 1])
    x_adv = adversary(Linf(epsilon=0.4), random_start=random_start).perturb(linear(weight), x, y, noise(5))
    up = ((weight[1 - y] - weight[y]) > 0).view_as(x)
    assert torch.equal(x_adv, torch.where(up, (x + 0.4).clamp_max(1), (x - 0.4).clamp_min(0)))


def test_under_l2_with_a_binding_box_small_steps_reach_the_optimum(linear: Build):
    """Maximise g.d with |d| <= eps and 0 <= x + d <= 1: d = clip(t g) with t such that |d| = eps (KKT)."""
    weight, x = torch.randn(2, PIXELS, generator=draws()), images(8, 0, 1)
    y = torch.arange(8) % 2
    epsilon, model = 0.8, linear(weight)
    x_adv = adversary(L2(epsilon=epsilon), **MANY_SHRINKING).perturb(model, x, y, noise(8))
    g = (weight[1 - y] - weight[y]).view_as(x).double()
    low, high = torch.zeros(8, 1, 1, 1).double(), torch.full((8, 1, 1, 1), 1e6).double()
    for _ in range(200):
        t = (low + high) / 2
        long = ((x + t * g).clamp(0, 1) - x).flatten(1).norm(dim=1).view(-1, 1, 1, 1) > epsilon
        low, high = torch.where(long, low, t), torch.where(long, t, high)
    best = (g * ((x + low * g).clamp(0, 1) - x)).flatten(1).sum(dim=1)
    found = (g * (x_adv.double() - x)).flatten(1).sum(dim=1)
    free = (epsilon * g.flatten(1).norm(dim=1)) - best
    assert (free > 0.05).any(), "the box binds nowhere: the test would say nothing"
    assert (found <= best + 1e-5).all()
    torch.testing.assert_close(found, best, rtol=5e-3, atol=0)


# FGSM


@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L2(epsilon=0.5)], ids=["linf", "l2"])
def test_fgsm_is_one_step_of_pgd_and_the_textbook_formula(threat: Threat):
    model, x, y = network(), images(6, 0, 1, (1, 8, 8)), torch.arange(6)
    x_adv = Adversary(threat, FGSM).perturb(model, x, y, noise(6))
    step = adversary(threat, num_steps=1, step_size=threat.epsilon, random_start=False)
    assert torch.equal(x_adv, step.perturb(model, x, y, noise(6)))
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)
    length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    direction = gradient.sign() if isinstance(threat, Linf) else gradient / length
    torch.testing.assert_close(x_adv, (x + threat.epsilon * direction).clamp(0, 1), rtol=0, atol=2e-6)
    assert not torch.equal(x_adv, x)


# One example at a time


@pytest.mark.parametrize("loss", ["cross_entropy", "cw_margin"])
def test_restarts_keep_the_worst_start_of_each_example(loss: str):
    """Which starts there are is known (noise and its forks), so what is kept can be found the long way."""
    model, count = network(), 24
    x, threat = images(count, 0, 1, (1, 8, 8)), Linf(epsilon=0.02)
    y = model(x).argmax(dim=1).detach()
    once = adversary(threat, num_steps=2, loss=loss)
    stream = noise(count)
    starts = [once.perturb(model, x, y, s) for s in (stream, *(noise(count).fork(i) for i in (1, 2, 3)))]
    x_adv = but(once, restarts=4).perturb(model, x, y, noise(count))
    one_of_them = torch.stack([(x_adv == start).flatten(1).all(dim=1) for start in starts])
    assert one_of_them.any(dim=0).all()
    kept = margins(model, x_adv, y)
    each = torch.stack([margins(model, start, y) for start in starts])
    for row in range(count):
        assert kept[row] < 0 or (each[:, row] >= 0).all()  # fooled if any start fools
    if loss == "cw_margin":
        standing = kept > 0
        torch.testing.assert_close(kept[standing], each.amin(dim=0)[standing], rtol=0, atol=1e-6)
        assert standing.any() and (one_of_them[1:] & ~one_of_them[0]).any(), "restarts were not put to the test"


def test_a_start_that_fools_beats_one_that_climbs_higher():
    """Under a loss that grows as the prediction gets safer, to fool is still what counts, whenever it happened."""
    model, count = network(), 24
    x, threat = images(count, 0, 1, (1, 8, 8)), Linf(epsilon=0.05)
    y = model(x).argmax(dim=1).detach()
    once, restarts = adversary(threat, num_steps=1, step_size=0.0), 6

    def safer(logits: Tensor, rows: Tensor) -> Tensor:
        return margin(logits, y[rows])

    streams = [noise(count), *(noise(count).fork(i) for i in range(1, restarts))]
    each = torch.stack([margins(model, once.perturb(model, x, y, stream, safer), y) for stream in streams])
    x_adv = but(once, restarts=restarts).perturb(model, x, y, noise(count), safer)
    fooled = (each < 0).any(dim=0)
    assert torch.equal(margins(model, x_adv, y) < 0, fooled)
    torch.testing.assert_close(margins(model, x_adv, y)[~fooled], each.amax(dim=0)[~fooled], rtol=0, atol=1e-6)
    assert fooled.any() and not fooled.all() and (each[:, fooled] > 0).any(), "restarts were not put to the test"


ALONE = {
    "pgd": {},
    "restarts": {"restarts": 3},
    "random target": {"target": "random", "restarts": 2},
    "least likely": {"target": "least_likely", "loss": "cw_margin"},
    "every target": {"target": "all", "restarts": 2},
}


@pytest.mark.parametrize("fields", ALONE.values(), ids=ALONE)
@pytest.mark.parametrize("threat", [Linf(epsilon=0.05), L2(epsilon=0.4), L1(epsilon=1.0)], ids=["linf", "l2", "l1"])
def test_an_example_does_not_feel_its_batch(threat: Threat, fields: dict):
    """In float64: the convolutions' rounding depends on the batch, and a sign can turn on it."""
    model, count = network(torch.float64), 9
    x, index = images(count, 0, 1, (1, 8, 8)).double(), torch.arange(count) * 17 + 3
    y = torch.arange(count) % 10
    attack = adversary(threat, num_steps=4, **fields)
    together = attack.perturb(model, x, y, Noise.of(index, 0, "test"))
    for rows in [*torch.arange(count).split(1), torch.tensor([8, 0, 5]), torch.arange(count).flip(0)]:
        some = attack.perturb(model, x[rows], y[rows], Noise.of(index[rows], 0, "test"))
        torch.testing.assert_close(some, together[rows], rtol=0, atol=1e-9)


def test_with_statistics_of_the_batch_an_example_feels_it():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()
    x, y = images(6, 0, 1), torch.arange(6) % 5
    for mode, alike in (("eval", True), ("train", False)):
        attack = adversary(L2(epsilon=0.4), num_steps=4, batch_norm=mode)
        some = attack.perturb(model, x[:3], y[:3], noise(6)[torch.arange(3)])
        assert torch.allclose(some, attack.perturb(model, x, y, noise(6))[:3], atol=1e-6) is alike


# Targets, the margin loss, steps


def test_targeted_attacks_move_towards_the_target(linear: Build):
    weight, x = torch.randn(5, PIXELS, generator=draws()), images(20)
    model, y, rows = linear(weight), torch.arange(20) % 5, torch.arange(20)
    with torch.no_grad():
        logits = model(x)
    for how in ("random", "least_likely"):
        target = wrong_class(logits, y, how, noise(20))
        attack = adversary(Linf(epsilon=0.1), num_steps=20, target=how)
        with torch.no_grad():
            after = model(attack.perturb(model, x, y, noise(20))).log_softmax(dim=1)
            away = model(but(attack, target="none").perturb(model, x, y, noise(20))).log_softmax(1)
        assert (after[rows, target] > logits.log_softmax(dim=1)[rows, target]).all()
        assert (after[rows, target] >= away[rows, target] - 1e-5).all()
        assert (after[rows, target] > away[rows, target] + 0.1).any()


def test_towards_every_wrong_class_the_worst_counts(linear: Build):
    """On a linear model each wrong class has a known least margin, and the least of these is what can be reached."""
    weight, x = torch.randn(6, PIXELS, generator=draws()), images(64)
    model, epsilon = linear(weight), 0.05
    with torch.no_grad():
        logits = model(x)
        y = logits.argmax(dim=1)
    reach = epsilon * (weight[y][:, None] - weight[None]).abs().sum(dim=2)  # [64, 6], the dual norms
    lowest = (logits.gather(1, y[:, None]) - logits - reach).scatter(1, y[:, None], float("inf")).amin(dim=1)
    fields = {"num_steps": 60, "step_size": QUARTER, "loss": "cw_margin", "kappa": 1e4}
    found, single = (
        margins(
            model, adversary(Linf(epsilon=epsilon), **fields, target=how).perturb(model, x, y, noise(64)), y
        ).float()
        for how in ("all", "random")
    )
    standing = lowest > 1e-4
    torch.testing.assert_close(found[standing], lowest[standing], rtol=1e-4, atol=1e-5)
    assert (found[lowest < -1e-4] < 0).all()
    assert 5 < standing.sum() < 59 and (single > found + 0.01).sum() > 10


def test_a_start_towards_every_class_is_one_start():
    """Of restarts, each climbs towards every class, by noise of its own; images that fell are spared."""
    model, count = network(), 24
    x, y = images(count, 0, 1, (1, 8, 8)), torch.zeros(count, dtype=torch.long)
    y[:20] = model(x[:20]).argmax(dim=1)
    attack = adversary(Linf(epsilon=0.02), num_steps=2, target="all", restarts=3)
    fallen = [margins(model, worst, y) < 0 for worst in attack.starts(model, x, y, noise(count))]
    assert len(fallen) == 3 and (fallen[0] <= fallen[1]).all() and (fallen[1] <= fallen[2]).all()
    once = but(attack, restarts=1).perturb(model, x, y, noise(count))
    assert torch.equal(margins(model, once, y) < 0, fallen[0])
    all_wrong = (y + 1) % 10
    assert len(list(attack.starts(model, x[:20], all_wrong[:20], noise(20)))) == 1


def test_the_margin_loss_climbs_towards_its_target_until_kappa(linear: Build):
    """One step moves the target's margin by a known amount; past kappa the loss is flat and the attack stops."""
    weight = torch.tensor([[1.0] * PIXELS, [-1.0] * PIXELS])
    x, y = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    fields = {"loss": "cw_margin", "step_size": 0.01, "random_start": False}
    each = 2 * 0.01 * PIXELS  # what a step takes off the margin
    for start in (1.0, 3.0, 1000.0):  # the clean margin
        model = linear(weight, torch.tensor([start - PIXELS, 0.0]))
        for kappa in (0.0, 1.0, 2.0):
            taken = min(30, math.floor((start + kappa) / each) + 1)
            x_adv = adversary(Linf(epsilon=0.4), num_steps=30, kappa=kappa, **fields).perturb(model, x, y, noise(1))
            torch.testing.assert_close(x - x_adv, torch.full_like(x, 0.01 * taken), rtol=0, atol=1e-5)


def test_the_margin_is_own_logit_less_the_best_other():
    logits = torch.tensor([[1.0, 4.0, 2.5], [1.0, 4.0, 2.5], [3.0, 3.0, -1.0], [-5.0, -7.0, -9.0]])
    assert margin(logits, torch.tensor([1, 0, 0, 0])).tolist() == [1.5, -3.0, 0.0, 2.0]


def test_wrong_classes_are_wrong_and_all_of_them_occur():
    y = torch.arange(4).repeat(200)
    logits = torch.randn(800, 4, generator=draws())
    chosen = wrong_class(logits, y, "random", noise(800))
    pairs = set(zip(y.tolist(), chosen.tolist(), strict=True))
    assert pairs == {(a, b) for a in range(4) for b in range(4) if a != b}
    least = wrong_class(logits, y, "least_likely", noise(800))
    for row, label, own in zip(logits.tolist(), y.tolist(), least.tolist(), strict=True):
        assert row[own] == min(value for place, value in enumerate(row) if place != label)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
    ],
)
def test_step_schedules(linear: Build, schedule: str, shares: list[float]):
    for size, length in ((0.02, 0.02), (OfEpsilon(of_epsilon=0.05), 0.01)):
        attack = adversary(Linf(epsilon=0.2), num_steps=4, step_size=size, step_schedule=schedule, random_start=False
        )  # fmt: skip
        assert lengths(attack.attack, attack.threat) == pytest.approx([length * share for share in shares])
        # and these are the steps that are taken: on a linear model they add up
        weight, x = torch.randn(2, PIXELS, generator=draws()), images(3)
        x_adv = attack.perturb(linear(weight), x, torch.zeros(3, dtype=torch.long), noise(3))
        torch.testing.assert_close((x_adv - x).abs(), torch.full_like(x, length * sum(shares)), rtol=0, atol=1e-6)


def test_scaled_shrinks_epsilon_and_steps_alike():
    for size in (0.08, OfEpsilon(of_epsilon=0.4)):
        whole = adversary(Linf(epsilon=0.2), step_size=size, num_steps=3)
        half = whole.scaled(0.5)
        assert half.threat == Linf(epsilon=0.1)
        assert lengths(half.attack, half.threat)[0] == pytest.approx(0.04)
        assert whole.threat.epsilon == 0.2 and whole.scaled(1) == whole
        assert replace(but(half, step_size=size), threat=whole.threat) == whole
    model, x = network(), images(4, 0, 1, (1, 8, 8))
    for threat in (Linf(epsilon=0.3), L2(epsilon=1)):
        still = adversary(threat).scaled(0.0).perturb(model, x, torch.arange(4), noise(4))
        assert torch.equal(still, x)


def test_fields_that_make_no_sense_are_refused():
    for fields in (
        {"restarts": 2, "random_start": False}, {"kappa": 1.0}, {"num_steps": 0}, {"restarts": 0},
        {"step_size": {"of_epsilon": -1.0}}, {"step_size": -0.1}, {"steps": 3}, {"num_steps": 2.5},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            PGD(**fields)


# Without a trace


# In the ball and in the box


@pytest.mark.parametrize("fields", [{}, {"restarts": 2}, {"loss": "cw_margin"}, {"target": "random"}])
@pytest.mark.parametrize(
    "threat", [Linf(epsilon=8 / 255), Linf(epsilon=0.3), L2(epsilon=0.5), L2(epsilon=3), L1(epsilon=5)]
)
def test_x_adv_is_float32_in_the_ball_and_the_box_also_under_autocast(threat: Threat, fields: dict):
    model, y = network(), torch.arange(8) % 10
    x = images(8, 0, 1, (1, 8, 8))
    x[0], x[1] = 0.0, 1.0
    attack = adversary(threat, num_steps=4, **fields)
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            x_adv = attack.perturb(model, x, y, noise(8))
        assert x_adv.dtype == torch.float32 and x_adv.shape == x.shape
        assert x_adv.min() >= 0 and x_adv.max() <= 1
        assert not outside(threat, x, x_adv).any()
        assert not torch.equal(x_adv, x)
        if isinstance(threat, Linf):  # exactly, not within a tolerance
            assert (x_adv >= x - threat.epsilon).all() and (x_adv <= x + threat.epsilon).all()
        else:
            assert ((x_adv - x).double().flatten(1).norm(dim=1) <= threat.epsilon * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "pgd-10"),
        ({"num_steps": 1}, "fgsm-rs"),
        ({"num_steps": 1, "random_start": False}, "fgsm"),
        ({"num_steps": 100, "restarts": 20}, "pgd-100x20"),
        ({"num_steps": 30, "loss": "cw_margin", "kappa": 50.0}, "cw-30-k50"),
        ({"target": "least_likely"}, "pgd-10-least-likely"),
    ],
)
def test_names_for_tables(fields: dict, name: str):
    assert PGD(**fields).name == name

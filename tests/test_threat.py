"""The ball and the box: projections, samples, and the check that an adversary stayed inside."""

import math
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distrib.attack import PGD, Adversary
from distrib.noise import Noise
from distrib.threat import BALLS, L1, L2, TOLERANCE, Linf, Norm, drawn_back, other_norms, outside, threat_of

Ball = Linf | L2 | L1
THREATS = [
    Linf(epsilon=0.0), Linf(epsilon=8 / 255), Linf(epsilon=0.3), Linf(epsilon=1.0),
    L2(epsilon=0.0), L2(epsilon=0.5), L2(epsilon=2.0), L2(epsilon=50.0),
    L1(epsilon=0.0), L1(epsilon=0.5), L1(epsilon=8.0), L1(epsilon=500.0),
]  # fmt: skip
threats = pytest.mark.parametrize("threat", THREATS, ids=repr)
SHAPES = [(1, 1, 1), (1, 8, 8), (3, 7, 5)]


def images(shape: tuple[int, ...], count: int = 64, seed: int = 0) -> Tensor:
    """Real pixels are multiples of 1/255, and many are 0 or 1."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, *shape), generator=draw).float() / 255
    x[:8] = torch.randint(0, 2, (8, *shape), generator=draw).float()
    return x


def moved(x: Tensor, scale: float, seed: int = 1) -> Tensor:
    return x + scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def noise_for(x: Tensor, purpose: str = "test") -> Noise:
    return Noise.of(torch.arange(len(x)), 0, purpose)


def inside(threat: Ball, x: Tensor, x_adv: Tensor) -> bool:
    """In the box exactly, in the ball up to the rounding of one float32 subtraction."""
    reach = threat.size(x_adv - x) <= threat.epsilon * (1 + 1e-6) + 1e-7
    return bool(reach.all() and x_adv.min() >= 0 and x_adv.max() <= 1)


@threats
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 0.1, 1.0, 1e6])
def test_a_projection_is_inside_and_stays_there(threat: Ball, shape: tuple[int, ...], scale: float):
    x = images(shape)
    before = (far := moved(x, scale)).clone()
    once = threat.project(x, far)
    assert inside(threat, x, once) and not outside(threat, x, once).any()
    assert once.shape == x.shape and once.dtype == torch.float32
    torch.testing.assert_close(threat.project(x, once), once, rtol=0, atol=2e-7)
    assert torch.equal(far, before) and torch.equal(x, images(shape)), "changed in place"


@threats
def test_linf_projects_twice_to_the_very_same_point(threat: Ball):
    x = images((1, 8, 8))
    once = threat.project(x, moved(x, 0.5))
    if isinstance(threat, Linf):
        assert torch.equal(threat.project(x, once), once)


@threats
def test_points_inside_stay_where_they_are(threat: Ball):
    x = images((3, 7, 5))
    assert torch.equal(threat.project(x, x), x)
    direction = threat.ascent(moved(x, 1.0) - x)
    near = (x + 0.9 * threat.epsilon * direction).clamp(0, 1)
    torch.testing.assert_close(threat.project(x, near), near, rtol=0, atol=1e-7)
    if isinstance(threat, Linf):
        assert torch.equal(threat.project(x, near), near)


@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.3, 1.0])
def test_the_linf_projection_is_the_nearest_point(epsilon: float):
    """Coordinate by coordinate: the interval's end, or the point itself."""
    x = images((1, 4, 4))
    far = moved(x, 0.5)
    low, high = (x.double() - epsilon).clamp_min(0), (x.double() + epsilon).clamp_max(1)
    nearest = torch.minimum(torch.maximum(far.double(), low), high)
    torch.testing.assert_close(Linf(epsilon=epsilon).project(x, far).double(), nearest, rtol=0, atol=1e-7)


def test_the_l2_projection_in_the_middle_of_the_box_is_the_nearest_point():
    """Where the box does not bind: along the line to the centre, at distance epsilon. No other point is nearer."""
    x, threat = torch.full((64, 1, 4, 4), 0.5), L2(epsilon=0.3)
    far = moved(x, 0.5)
    found = threat.project(x, far)
    torch.testing.assert_close(threat.size(found - x), torch.full((64,), 0.3))
    cosine = torch.cosine_similarity((found - x).flatten(1), (far - x).flatten(1))
    torch.testing.assert_close(cosine, torch.ones(64))
    for seed in range(20):
        other = threat.sample(x, Noise.of(torch.arange(64), seed))
        assert (threat.size(other - far) >= threat.size(found - far) - 1e-6).all()


def test_the_box_only_draws_l2_closer():
    x, threat = images((1, 8, 8)), L2(epsilon=3.0)
    found = threat.project(x, moved(x, 2.0))
    assert (threat.size(found - x) <= 3.0 + 1e-5).all() and (found == 0).any() and (found == 1).any()


@threats
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_samples_are_inside_and_belong_to_each_image_alone(threat: Ball, shape: tuple[int, ...]):
    x = images(shape)
    drawn = threat.sample(x, noise_for(x))
    assert inside(threat, x, drawn) and not outside(threat, x, drawn).any()
    alone = torch.cat([threat.sample(x[i : i + 1], Noise.of(torch.tensor([i]), 0, "test")) for i in range(8)])
    torch.testing.assert_close(alone, drawn[:8], rtol=0, atol=1e-7)
    assert (threat.epsilon == 0) == torch.equal(drawn, x)


def test_linf_samples_are_uniform_on_the_cube():
    x = torch.full((500, 1, 4, 4), 0.5)
    delta = (Linf(epsilon=0.25).sample(x, noise_for(x)) - x).double() / 0.25
    n = delta.numel()
    assert abs(delta.mean()) < 5 * math.sqrt(1 / 3 / n)
    assert abs((delta**2).mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / n)
    assert delta.min() < -0.99 and delta.max() > 0.99


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (1, 2, 2), (1, 4, 4)], ids=str)
def test_l2_samples_are_uniform_in_the_ball(shape: tuple[int, ...]):
    """(r / epsilon)^d is uniform on [0, 1], and no direction is preferred."""
    x, d = torch.full((4000, *shape), 0.5), math.prod(shape)
    delta = L2(epsilon=0.25).sample(x, noise_for(x)) - x
    u, _ = ((L2(epsilon=0.25).size(delta).double() / 0.25) ** d).clamp(max=1).sort()
    ideal = (torch.arange(4000).double() + 0.5) / 4000
    assert (u - ideal).abs().max() < 1.95 / math.sqrt(4000)  # Kolmogorov and Smirnov, p = 0.001
    mean = delta.double().flatten(1).mean(dim=0)
    assert (mean.abs() < 5 * 0.25 / math.sqrt((d + 2) * 4000)).all()  # Var of a coordinate: epsilon^2 / (d + 2)


@threats
def test_ascent_is_the_steepest_direction_of_its_norm(threat: Ball):
    """Of all directions of length 1 it gains most on a linear function, and the gain is the dual norm."""
    gradient = moved(torch.zeros(32, 3, 5, 5), 3.0)
    best = threat.ascent(gradient)
    torch.testing.assert_close(threat.size(best), torch.ones(32))
    gain = (best * gradient).flatten(1).sum(dim=1)
    dual = gradient.flatten(1).norm(p={"linf": 1, "l2": 2, "l1": math.inf}[threat.norm], dim=1)
    torch.testing.assert_close(gain, dual)
    for seed in range(10):
        other = moved(torch.zeros(32, 3, 5, 5), 1.0, seed)
        other = other / threat.size(other).view(-1, 1, 1, 1)
        assert ((other * gradient).flatten(1).sum(dim=1) <= gain + 1e-4).all()


@threats
def test_no_gradient_no_direction(threat: Ball):
    assert torch.equal(threat.ascent(torch.zeros(2, 1, 3, 3)), torch.zeros(2, 1, 3, 3))


@threats
def test_size_against_numpy(threat: Ball):
    delta = moved(torch.zeros(16, 3, 4, 4), 1.0)
    flat = delta.numpy().reshape(16, -1).astype("float64")
    by_norm = {"linf": abs(flat).max(axis=1), "l2": (flat**2).sum(axis=1) ** 0.5, "l1": abs(flat).sum(axis=1)}
    expected = by_norm[threat.norm]
    torch.testing.assert_close(threat.size(delta), torch.from_numpy(expected).float())


NOT_INSIDE = {
    "nan": lambda x, epsilon: float("nan"),
    "inf": lambda x, epsilon: float("inf"),
    "minus inf": lambda x, epsilon: float("-inf"),
    "below the box": lambda x, epsilon: -1e-7,
    "above the box": lambda x, epsilon: 1 + 2e-7,
    "too far up": lambda x, epsilon: x + epsilon + 4 * TOLERANCE,
    "too far down": lambda x, epsilon: x - epsilon - 4 * TOLERANCE,
}


@pytest.mark.parametrize("threat", [ball(epsilon=epsilon) for ball in BALLS for epsilon in (0.0, 0.1)], ids=repr)
@pytest.mark.parametrize("fault", NOT_INSIDE.values(), ids=NOT_INSIDE.keys())
def test_one_bad_pixel_is_outside_and_found_in_its_own_row(threat: Ball, fault):
    x = torch.full((5, 3, 4, 4), 0.5)
    x_adv = x.clone()
    x_adv[3, 2, 1, 0] = fault(0.5, threat.epsilon)
    assert outside(threat, x, x_adv).tolist() == [False, False, False, True, False]


def test_the_box_is_checked_even_where_the_ball_reaches_beyond_it():
    black, white = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    for threat in (Linf(epsilon=1.0), L2(epsilon=50.0), L1(epsilon=50.0)):
        assert outside(threat, black, black - 1e-7).all() and not outside(threat, black, white).any()
        assert outside(threat, white, white + 2e-7).all() and not outside(threat, white, black).any()


def test_the_l2_tolerance_grows_with_large_balls_only():
    x = torch.full((1, 1, 100, 100), 0.0)
    for epsilon, excess, out in ((0.5, 3e-6, True), (50.0, 3e-5, False), (50.0, 3e-4, True)):
        x_adv = torch.full_like(x, (epsilon + excess) / 100)
        assert outside(L2(epsilon=epsilon), x, x_adv).item() is out, (epsilon, excess)


@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L2(epsilon=0.1), L2(epsilon=12.0), L1(epsilon=0.1)], ids=repr)
def test_what_lies_outside_by_rounding_alone_is_drawn_back(threat: Ball):
    x = torch.full((4, 1, 30, 30), 0.5)
    step = threat.epsilon * threat.ascent(torch.ones_like(x)) * torch.tensor([0.5, 1.0, 1.0, 1.0]).view(4, 1, 1, 1)
    beyond = torch.tensor([0.0, 0.0, 4e-6, 1e-3]).view(4, 1, 1, 1) * max(1.0, threat.epsilon)
    x_adv = x + step * (1 + beyond / threat.epsilon)
    found, moved = drawn_back(threat, x, x_adv)
    assert moved.tolist() == [False, False, True, False]
    assert outside(threat, x, found).tolist() == [False, False, False, True]
    assert torch.equal(found[~moved], x_adv[~moved]) and threat.size(found - x)[2] < threat.size(x_adv - x)[2]
    assert not drawn_back(threat, x, torch.full_like(x, math.nan))[1].any()


@pytest.mark.parametrize(("ball", "others"), [(Linf, "L2 and L1"), (L2, "Linf and L1"), (L1, "Linf and L2")])
def test_a_norm_is_known_by_its_name_and_knows_the_others(ball: type[Ball], others: str):
    one = ball(epsilon=0.1)
    assert threat_of(one.norm, 0.1) == one and other_norms(one.norm) == others
    assert set(get_args(Norm)) == {each.model_fields["norm"].default for each in BALLS}
    with pytest.raises(ValidationError, match="norm"):
        threat_of("l0", 0.1)


@threats
def test_the_widest_ball_holds_the_whole_box_and_is_no_wider_than_it_must_be(threat: Ball):
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    torch.testing.assert_close(threat.size(white - black), torch.tensor([threat.widest(3 * 4 * 4)]))


# L1


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 2.0, 9.0])
def test_the_l1_projection_is_the_nearest_point_of_ball_and_box_at_once(epsilon: float):
    """Every change is less by one excess and ends at the box: that excess, found by halving, is the multiplier of
    Karush, Kuhn and Tucker; and no point inside is nearer."""
    x, threat = images((1, 4, 4)), L1(epsilon=epsilon)
    far = moved(x, 0.7)
    delta = (far - x).double()
    room = torch.where(delta > 0, 1 - x.double(), x.double())
    low, high = torch.zeros(64, 1, 1, 1).double(), delta.abs().amax((1, 2, 3), keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        too_far = (delta.abs() - middle).clamp_min(0).minimum(room).sum((1, 2, 3), keepdim=True) > epsilon
        low, high = torch.where(too_far, middle, low), torch.where(too_far, high, middle)
    inside_already = delta.abs().minimum(room).sum((1, 2, 3), keepdim=True) <= epsilon
    expected = x + delta.sign() * (delta.abs() - torch.where(inside_already, 0.0, high)).clamp_min(0).minimum(room)
    found = threat.project(x, far)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    distance = (found - far).flatten(1).norm(dim=1)
    for seed in range(20):
        other = threat.sample(x, Noise.of(torch.arange(64), seed))
        assert ((other - far).flatten(1).norm(dim=1) >= distance - 1e-5).all()


def test_one_l1_step_goes_where_a_linear_loss_would_be_largest():
    gradient = moved(torch.zeros(8, 1, 10, 10), 1.0)
    middle, threat = torch.full_like(gradient, 0.5), L1(epsilon=1.0)
    torch.testing.assert_close(threat.step(middle, gradient, 0.25), middle + 0.25 * threat.ascent(gradient))
    moved_by = threat.step(middle, gradient, 1.25) - middle  # two pixels to their ends, and a third halfway
    order = gradient.flatten(1).abs().argsort(dim=1, descending=True)
    in_order = moved_by.abs().flatten(1).gather(1, order)
    torch.testing.assert_close(in_order[:, :4], torch.tensor([0.5, 0.5, 0.25, 0.0]).expand(8, 4))
    assert (in_order[:, 4:] == 0).all() and (moved_by * gradient >= 0).all()
    white = torch.ones_like(gradient)
    assert torch.equal(threat.step(white, gradient.abs(), 0.5), white)


def test_l1_samples_are_uniform_in_the_ball():
    """(r / epsilon)^d is uniform on [0, 1], and every number's mean is 0."""
    x, d = torch.full((4000, 1, 2, 2), 0.5), 4
    delta = L1(epsilon=0.25).sample(x, noise_for(x)) - x
    u, _ = ((L1(epsilon=0.25).size(delta).double() / 0.25) ** d).clamp(max=1).sort()
    ideal = (torch.arange(4000).double() + 0.5) / 4000
    assert (u - ideal).abs().max() < 1.95 / math.sqrt(4000)  # Kolmogorov and Smirnov, p = 0.001
    # A coordinate's square has the mean 2 epsilon^2 / ((d + 1) (d + 2)), by the moments of Dirichlet's distribution
    variance = 2 * 0.25**2 / ((d + 1) * (d + 2))
    assert (delta.double().flatten(1).mean(0).abs() < 5 * math.sqrt(variance / 4000)).all()
    assert abs(delta.double().square().mean() / variance - 1) < 0.1


def test_on_a_linear_model_the_worst_image_under_l1_is_known_and_found():
    """All of epsilon goes to the largest weights first, as far as the box lets each pixel go."""
    x, weight = images((1, 6, 6), 16), torch.randn(36, generator=torch.Generator().manual_seed(2))
    threat = L1(epsilon=3.0)

    class TwoClasses(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.flatten(1) @ weight
            return torch.stack([score, torch.zeros_like(score)], dim=1)

    room = torch.where(weight > 0, x.flatten(1), 1 - x.flatten(1))  # down where the weight is positive
    order = weight.abs().argsort(descending=True)
    before = room[:, order].cumsum(1) - room[:, order]
    spent = (threat.epsilon - before).clamp_min(0).minimum(room[:, order])
    least = x.flatten(1) @ weight - (spent * weight.abs()[order]).sum(1)
    adversary = Adversary(threat, PGD(num_steps=100, loss="cw_margin", kappa=1e6))
    found = adversary.perturb(TwoClasses(), x, torch.zeros(16, dtype=torch.long), noise_for(x)).flatten(1) @ weight
    assert (found >= least - 1e-4).all(), "below what can be reached"
    share = (x.flatten(1) @ weight - found) / (x.flatten(1) @ weight - least)
    assert share.min() > 0.93 and share.mean() > 0.98, share

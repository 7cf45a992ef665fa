"""distrib.objective: losses against values worked out by hand, and where the gradient goes."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from distrib.attack import PGD, OfEpsilon
from distrib.models import SmallCNN
from distrib.noise import Noise
from distrib.objective import NFGSM, Fast, Madry, Mart, Natural, Objective, Trades, divergence, takes_shares
from distrib.threat import Linf

THREAT, ATTACK = Linf(epsilon=0.1), PGD(num_steps=3)
OBJECTIVES = {
    "natural": Natural(method="natural"),
    "madry": Madry(method="madry", threat=THREAT, attack=ATTACK),
    "fast": Fast.model_validate({"method": "fast", "threat": {"norm": "linf", "epsilon": 0.1}}),
    "n_fgsm": NFGSM(method="n_fgsm", threat=THREAT),
    "trades": Trades(method="trades", threat=THREAT, attack=ATTACK, beta=6.0),
    "mart": Mart(method="mart", threat=THREAT, attack=ATTACK, beta=5.0),
}
every = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def network() -> nn.Module:
    torch.manual_seed(3)
    return SmallCNN(width=0.25).build((1, 8, 8), 10, [0.5], [0.3])


def batch(count: int = 6) -> tuple[Tensor, Tensor, Noise]:
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(count) % 10, Noise.of(torch.arange(count), 0, "test")


class Table:
    """A forward that looks its logits up by the value of each image's first pixel, and counts how it is called."""

    def __init__(self, logits: dict[float, list[float]]):
        self.logits = {round(key, 4): value for key, value in logits.items()}
        self.sizes: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return torch.tensor([self.logits[round(value, 4)] for value in x[:, 0, 0, 0].tolist()])


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(one) for one in logits)) - logits[label]


def kl(first: list[float], second: list[float]) -> float:
    """Of softmax(first) from softmax(second)."""
    pairs = [(-cross_entropy(first, label), -cross_entropy(second, label)) for label in range(len(first))]
    return sum(math.exp(log_p) * (log_p - log_q) for log_p, log_q in pairs)


CLEAN = {0.1: [2.0, -1.0, 0.5], 0.2: [0.0, 1.0, 3.0]}
ATTACKED = {0.6: [0.5, 0.25, 0.0], 0.7: [1.5, -2.0, 1.0]}
X = torch.tensor([0.1, 0.2]).view(2, 1, 1, 1)
X_ADV = torch.tensor([0.6, 0.7]).view(2, 1, 1, 1)
Y = torch.tensor([0, 2])


@pytest.mark.parametrize("method", ["natural", "madry", "fast", "n_fgsm"])
def test_the_loss_is_the_mean_cross_entropy(method: str):
    clean = method == "natural"
    logits = list((CLEAN if clean else ATTACKED).values())
    forward = Table(CLEAN | ATTACKED)
    outcome = OBJECTIVES[method].loss(forward, X, X if clean else X_ADV, Y)
    assert outcome.loss.item() == pytest.approx((cross_entropy(logits[0], 0) + cross_entropy(logits[1], 2)) / 2)
    assert torch.equal(outcome.logits, torch.tensor(logits))
    assert forward.sizes == [2]


@pytest.mark.parametrize("method", ["natural", "madry", "fast", "n_fgsm", "trades"])
def test_label_smoothing_spreads_a_share_of_each_label_over_all_classes(method: str):
    """0.8 of the loss of the true class, and 0.2 of the mean over all classes."""
    plain = OBJECTIVES[method]
    smooth = plain.model_copy(update={"label_smoothing": 0.2})
    losses = [
        one.loss(Table(CLEAN | ATTACKED), X, X if method == "natural" else X_ADV, Y).loss for one in (plain, smooth)
    ]
    rows = list((CLEAN if method in ("natural", "trades") else ATTACKED).values())
    true = [cross_entropy(row, label) for row, label in zip(rows, Y.tolist(), strict=True)]
    every_class = [sum(cross_entropy(row, label) for label in range(3)) / 3 for row in rows]
    spread = sum(0.2 * (mean - own) for mean, own in zip(every_class, true, strict=True)) / 2
    assert (losses[1] - losses[0]).item() == pytest.approx(spread, rel=1e-4) and abs(spread) > 0.01


def test_trades_is_clean_cross_entropy_plus_beta_times_the_divergence_in_one_forward():
    forward = Table(CLEAN | ATTACKED)
    (a, b), (c, d) = CLEAN.values(), ATTACKED.values()
    for beta in (1.0, 6.0):
        outcome = Trades(method="trades", threat=THREAT, attack=ATTACK, beta=beta).loss(forward, X, X_ADV, Y)
        natural = (cross_entropy(a, 0) + cross_entropy(b, 2)) / 2
        assert outcome.loss.item() == pytest.approx(natural + beta * (kl(a, c) + kl(b, d)) / 2)
        assert torch.equal(outcome.logits, torch.tensor([c, d]))
    assert forward.sizes == [4, 4]
    assert kl(a, c) != pytest.approx(kl(c, a))  # else the direction would not be tested


def test_mart_weighs_the_divergence_by_the_doubt_and_pushes_the_likeliest_wrong_class_down():
    forward = Table(CLEAN | ATTACKED)
    outcome = OBJECTIVES["mart"].loss(forward, X, X_ADV, Y)
    expected = 0.0
    for clean, attacked, label, rival in zip(CLEAN.values(), ATTACKED.values(), (0, 2), (1, 0), strict=True):
        wrong = math.exp(-cross_entropy(attacked, rival))
        doubt = 1 - math.exp(-cross_entropy(clean, label))
        expected += cross_entropy(attacked, label) - math.log(1.0001 - wrong) + 5 * kl(clean, attacked) * doubt
    assert outcome.loss.item() == pytest.approx(expected / 2, rel=1e-5)
    assert torch.equal(outcome.logits, torch.tensor(list(ATTACKED.values()))) and forward.sizes == [4]


def test_the_divergence_of_equal_predictions_is_zero_and_else_positive():
    p = torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    found = divergence(p.log(), torch.stack([p[0].log() + 3, torch.zeros(3)]))
    entropy = -sum(value * math.log(value) for value in (0.2, 0.3, 0.5))
    assert found.tolist() == pytest.approx([0.0, math.log(3) - entropy], abs=1e-6)


# The inner maximum


@pytest.mark.parametrize("method", ["natural", "madry", "fast", "n_fgsm", "trades"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_labels_may_be_shares_of_the_classes(method: str, smoothing: float):
    """Those of one class alone are that label; a half of each, half of both losses."""
    objective = OBJECTIVES[method].model_copy(update={"label_smoothing": smoothing})
    net, (x, y, noise) = network(), batch()
    whole, other = F.one_hot(y, 10).float(), F.one_hot((y + 3) % 10, 10).float()
    for bits in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", bits, enabled=bits != torch.float32):
            climbed = [objective.perturb(net, x, label, noise[torch.arange(6)]) for label in (y, whole)]
            torch.testing.assert_close(*climbed, rtol=0, atol=1e-6)
    losses = [objective.loss(net, x, climbed[0], label).loss for label in (y, whole, other, (whole + other) / 2)]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[3], (losses[1] + losses[2]) / 2)
    assert takes_shares(objective)


def test_what_compares_predictions_with_one_label_takes_no_shares():
    assert not takes_shares(OBJECTIVES["mart"])
    for fields in ({"loss": "cw_margin"}, {"target": "random"}, {"restarts": 2}):
        assert not takes_shares(Madry(method="madry", threat=THREAT, attack=PGD(**fields)))


def test_natural_perturbs_nothing():
    x, y, noise = batch()
    assert OBJECTIVES["natural"].perturb(network(), x, y, noise) is x


@pytest.mark.parametrize("method", ["madry", "fast"])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_the_inner_maximum_is_the_adversary_at_its_epsilon(method: str, scale: float):
    (x, y, noise), model = batch(), network()
    objective = OBJECTIVES[method]
    x_adv = objective.perturb(model, x, y, noise, scale)
    assert torch.equal(x_adv, objective.adversary.scaled(scale).perturb(model, x, y, batch()[2]))
    assert (x_adv - x).abs().max().item() == pytest.approx(0.1 * scale, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_n_fgsm_steps_by_epsilon_from_a_draw_of_twice_epsilon_and_is_cut_to_the_box_alone(
    linear: Callable[..., nn.Module], scale: float
):
    """De Jorge et al. (arXiv 2202.01181), algorithm 1: the gradient is that at the noisy image."""
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) / 8
    x, y, noise = batch()
    found = NFGSM(method="n_fgsm", threat=THREAT).perturb(linear(weight), x, y % 2, noise, scale)
    noisy = Linf(epsilon=0.2 * scale).sample(x, batch()[2])
    away = (weight[0] - weight[1]).view(8, 8).sign() * torch.where(y % 2 == 0, -1, 1).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, (noisy + 0.1 * scale * away).clamp(0, 1), rtol=0, atol=1e-6)
    assert (found - x).abs().amax().item() > 0.21 * scale


def test_trades_climbs_the_divergence_to_a_corner_of_the_ball(linear: Callable[..., nn.Module]):
    """Between two classes KL is convex in the difference of logits, so it is largest at one of the two ends."""
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) / 8
    model, (x, y, noise) = linear(weight), batch()
    x = 0.3 + 0.4 * x  # the box does not bind
    attack = PGD(num_steps=40, step_size=OfEpsilon(of_epsilon=0.25))
    x_adv = Trades(method="trades", threat=THREAT, attack=attack).perturb(model, x, y % 2, noise)
    with torch.no_grad():
        moved = (model(x_adv) - model(x)) @ torch.tensor([1.0, -1.0])
        gained = divergence(model(x), model(x_adv))
    reach = 0.1 * (weight[0] - weight[1]).abs().sum()
    torch.testing.assert_close(moved.abs(), reach.expand(6), rtol=1e-4, atol=0)
    assert (gained > 0).all()


@every
def test_perturbing_leaves_the_model_as_it_was(objective: Objective):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 10))
    model.train()
    model[1].eval()  # one layer in another mode than the whole
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    x, y, noise = batch()
    objective.perturb(model, x, y, noise)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# The outer minimum


@every
def test_the_gradient_flows_to_every_weight_through_one_forward(objective: Objective):
    (x, y, noise), model = batch(), network()
    x_adv = objective.perturb(model, x, y, noise)
    sizes = []
    model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    outcome = objective.loss(model, x, x_adv, y)
    assert sizes == [12 if isinstance(objective, Trades | Mart) else 6]
    assert outcome.logits.shape == (6, 10) and outcome.loss.shape == ()
    outcome.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_gradient_of_trades_flows_through_both_of_its_sides():
    """As in the authors' code: the clean prediction is no constant in the divergence."""
    torch.manual_seed(0)
    logits = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    y = torch.arange(4)
    objective = Trades(method="trades", threat=THREAT, attack=ATTACK, beta=2.0)

    def loss(z: Tensor) -> Tensor:
        clean, attacked = z.chunk(2)
        p, q = clean.softmax(dim=1), attacked.softmax(dim=1)
        return F.cross_entropy(clean, y) + 2 * (p * (p / q).log()).sum(dim=1).mean()

    (expected,) = torch.autograd.grad(loss(logits), logits)
    found = objective.loss(lambda _: logits, torch.zeros(4, 1), torch.zeros(4, 1), y).loss
    (gradient,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gap", [1.0, 80.0, 103.0, 104.0, 110.0, 1000.0])
@pytest.mark.parametrize("side", ["clean", "adversarial", "both"])
def test_trades_and_its_gradient_are_those_of_float64_however_far_the_logits_lie_apart(gap: float, side: str):
    """A probability underflows to 0 in float32 from a gap of 104."""
    torch.manual_seed(0)
    logits = torch.randn(6, 5, dtype=torch.float64)
    rows = {"clean": slice(0, 3), "adversarial": slice(3, 6), "both": slice(0, 6)}[side]
    logits[rows, 0] += torch.tensor([1.0, -1.0, 1.0] * 2, dtype=torch.float64)[: len(logits[rows])] * gap
    logits = logits.float().double().requires_grad_()  # the same numbers in both
    clean, attacked = (part.log_softmax(dim=1) for part in logits.chunk(2))
    y = torch.tensor([0, 1, 2])
    exact = F.nll_loss(clean, y) + 2 * (clean.exp() * (clean - attacked)).sum(dim=1).mean()
    (expected,) = torch.autograd.grad(exact, logits)
    single = logits.detach().float().requires_grad_()
    objective = Trades(method="trades", threat=THREAT, attack=ATTACK, beta=2.0)
    loss = objective.loss(lambda _: single, torch.zeros(3, 1), torch.zeros(3, 1), y).loss
    (gradient,) = torch.autograd.grad(loss, single)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)


def test_the_inner_maximum_of_trades_is_that_of_float64_where_clean_probabilities_underflow(
    linear: Callable[..., nn.Module],
):
    """The third class lies 200 behind, so its probability is 0; the first two are near each other."""
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) / 8
    bias, (x, y, noise) = torch.tensor([0.0, 0.0, -200.0]), batch()
    found = Trades(method="trades", threat=THREAT, attack=ATTACK).perturb(linear(weight, bias), x, y, noise)
    model = linear(weight.double(), bias.double())
    threat, x_adv = THREAT, THREAT.sample(x, batch()[2])
    for _, length in ATTACK.path(THREAT):
        point = x_adv.double().requires_grad_()
        p, q = (model(one).log_softmax(dim=1) for one in (x.double(), point))
        (gradient,) = torch.autograd.grad((p.exp() * (p - q)).sum(), point)
        x_adv = threat.project(x, x_adv + length * threat.ascent(gradient.float()))
    torch.testing.assert_close(found, x_adv, rtol=0, atol=1e-6)


@every
def test_losses_are_float32_under_autocast(objective: Objective):
    (x, y, noise), model = batch(), network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_adv = objective.perturb(model, x, y, noise)
        outcome = objective.loss(model, x, x_adv, y)
    assert x_adv.dtype == outcome.loss.dtype == outcome.logits.dtype == torch.float32
    assert outcome.loss.isfinite()


# What is no objective


def test_fast_is_one_step_of_one_and_a_quarter_epsilon():
    attack = OBJECTIVES["fast"].attack
    assert attack.num_steps == 1 and attack.step_size == OfEpsilon(of_epsilon=1.25) and attack.random_start


@pytest.mark.parametrize("attack", [ATTACK, ATTACK.model_dump()], ids=["value", "mapping"])
def test_fast_refuses_many_steps_however_they_are_written(attack: object):
    with pytest.raises(ValidationError, match="one step"):
        Fast(method="fast", threat=THREAT, attack=attack)


@pytest.mark.parametrize("fields", [{"loss": "cw_margin"}, {"target": "random"}])
def test_trades_refuses_another_loss(fields: dict):
    with pytest.raises(ValidationError, match="climbs its own divergence"):
        Trades(method="trades", threat=THREAT, attack=ATTACK.model_copy(update=fields))


def test_objectives_are_told_apart_by_their_method_and_survive_json():
    objectives: TypeAdapter = TypeAdapter(Objective)
    for objective in OBJECTIVES.values():
        again = objectives.validate_json(objectives.dump_json(objective))
        assert type(again) is type(objective) and again == objective
    for document in ({"method": "mart"}, {"method": "madry"}, {"method": "natural", "attack": {}}):
        with pytest.raises(ValidationError):
            objectives.validate_python(document)

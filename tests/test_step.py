"""distrib.step: one step is the formula of the paper, on the network that it should meet."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.attack import PGD
from distrib.data.loader import Batch
from distrib.errors import NonFiniteLoss
from distrib.noise import Noise
from distrib.objective import Madry, Natural, Outcome
from distrib.optim import SGD
from distrib.state import State
from distrib.step import update
from distrib.threat import Linf


def batch(count: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(count, 1, 2, 2, generator=draw)  # the box of pixels is never reached
    return Batch(x, torch.arange(count) % 2, torch.arange(count))


def state_of(model: nn.Module, batch_size: int = 6, **fields: object) -> State:
    optim = SGD(name="sgd", lr=0.5, momentum=0.0, epochs=1, batch_size=batch_size, **fields)
    return State(model, optim, steps_per_epoch=10)


@pytest.mark.parametrize("epsilon_scale", [1.0, 0.5])
@pytest.mark.parametrize("batch_size", [6, 12], ids=["the whole batch", "half of the global batch"])
@pytest.mark.parametrize("accumulate", [1, 4, 6])
def test_on_a_linear_model_the_step_is_the_closed_form(linear, epsilon_scale: float, batch_size: int, accumulate: int):
    """The worst image is x - epsilon sign(w_y - w_other); the step is plain gradient descent on the loss there. It is
    so too where the batch is computed in parts, here of one and two images."""
    weight, bias = torch.tensor([[0.5, -1.0, 0.25, 2.0], [-0.5, 1.0, 1.0, -1.0]]), torch.tensor([0.1, -0.2])
    state, data = state_of(linear(weight, bias), batch_size, accumulate=accumulate), batch()
    objective = Madry(method="madry", threat=Linf(epsilon=0.1), attack=PGD(num_steps=10))
    sums = update(state, data, objective, Noise.of(data.index, 0), epsilon_scale)

    margin = weight[data.y] - weight[1 - data.y]
    x_adv = data.x.flatten(1) - epsilon_scale * 0.1 * margin.sign()
    plain = nn.Linear(4, 2)
    plain.load_state_dict({"weight": weight, "bias": bias})
    logits = plain(x_adv)
    loss = F.cross_entropy(logits, data.y)
    loss.backward()
    layer = state.model[1]
    for own, expected in ((layer.weight, plain.weight), (layer.bias, plain.bias)):
        descended = expected.detach() - 0.5 * 6 / batch_size * expected.grad
        torch.testing.assert_close(own.detach(), descended, rtol=1e-5, atol=1e-6)
    assert state.step == 1
    assert sums.loss.item() == pytest.approx(6 * loss.item(), rel=1e-5) and not sums.loss.requires_grad
    assert (sums.correct.item(), sums.count) == ((logits.argmax(dim=1) == data.y).sum().item(), 6)


class Watched:
    """An objective that writes down whom it meets."""

    def __init__(self, state: State, wrong: float = 1.0):
        self.state, self.wrong, self.seen = state, wrong, []

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon_scale: float) -> Tensor:
        self.seen.append(("inner", model is self.state.model, epsilon_scale))
        return x + 1

    def loss(self, forward: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Outcome:
        assert torch.equal(x_adv, x + 1)
        self.seen.append(("outer", forward is self.state.ddp, self.state.step))
        logits = forward(x_adv)
        return Outcome(F.cross_entropy(logits, y) * self.wrong, logits)


class Parallel(nn.Module):
    """In DDP's place."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.module(x)


def watched(linear, wrong: float = 1.0) -> tuple[State, Watched]:
    state = state_of(linear(torch.eye(2, 4)))
    state.ddp = Parallel(state.model)
    return state, Watched(state, wrong)


def test_the_adversary_meets_the_bare_module_and_the_loss_the_parallel_one_once(linear):
    state, objective = watched(linear)
    data = batch()
    update(state, data, objective, Noise.of(data.index, 0), 0.25)
    assert objective.seen == [("inner", True, 0.25), ("outer", True, 0)]
    assert state.ddp.calls == 1, "DDP sees one forward for each backward"


def test_of_blended_images_the_class_of_the_largest_share_counts(linear):
    state, data = state_of(linear(torch.eye(2, 4))), batch()
    shares = torch.tensor([[0.9, 0.1], [0.2, 0.8]])[data.y]
    expected = (state.model(data.x).argmax(1) == data.y).sum().item()
    sums = update(state, data._replace(y=shares), Natural(method="natural"), Noise.of(data.index, 0), 1.0)
    assert (sums.correct.item(), sums.count) == (expected, 6)


def test_no_more_than_a_part_of_a_batch_is_computed_at_once(linear):
    state, objective = watched(linear)
    state.optim = state.optim.model_copy(update={"accumulate": 4})
    data, seen = batch(7), []
    state.ddp.register_forward_hook(lambda module, given, logits: seen.append(len(logits)))
    update(state, data, objective, Noise.of(data.index, 0), 1.0)
    assert seen == [1, 2, 2, 2] and [kind for kind, *_ in objective.seen] == ["inner"] * 4 + ["outer"] * 4
    assert state.step == 1


def test_while_epsilon_is_0_the_adversary_is_not_asked(linear):
    state, data = state_of(linear(torch.eye(2, 4))), batch()
    adversary = Madry(method="madry", threat=Linf(epsilon=0.1))
    natural = state_of(linear(torch.eye(2, 4)))
    update(state, data, adversary, Noise.of(data.index, 0), 0.0)
    update(natural, data, Natural(method="natural"), Noise.of(data.index, 0), 1.0)
    assert torch.equal(state.model[1].weight, natural.model[1].weight)

    watching, objective = watched(linear)
    objective.loss = lambda forward, x, x_adv, y: Outcome(F.cross_entropy(forward(x_adv), y), forward(x))
    update(watching, data, objective, Noise.of(data.index, 0), 0.0)
    assert objective.seen == []


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_step_before_the_weights_move(linear, wrong: float):
    state, objective = watched(linear, wrong)
    data = batch()
    with pytest.raises(NonFiniteLoss, match=r"step 0 .*lower optim\.lr"):
        update(state, data, objective, Noise.of(data.index, 0), 1.0)
    assert torch.equal(state.model[1].weight, torch.eye(2, 4)) and state.step == 0


def test_in_bfloat16_the_adversary_meets_the_weights_of_this_very_step_rounded(linear):
    """Rounded anew at each step: those of the step before would be another network."""
    model = linear(torch.tensor([[0.5, -1.0, 0.25, 2.0], [-0.5, 1.0, 1.0, -1.0]]), torch.tensor([0.1, -0.2]))
    sgd = SGD(name="sgd", lr=0.5, momentum=0.0, epochs=1, batch_size=6)
    state, data, met = State(model, sgd, steps_per_epoch=10, precision="bfloat16"), batch(), []

    class Adversary(Madry):
        def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon_scale: float = 1.0) -> Tensor:
            met.append(
                (model.get_submodule("1").weight.clone(), state.model.get_submodule("1").weight.detach().clone())
            )
            return super().perturb(model, x, y, noise, epsilon_scale)

    for step in range(3):
        update(state, data, Adversary(method="madry", threat=Linf(epsilon=0.1)), Noise.of(data.index, step), 1.0)
    for low, exact in met:
        assert low.dtype == torch.bfloat16 and torch.equal(low, exact.bfloat16())
    assert not torch.equal(met[0][1], met[2][1])


def test_under_awp_the_gradient_is_that_at_the_worst_weights_and_the_step_begins_at_the_old_ones(linear):
    weight, bias = torch.tensor([[0.5, -1.0, 0.25, 2.0], [-0.5, 1.0, 1.0, -1.0]]), torch.tensor([0.1, -0.2])
    optim = SGD(name="sgd", lr=0.5, momentum=0.0, epochs=1, batch_size=6, awp_gamma=0.1)
    state, data = State(linear(weight, bias), optim, steps_per_epoch=10), batch()
    objective = Madry(method="madry", threat=Linf(epsilon=0.1), attack=PGD(num_steps=10))
    sums = update(state, data, objective, Noise.of(data.index, 0), 1.0)

    x_adv = data.x.flatten(1) - 0.1 * (weight[data.y] - weight[1 - data.y]).sign()
    plain = nn.Linear(4, 2)
    plain.load_state_dict({"weight": weight, "bias": bias})
    F.cross_entropy(plain(x_adv), data.y).backward()
    assert plain.weight.grad is not None
    with torch.no_grad():
        plain.weight += plain.weight.grad * 0.1 * weight.norm() / plain.weight.grad.norm()
    plain.zero_grad()
    loss = F.cross_entropy(plain(x_adv), data.y)
    loss.backward()
    layer = state.model[1]
    torch.testing.assert_close(layer.weight.detach(), weight - 0.5 * plain.weight.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.bias.detach(), bias - 0.5 * plain.bias.grad, rtol=1e-5, atol=1e-6)
    assert sums.loss.item() == pytest.approx(6 * loss.item(), rel=1e-5)


def test_under_awp_running_statistics_are_taken_once_a_step_and_nothing_is_done_without_an_adversary():
    def trained(gamma: float, epsilon_scale: float) -> State:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
        state = State(model, SGD(name="sgd", lr=0.1, epochs=1, batch_size=6, awp_gamma=gamma), steps_per_epoch=10)
        data = batch()
        for step in range(2):
            adversary = Madry(method="madry", threat=Linf(epsilon=0.1), attack=PGD(num_steps=2))
            update(state, data, adversary, Noise.of(data.index, step), epsilon_scale)
        return state

    def weights(state: State) -> list[Tensor]:
        return list(state.model.state_dict().values())

    assert trained(0.05, 1.0).model[1].num_batches_tracked == 2
    pairs = zip(weights(trained(0.05, 1.0)), weights(trained(0.0, 1.0)), strict=True)
    assert any((one != other).any() for one, other in pairs)
    pairs = zip(weights(trained(0.05, 0.0)), weights(trained(0.0, 0.0)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)

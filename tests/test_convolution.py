"""A convolution's gradient by images of few channels: that of torch, for every window, on every road to it."""

import copy
import io
import itertools

import pytest
import torch
from states import new, small_cnn
from torch import Tensor, nn
from torch.nn import functional

from distrib.attack import PGD, Adversary
from distrib.convolution import block_side, conv2d, quickened
from distrib.data.loader import Batch
from distrib.noise import Noise
from distrib.objective import Madry
from distrib.precision import Format, forward_in
from distrib.step import update
from distrib.threat import Linf

WINDOWS = list(itertools.product((1, 2, 3, 4, 5, 7), (1, 2, 3), (0, 1, 2, 6)))


def gradient(outputs: Tensor, x: Tensor) -> Tensor:
    """By ``x``, of the outputs weighted by numbers that are the same at every call."""
    weights = torch.randn(outputs.shape, dtype=outputs.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(outputs, x, weights)[0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("image", [(12, 12), (9, 13), (7, 8)])
def test_every_window_has_torchs_outputs_and_gradient(channels: int, image: tuple[int, int]):
    """float64, so that a product at the wrong place cannot hide behind rounding."""
    torch.manual_seed(0)
    quick = 0
    for kernel, stride, padding in WINDOWS:
        x = torch.randn(2, channels, *image, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(5, channels, kernel, kernel, dtype=torch.float64)
        bias = torch.randn(5, dtype=torch.float64)
        ours, theirs = (one(x, weight, bias, stride, padding) for one in (conv2d, functional.conv2d))
        assert torch.equal(ours, theirs)
        assert ours.grad_fn
        quick += ours.grad_fn.name() == "_FewChannelsBackward"
        torch.testing.assert_close(gradient(ours, x), gradient(theirs, x), rtol=1e-11, atol=1e-11)
    assert quick == sum(block_side(channels, stride) > 1 for _, stride, _ in WINDOWS)


def test_a_window_that_is_not_square():
    x, weight = torch.randn(2, 1, 9, 9, dtype=torch.float64, requires_grad=True), torch.randn(3, 1, 2, 5).double()
    ours, theirs = (one(x, weight, None, 2, 1) for one in (conv2d, functional.conv2d))
    torch.testing.assert_close(gradient(ours, x), gradient(theirs, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("channels", "stride", "side"), [(1, 1, 4), (1, 2, 4), (3, 1, 2), (3, 2, 2), (4, 1, 2), (1, 3, 3)]
)
def test_blocks_fill_what_is_computed_at_once(channels: int, stride: int, side: int):
    assert block_side(channels, stride) == side


@pytest.mark.parametrize(("channels", "stride"), [(3, 3), (5, 1), (16, 1), (17, 1), (64, 2), (1, 5)])
def test_where_there_is_nothing_to_win(channels: int, stride: int):
    assert block_side(channels, stride) == 1


@pytest.mark.parametrize("settings", [(1, "same"), ((1, 2), 1), (1, (0, 2)), (1, 0, 2), (1, 2, 1, 1), ()])
def test_other_settings_are_torchs(settings: tuple):
    x, weight = torch.randn(2, 1, 9, 9, requires_grad=True), torch.randn(3, 1, 3, 3)
    ours, theirs = (one(x, weight, None, *settings) for one in (conv2d, torch.conv2d))
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(gradient(ours, x), gradient(theirs, x))


def test_weights_that_learn_get_their_gradients():
    x, weight, bias = torch.randn(2, 1, 9, 9, requires_grad=True), torch.randn(3, 1, 3, 3), torch.randn(3)
    for one in (weight, bias):
        one.requires_grad_()
        conv2d(x, weight, bias).sum().backward()
        assert one.grad is not None and one.grad.abs().sum() > 0
        one.requires_grad_(False)


def test_it_can_be_derived_twice():
    """As a measure of the curvature does."""
    x, weight = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True), torch.randn(3, 1, 3, 3).double()
    assert torch.autograd.gradgradcheck(lambda x: conv2d(x, weight, None, 1, 1).tanh(), x)


# Networks


def attacked(model: nn.Module, precision: Format = "float32") -> Tensor:
    torch.manual_seed(0)
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    with forward_in(precision, torch.device("cpu")):
        return Adversary(Linf(epsilon=0.1), PGD(num_steps=3)).perturb(model, x, y, Noise.of(y, 0, "attack"))


def program(model: nn.Module) -> nn.Module:
    """The model as the registry keeps it."""
    shapes, file = ({0: torch.export.Dim("batch")},), io.BytesIO()
    torch.export.save(torch.export.export(model.eval(), (torch.rand(4, 1, 8, 8),), dynamic_shapes=shapes), file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("build", [small_cnn, lambda: program(small_cnn())], ids=["network", "program"])
def test_a_network_keeps_its_outputs_and_meets_the_same_attack(build, quick_gradients: list[str]):
    torch.manual_seed(0)
    plain = build()
    quick = copy.deepcopy(plain)
    assert quickened(quick) is quick
    x = torch.rand(8, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(plain(x), quick(x))
    before = list(plain.state_dict())
    assert before == list(quick.state_dict()) and not quick_gradients
    torch.testing.assert_close(attacked(quick), attacked(plain))
    assert quick_gradients == ["torch.float32"] * 6, (
        "two in each step (its convolutions have 1 and 4 channels), of the quick one alone"
    )


def test_in_bfloat16_under_autocast(quick_gradients: list[str]):
    torch.manual_seed(0)
    plain = small_cnn()
    exact = attacked(plain, "bfloat16")
    found = attacked(quickened(plain), "bfloat16")
    assert quick_gradients == ["torch.bfloat16"] * 6 and found.dtype == torch.float32
    assert ((found - exact).abs() > 1e-3).float().mean() < 0.02, "but for signs of gradients near 0"


def test_training_has_it(quick_gradients: list[str]):
    state, y = new(), torch.arange(8)
    adversary = {"threat": {"norm": "linf", "epsilon": 0.1}, "attack": {"num_steps": 3}}
    objective = Madry.model_validate({"method": "madry"} | adversary)
    update(state, Batch(torch.rand(8, 1, 8, 8), y, y), objective, Noise.of(y, 0, "attack"), 1.0)
    assert len(quick_gradients) == 6, "of the attack; the weights' own gradients are torch's"


def test_a_quickened_network_can_be_exported_and_copied():
    quick = quickened(small_cnn())
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(program(copy.deepcopy(quick))(x), quick.eval()(x))


def test_a_convolution_with_other_borders_stays_as_it_is():
    layer = nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")
    assert type(quickened(layer)) is nn.Conv2d

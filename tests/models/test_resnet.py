"""Residual networks against published sizes, and the unit against its definition."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from distrib.models import PreActResNet, WideResNet
from distrib.models.layers import PerImage
from distrib.models.resnet import Unit

CIFAR = ((3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


def num_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("model", "count"),
    [
        # 11,171,146 in kuangliu/pytorch-cifar, which has no last norm: 2 * 512 fewer.
        (PreActResNet(depth=18), 11_171_146 + 1024),
        # 36.5M in the WideResNet paper, table 4; TRADES and others use WRN-34-10 at 46.16M.
        (WideResNet(depth=28, width=10), 36_479_194),
        (WideResNet(depth=34, width=10), 46_160_474),
    ],
    ids=["preact_resnet18", "wrn28_10", "wrn34_10"],
)
def test_parameter_counts(model: PreActResNet | WideResNet, count: int):
    with torch.device("meta"):  # the shapes without the memory
        assert num_parameters(model.build(*CIFAR)) == count


@pytest.mark.parametrize(
    ("model", "num_units", "outputs"),
    [
        (PreActResNet(depth=18), [2, 2, 2, 2], [64, 128, 256, 512]),
        (PreActResNet(depth=12), [1, 2, 2], [64, 128, 256]),
        (PreActResNet(depth=14), [2, 2, 2], [64, 128, 256]),
        (PreActResNet(depth=34), [3, 4, 6, 3], [64, 128, 256, 512]),
        (PreActResNet(depth=18, width=0.125), [2, 2, 2, 2], [8, 16, 32, 64]),
        (WideResNet(depth=34, width=10), [5, 5, 5], [160, 320, 640]),  # the paper's wide network
        (WideResNet(depth=34, width=1), [5, 5, 5], [16, 32, 64]),  # the paper's simple network
    ],
)
def test_groups(model: PreActResNet | WideResNet, num_units: list[int], outputs: list[int]):
    with torch.device("meta"):
        net = model.build(*CIFAR)
        sizes, counts, x = [], [], torch.rand(2, *CIFAR[0])
        for name, layer in net.named_children():
            x = layer(x)
            if isinstance(layer, nn.Sequential):
                counts.append(len(layer))
                sizes.append(x.shape[1])
                assert x.shape[2] == 32 // 2 ** (len(counts) - 1), name
    assert counts == num_units and sizes == outputs


def test_a_stem_of_stride_two_halves_the_image_whether_or_not_its_sides_are_even():
    with torch.device("meta"):
        for side in (8, 9, 32):
            net = PreActResNet(depth=14, stem_stride=2).build((3, side, side), *CIFAR[1:])
            stem = net.get_submodule("stem")
            assert stem(torch.rand(2, 3, side, side)).shape == (2, 64, side // 2, side // 2)
            assert net(torch.rand(2, 3, side, side)).shape == (2, 10)


@pytest.mark.parametrize(("before", "after", "stride"), [(4, 4, 1), (4, 6, 1), (4, 6, 2), (4, 4, 2)])
def test_unit_is_its_definition(before: int, after: int, stride: int):
    """conv(relu(bn(conv(relu(bn(x)))))) plus x, or plus a projection of relu(bn(x)) where shapes differ."""
    unit = Unit(before, after, stride, nn.ReLU).eval()
    x = torch.rand(2, before, 8, 8)
    active = unit.norm1(x).relu()
    residual = unit.conv2(unit.norm2(unit.conv1(active)).relu())
    if unit.shortcut is None:
        assert (before, stride) == (after, 1)
        torch.testing.assert_close(unit(x), x + residual)
    else:
        assert (before, stride) != (after, 1)
        torch.testing.assert_close(unit(x), unit.shortcut(active) + residual)


def test_paper_options():
    """Slope 0.1 everywhere and per-image standardisation first; by default relu and the data set's numbers."""
    net = WideResNet(depth=10, width=0.1, activation="leaky_relu", normalisation="per_image").build(*CIFAR)
    slopes = [module.negative_slope for module in net.modules() if isinstance(module, nn.LeakyReLU)]
    assert slopes == [0.1] * 4
    assert not any(isinstance(module, nn.ReLU) for module in net.modules())
    assert isinstance(next(net.children()), PerImage)
    plain = WideResNet(depth=10, width=0.1).build(*CIFAR)
    assert not any(isinstance(module, (nn.LeakyReLU, PerImage)) for module in plain.modules())


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU), ("silu", nn.SiLU)])
@pytest.mark.parametrize(
    "value", [PreActResNet(width=0.125), WideResNet(depth=10, width=0.1)], ids=lambda value: value.arch
)
def test_the_named_activation_is_everywhere(value: PreActResNet | WideResNet, name, kind: type[nn.Module]):
    net = value.model_copy(update={"activation": name}).build(*CIFAR)
    found = {type(module) for module in net.modules() if isinstance(module, (nn.ReLU, nn.LeakyReLU, nn.SiLU))}
    assert found == {kind}


def test_convolutions_keep_the_variance():
    """He initialisation, fan-out: std sqrt(2 / (9 * channels out)), measured to 2%."""
    torch.manual_seed(0)
    weight = Unit(64, 64, 1, nn.ReLU).conv1.weight  # PyTorch's default, for contrast: a third of the variance
    net = PreActResNet(depth=18).build(*CIFAR)
    drawn = net.get_submodule("group1.0.conv1").weight
    assert isinstance(drawn, nn.Parameter)
    expected = (2 / (9 * 64)) ** 0.5
    assert abs(drawn.std().item() / expected - 1) < 0.02
    assert weight.std().item() < 0.8 * expected


@pytest.mark.parametrize(("depth", "cure"), [(29, "28 or 34"), (4, "10 or 16"), (0, "10 or 16"), (-5, "10 or 16")])
def test_wide_resnet_refuses_other_depths(depth: int, cure: str):
    with pytest.raises(ValidationError, match=cure):
        WideResNet(depth=depth)

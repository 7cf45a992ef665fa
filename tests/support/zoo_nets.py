"""RobustBench's two residual networks, by their names, for images of 3x32x32: written anew from what they compute."""

import sys
import types
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.models import Model


class Block(nn.Module):
    """A unit whose shortcut, where there is one, takes the activated input."""

    def __init__(self, before: int, after: int, stride: int, shortcut: str):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.name = shortcut if stride > 1 or before != after else None
        if self.name:
            one = nn.Conv2d(before, after, 1, stride, bias=False)
            setattr(self, self.name, one if self.name == "convShortcut" else nn.Sequential(one))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        around = getattr(self, self.name)(active) if self.name else x
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + around


class PreActBlockV2(Block):
    def __init__(self, before: int, after: int, stride: int):
        super().__init__(before, after, stride, "shortcut")


class Layers(nn.Module):
    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth: int, widen_factor: int, num_classes: int):
        super().__init__()
        sizes, units = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor], (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        for number in (1, 2, 3):
            before, after = sizes[number - 1], sizes[number]
            first = Block(before, after, 1 if number == 1 else 2, "convShortcut")
            rest = [Block(after, after, 1, "convShortcut") for _ in range(units - 1)]
            setattr(self, f"block{number}", Layers(first, *rest))
        self.bn1, self.fc = nn.BatchNorm2d(sizes[3]), nn.Linear(sizes[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in (1, 2, 3):
            x = getattr(self, f"block{number}")(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class PreActResNet(nn.Module):
    def __init__(self, block: type[PreActBlockV2], num_blocks: list[int], num_classes: int, bn_before_fc: bool):
        super().__init__()
        assert bn_before_fc
        self.conv1, before = nn.Conv2d(3, 64, 3, 1, 1, bias=False), 64
        for number, count in enumerate(num_blocks, 1):
            after, blocks = 32 * 2**number, []
            for unit in range(count):
                blocks.append(block(before, after, 2 if number > 1 and unit == 0 else 1))
                before = after
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.bn, self.linear = nn.BatchNorm2d(512), nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in (1, 2, 3, 4):
            x = getattr(self, f"layer{number}")(x)
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


def put_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes both importable as those of the package robustbench, which the tests do not install."""
    modules = {"wide_resnet": [WideResNet], "resnet": [PreActResNet, PreActBlockV2]}
    for name in ("robustbench", "robustbench.model_zoo", "robustbench.model_zoo.architectures"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, classes in modules.items():
        whole = f"robustbench.model_zoo.architectures.{name}"
        module = types.ModuleType(whole)
        module.__dict__.update({one.__name__: one for one in classes})
        monkeypatch.setitem(sys.modules, whole, module)


def drawn(model: Model, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Ours, with every number drawn, running statistics and biases too, so that none can stand for another."""
    torch.manual_seed(3)
    net = model.build((3, 32, 32), 10, mean, std)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not name.startswith("normalise."):
            tensor.copy_(tensor + 0.01 * torch.rand_like(tensor))
    return net.eval()

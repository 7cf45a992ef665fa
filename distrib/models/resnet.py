"""Pre-activation residual networks (He et al., arXiv 1603.05027) and their wide form (Zagoruyko and Komodakis,
arXiv 1605.07146): one unit, one net, two families."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

from pydantic import field_validator
from torch import Tensor, nn

from distrib.models.layers import GlobalMean, ImageShape, PerImage, Width, channels, check_image, normalise_by
from distrib.values import Value

Activation = Callable[[], nn.Module]
ActivationName = Literal["relu", "leaky_relu", "silu"]
ACTIVATIONS: dict[ActivationName, Activation] = {
    "relu": nn.ReLU, "leaky_relu": partial(nn.LeakyReLU, 0.1), "silu": nn.SiLU,
}  # fmt: skip


class Unit(nn.Module):
    """The basic pre-activation unit: ``[B, before, H, W]`` -> ``[B, after, ceil(H/stride), ceil(W/stride)]``.

    The shortcut is the identity where shapes allow it, else a 1x1 convolution of the activated input, without norm.
    """

    def __init__(self, before: int, after: int, stride: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.activation = activation()
        # The stride counts too: at a small width two groups may both have one channel.
        same = before == after and stride == 1
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(self.norm1(x))
        residual = self.conv2(self.activation(self.norm2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


def group(before: int, after: int, num_units: int, stride: int, activation: Activation) -> nn.Sequential:
    """``num_units`` units, of which the first changes the channels and takes the stride."""
    first = Unit(before, after, stride, activation)
    return nn.Sequential(first, *(Unit(after, after, 1, activation) for _ in range(num_units - 1)))


def residual_net(
    normalise: nn.Module, stem: nn.Conv2d, groups: Sequence[tuple[int, int]], activation: Activation, num_classes: int
) -> nn.Sequential:
    """The stem, then groups of (channels, units) of which all but the first halve the image, then the classifier.

    Convolutions start from N(0, 2 / (k*k*channels out)), the fan-out form of He et al. that both WideResNet and the
    paper's code use, leaky or not; the classifier's weights from PyTorch's default, its biases from 0.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalise=normalise, stem=stem)
    before = stem.out_channels
    for number, (after, num_units) in enumerate(groups, start=1):
        layers[f"group{number}"] = group(before, after, num_units, 1 if number == 1 else 2, activation)
        before = after
    layers["norm"] = nn.BatchNorm2d(before)
    layers["activation"] = activation()
    layers["mean"] = GlobalMean()
    layers["classifier"] = classifier = nn.Linear(before, num_classes)
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(classifier.bias)
    return net


class PreActResNet(Value):
    """The CIFAR form of PreActResNet-18 and -34: 3x3 stem, no max pooling, four groups of 64, 128, 256, 512 channels.

    Depth 14 leaves out the last group, and depth 12 one unit of the first as well, where the image is largest. With
    ``stem_stride: 2`` the stem is 4x4 and halves the image, which takes a quarter of the operations.

    Depth 18 has 11,172,170 parameters on 3x32x32 with 10 classes. The usual PyTorch source, kuangliu/pytorch-cifar
    (models/preact_resnet.py), has 11,171,146: it leaves out the norm and relu after the last unit, which He et al.
    ask for, and which the robust nets have (RobustBench: PreActResNet with ``bn_before_fc``).
    """

    batch_norm: ClassVar[bool] = True
    arch: Literal["preact_resnet"] = "preact_resnet"
    depth: Literal[12, 14, 18, 34] = 18
    """How many layers have weights, not counting shortcuts."""
    stem_stride: Literal[1, 2] = 1
    """The stride of the first convolution: 2 halves the image (and its kernel is 4x4, not 3x3)."""
    activation: ActivationName = "relu"
    """The nonlinearity; leaky_relu has slope 0.1, silu is smooth (Xie et al., arXiv 2006.14536)."""
    width: Width = 1.0
    """Multiplies the channels of the stem and of all groups."""

    def build(self, image: ImageShape, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
        """``[B, *image]`` float32 in [0, 1] -> logits ``[B, num_classes]``; drawn from torch's global CPU seed.

        ``image`` (C, H, W) is at least 8x8 pixels, ``mean`` and ``std`` have one number a channel; else JobError.
        """
        check_image(self.arch, image, num_classes, least=8)
        sizes = [channels(base, self.width) for base in (64, 128, 256, 512)]
        units = {12: (1, 2, 2), 14: (2, 2, 2), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[self.depth]
        groups = list(zip(sizes, units, strict=False))
        stem = nn.Conv2d(image[0], sizes[0], 2 + self.stem_stride, self.stem_stride, padding=1, bias=False)
        return residual_net(normalise_by(image[0], mean, std), stem, groups, ACTIVATIONS[self.activation], num_classes)


class WideResNet(Value):
    """WRN-depth-width: a stem of 16 channels, three groups of 16, 32, 64 times the width, (depth - 4) / 6 units each.

    The paper's CIFAR-10 networks have 5 units a group, leaky relu and per-image standardisation (section 5 and
    MadryLab/cifar10_challenge, model.py): ``depth: 34, activation: leaky_relu, normalisation: per_image`` with
    ``width: 10`` (wide: 16, 160, 320, 640) or ``width: 1`` (simple: 16, 16, 32, 64). Two details follow WideResNet
    and not that code: a shortcut that changes shape is a 1x1 convolution (theirs pools and pads with zeros), and the
    first unit's identity shortcut is of the plain input.

    WRN-28-10 has 36,479,194 parameters and WRN-34-10 46,160,474, on 3x32x32 with 10 classes.
    """

    batch_norm: ClassVar[bool] = True
    arch: Literal["wide_resnet"] = "wide_resnet"
    depth: int = 34
    """How many layers have weights: 6n + 4, at least 10."""
    width: Width = 10.0
    """The widening factor: it multiplies the channels of all groups, not those of the stem."""
    activation: ActivationName = "relu"
    """The nonlinearity; leaky_relu has slope 0.1, silu is smooth (Xie et al., arXiv 2006.14536)."""
    normalisation: Literal["dataset", "per_image"] = "dataset"
    """By the data set's mean and std, or each image by its own (mean and std are then not used)."""

    @field_validator("depth")
    @classmethod
    def whole_groups(cls, depth: int) -> int:
        """The depth, if it is 6n + 4; else ValueError with the two depths around it."""
        if depth < 10 or (depth - 4) % 6:
            below = max(10, depth - (depth - 4) % 6)
            raise ValueError(f"the depth of a WideResNet is 6n + 4, not {depth}; take {below} or {below + 6}")
        return depth

    def build(self, image: ImageShape, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
        """``[B, *image]`` float32 in [0, 1] -> logits ``[B, num_classes]``; drawn from torch's global CPU seed.

        ``image`` (C, H, W) is at least 4x4 pixels, ``mean`` and ``std`` have one number a channel; else JobError.
        """
        check_image(self.arch, image, num_classes, least=4)
        normalise = normalise_by(image[0], mean, std) if self.normalisation == "dataset" else PerImage()
        stem = nn.Conv2d(image[0], 16, 3, padding=1, bias=False)
        groups = [(channels(base, self.width), (self.depth - 4) // 6) for base in (16, 32, 64)]
        return residual_net(normalise, stem, groups, ACTIVATIONS[self.activation], num_classes)

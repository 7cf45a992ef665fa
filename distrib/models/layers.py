"""What every model shares: the normalisation that comes first, the width, and the check of what is to be built.

All layers take and return float32 and change nothing in place.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from distrib.errors import JobError

ImageShape = tuple[int, int, int]
"""The shape of one image: channels, height, width."""

Width = Annotated[float, Field(gt=0)]
"""The factor on the channels of a model: its capacity, which a search may vary."""


def channels(base: int, width: float) -> int:
    """``base`` channels made ``width`` times as many; at least one."""
    return max(1, round(base * width))


def check_image(arch: str, image: ImageShape, num_classes: int, least: int = 1) -> None:
    """Raise :class:`JobError` unless images of this shape, ``least`` pixels high and wide, fit this architecture."""
    num_channels, height, width = image
    if num_channels < 1 or min(height, width) < least:
        raise JobError(
            f"model.arch: {arch} needs at least 1 channel and {least}x{least} pixels, and the images are "
            f"{num_channels}x{height}x{width} (CxHxW); choose another arch or larger images"
        )
    if num_classes < 2:
        raise JobError(f"model.arch: {arch} needs at least 2 classes, and num_classes is {num_classes}; check the data")


def normalise_by(num_channels: int, mean: Sequence[float], std: Sequence[float]) -> "Normalise":
    """The layer. Raises :class:`JobError` where there is not one finite mean and one positive std for each channel."""
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != num_channels or not all(map(math.isfinite, numbers)):
            raise JobError(f"{name}: expected {num_channels} finite numbers, one a channel, not {list(numbers)}")
    # A constant channel has std 0: dividing by it would give nan, and training would fail far from the cause.
    if min(std) <= 0:
        raise JobError(
            f"std: channel {list(std).index(min(std))} has std {min(std)}, which cannot be divided by; "
            "drop the constant channel from the data, or give it std 1"
        )
    return Normalise(mean, std)


class Normalise(nn.Module):
    """``[B, C, H, W]`` in [0, 1] -> ``(x - mean) / std``, by channel; both are buffers ``[C, 1, 1]``."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class PerImage(nn.Module):
    """``[B, C, H, W]`` -> each image less its own mean, over its own std, which counts as at least 1/sqrt(C*H*W).

    This is ``tf.image.per_image_standardization``, the first layer of the paper's CIFAR-10 networks
    (MadryLab/cifar10_challenge, model.py). There it meets pixels of 0..255, so that its least std is 255 times
    smaller: a difference for images flatter than 0.018 only.
    """

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((1, 2, 3), keepdim=True)
        variance = centred.square().mean((1, 2, 3), keepdim=True)
        # The bound goes inside the root: outside it, the gradient at a constant image would be 0 * inf = nan.
        return centred / variance.clamp_min(1 / x[0].numel()).sqrt()


class GlobalMean(nn.Module):
    """``[B, C, H, W]`` -> ``[B, C]``, for any H and W."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

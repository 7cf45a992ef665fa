"""What a network of somebody else's library needs to take our images: their size, their channels, and one attempt."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from distrib.errors import JobError
from distrib.models.layers import ImageShape


class Repeat(nn.Module):
    """``[B, 1, H, W]`` -> ``[B, 3, H, W]``: grey as three equal colours."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)


class Resize(nn.Module):
    """``[B, C, H, W]`` -> ``[B, C, size, size]``, bilinear."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)


class WithoutWeights(TorchFunctionMode):
    """Inside, a module is built without memory or random numbers for its weights, which layers ask torch.empty for.

    (The device ``meta`` does the same, but some networks compute their sizes with tensors.)
    """

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: dict | None = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})


def attempt(name: str, net: nn.Module, image: ImageShape, num_classes: int, resize: int | None) -> nn.Module:
    """``net``, in training mode, after one forward of one such image.

    Raises :class:`JobError` unless that gives logits.
    """
    try:
        with torch.no_grad():
            logits = net.eval()(torch.zeros(1, *image))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise JobError(
            f"model.resize: {name} does not take images of {resize or image[1]}x{resize or image[2]} pixels "
            f"({reason}); set resize to 224 (299 for inception_v3)"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise JobError(f"model.name: {name} does not return logits [B, {num_classes}]; choose another")
    return net.train()


def normalisation(num_channels: int, mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    """The state of :class:`Normalise` before published weights: their three colours, or the mean colour everywhere."""
    colours = {"normalise.mean": torch.tensor(mean).expand(3), "normalise.std": torch.tensor(std).expand(3)}
    if num_channels != 3:
        colours = {name: three.mean(0, keepdim=True).expand(num_channels) for name, three in colours.items()}
    return {name: three.reshape(-1, 1, 1) for name, three in colours.items()}

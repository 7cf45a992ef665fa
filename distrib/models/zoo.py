"""The classifiers of torchvision, by name: the one door to ``torchvision.models``, which is imported on use."""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from distrib.errors import JobError
from distrib.files import file_sha256
from distrib.models.layers import ImageShape, Normalise, check_image
from distrib.values import Value

# These two return a tuple in training unless told not to, and warn unless told how to draw their weights.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def zoo() -> ModuleType:
    """``torchvision.models``, or :class:`JobError` where it is not installed."""
    try:
        from torchvision import models
    except ImportError as error:
        raise JobError(f"model.arch: torchvision cannot be imported ({error}); install it or choose another") from None
    return models


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


def _untrained(name: str, num_classes: int) -> nn.Module:
    return zoo().get_model(name, weights=None, num_classes=num_classes, **ARGUMENTS.get(name, {}))


OWN_SCALE = ("googlenet", "inception_v3")
"""Their published weights were trained on pixels in [-1, 1]; those of the others with each colour's mean and std."""


def pretrained(name: str, num_channels: int, download: bool) -> tuple[dict[str, Tensor], str]:
    """(torchvision's best weights of the network ``name``, under our names; the sha256 of their file).

    They come with the normalisation that they were trained with; a grey image has that of the mean colour. Raises
    :class:`JobError` where there are none, or they are not in torchvision's cache and may not be downloaded.
    """
    kinds = zoo().get_model_weights(name)
    if not len(kinds):
        raise JobError(f"init.weights: torchvision has no pretrained weights of {name}; choose another network")
    best = kinds.DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(best.url).name
    if not file.exists() and not download:
        raise JobError(
            f"init.weights: {file} is not there; put {best.url} there, or set init.download: true to fetch it"
        )
    try:
        tensors = best.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; another hash
        raise JobError(f"init.weights: {best.url} cannot be had ({error}); put it at {file}") from None
    preset = best.transforms()
    numbers = {"mean": preset.mean, "std": preset.std} if name not in OWN_SCALE else {"mean": [0.5], "std": [0.5]}
    ours = {f"net.{key}": one for key, one in tensors.items() if not key.lower().startswith("aux")}
    for part, colours in numbers.items():
        by_colour = torch.tensor(colours).expand(3)
        ours[f"normalise.{part}"] = (by_colour if num_channels == 3 else by_colour.mean(0, True)).view(-1, 1, 1)
    return ours, file_sha256(file)


class _WithoutWeights(TorchFunctionMode):
    """Inside, a module is built without memory or random numbers for its weights, which layers ask torch.empty for.

    (The device ``meta`` does the same, but some of these networks compute their sizes with tensors.)
    """

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: dict | None = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})


@cache
def _has_batch_norm(name: str) -> bool:
    with torch.random.fork_rng(devices=[]), _WithoutWeights():
        net = _untrained(name, 2)
    return any(isinstance(module, _BatchNorm) for module in net.modules())


class TorchvisionNet(Value):
    """Any classifier of torchvision, untrained; grey images are repeated to three channels.

    Most are made for images of 224x224 pixels: small ones leave them little to see, or do not fit at all.
    """

    arch: Literal["torchvision"] = "torchvision"
    name: str
    """The network's name, as ``torchvision.models.list_models()`` writes it, such as resnet18."""
    resize: Annotated[int, Field(ge=1)] | None = None
    """Images are brought to this height and width inside the model (so the attack still moves the small image)."""

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        """The name, if torchvision has a classifier of it; else :class:`JobError` with the nearest names."""
        models = zoo()
        names = models.list_models(module=models)  # this module only: no detection, segmentation or video
        if name not in names:
            near = difflib.get_close_matches(name, names, n=5, cutoff=0)
            raise JobError(f"torchvision has no classifier {name!r}; the nearest names are {', '.join(near)}")
        return name

    @property
    def batch_norm(self) -> bool:
        """Whether the network has BatchNorm."""
        return _has_batch_norm(self.name)

    def build(self, image: ImageShape, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
        """``[B, *image]`` float32 in [0, 1] -> logits ``[B, num_classes]``; drawn from torch's global CPU seed.

        One forward is tried. JobError when the images do not have 1 or 3 channels or are too small for this net.
        """
        check_image(self.arch, image, num_classes)
        if image[0] not in (1, 3):
            raise JobError(f"model.arch: torchvision takes images of 1 or 3 channels, not {image[0]}; choose another")
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise(image[0], mean, std))
        if image[0] == 1:
            layers["repeat"] = Repeat()
        if self.resize is not None:
            layers["resize"] = Resize(self.resize)
        layers["net"] = _untrained(self.name, num_classes)
        net = nn.Sequential(layers)
        self.attempt(net, image, num_classes)
        return net

    def attempt(self, net: nn.Module, image: ImageShape, num_classes: int) -> None:
        """Raise :class:`JobError` unless ``net`` takes such an image to logits; ``net`` is left in training mode."""
        try:
            with torch.no_grad():
                logits = net.eval()(torch.zeros(1, *image))
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise JobError(
                f"model.resize: {self.name} does not take images of {self.resize or image[1]}x"
                f"{self.resize or image[2]} pixels ({reason}); set resize to 224 (299 for inception_v3)"
            ) from error
        net.train()
        if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
            raise JobError(f"model.name: {self.name} does not return logits [B, {num_classes}]; choose another")

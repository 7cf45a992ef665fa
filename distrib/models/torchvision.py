"""The classifiers of torchvision, by name: the one door to ``torchvision.models``, which is imported on use."""

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distrib.errors import JobError
from distrib.files import file_sha256
from distrib.models.adapt import Repeat, Resize, WithoutWeights, attempt, normalisation
from distrib.models.layers import ImageShape, check_image, normalise_by
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


def torchvision_names() -> list[str]:
    """Of its classifiers. Raises :class:`JobError` where it is not installed."""
    models = zoo()
    return models.list_models(module=models)  # this module only: no detection, segmentation or video


def _arguments(name: str, num_classes: int) -> dict[str, Any]:
    return {"weights": None, "num_classes": num_classes, **ARGUMENTS.get(name, {})}


def _untrained(name: str, num_classes: int) -> nn.Module:
    return zoo().get_model(name, **_arguments(name, num_classes))


OWN_SCALE = ("googlenet", "inception_v3")
"""Their published weights were trained on pixels in [-1, 1]; those of the others with each colour's mean and std."""


@cache
def _has_batch_norm(name: str) -> bool:
    with torch.random.fork_rng(devices=[]), WithoutWeights():
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
        names = torchvision_names()
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
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalise=normalise_by(image[0], mean, std))
        if image[0] == 1:
            layers["repeat"] = Repeat()
        if self.resize is not None:
            layers["resize"] = Resize(self.resize)
        layers["net"] = _untrained(self.name, num_classes)
        return attempt(self.name, nn.Sequential(layers), image, num_classes, self.resize)

    def written(self, image: ImageShape, num_classes: int) -> str:
        """The call that makes the network, without what comes before it."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in _arguments(self.name, num_classes).items())
        return f"torchvision.models.get_model({self.name!r}, {arguments})"

    def pretrained(self, image: ImageShape, download: bool) -> tuple[dict[str, Tensor], str]:
        """(torchvision's best weights of this network, under our names; the sha256 of their file).

        They come with the normalisation that they were trained with; a grey image has that of the mean colour. Raises
        :class:`JobError` where there are none, or they are not in torchvision's cache and may not be downloaded.
        """
        kinds = zoo().get_model_weights(self.name)
        if not len(kinds):
            raise JobError(
                f"init.weights: torchvision has no pretrained weights of {self.name}; choose another network"
            )
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
        scale = (preset.mean, preset.std) if self.name not in OWN_SCALE else ([0.5], [0.5])
        ours = {f"net.{key}": one for key, one in tensors.items() if not key.lower().startswith("aux")}
        return ours | normalisation(image[0], *scale), file_sha256(file)

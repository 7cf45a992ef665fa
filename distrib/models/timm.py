"""The classifiers of timm, by name: the one door to ``timm``, an extra, which is imported on use."""

import difflib
import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, JsonValue, field_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distrib.errors import JobError
from distrib.files import file_sha256
from distrib.models.adapt import Resize, WithoutWeights, attempt, normalisation
from distrib.models.layers import ImageShape, check_image, normalise_by
from distrib.values import Value

OURS = {"num_classes", "in_chans", "img_size", "global_pool", "features_only"}
"""Arguments of timm that say what distrib says itself."""
WEIGHTS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Arguments of timm that load weights: ``init`` does, and writes down which."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""What the hub calls weights, the better first."""


def _timm() -> ModuleType:
    """``timm``, or :class:`JobError` where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise JobError(f"model.arch: timm cannot be imported ({error}); pip install 'distrib[timm]'") from None
    return timm


def timm_names() -> list[str]:
    """Of its classifiers, without tags. Raises :class:`JobError` where it is not installed."""
    return _timm().list_models()


class TimmNet(Value):
    """Any classifier of timm, untrained. It needs the extra distrib[timm]; what it registers is loaded without it."""

    arch: Literal["timm"] = "timm"
    name: str
    """The network's name, as ``timm.list_models()`` writes it, such as convnext_tiny; with a tag
    (convnext_tiny.fb_in1k) it also says which weights ``init.weights: pretrained`` means."""
    args: dict[str, JsonValue] = Field(default={})
    """More arguments of ``timm.create_model``, such as {drop_path_rate: 0.1}, or a width where the family has one."""
    resize: Annotated[int, Field(ge=1)] | None = None
    """Images are brought to this height and width inside the model (so the attack still moves the small image)."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            timm = _timm()
        except JobError:
            return name  # who trains it asks again; who reads about it need not have timm
        plain, _, tag = name.partition(".")
        if plain not in timm.list_models() or (tag and name not in timm.list_pretrained(plain)):
            names = timm.list_models() + timm.list_pretrained(f"{plain}.*")
            near = difflib.get_close_matches(name, names, n=5, cutoff=0)
            raise JobError(f"timm has no classifier {name!r}; the nearest names are {', '.join(near)}")
        return name

    @field_validator("args")
    @classmethod
    def _not_ours(cls, args: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if ours := sorted(OURS & args.keys()):
            raise ValueError(f"{ours[0]} follows from the data and model.resize; leave it out")
        if weights := sorted(WEIGHTS & args.keys()):
            raise ValueError(f"{weights[0]} loads weights; say it in init, which writes down which")
        return args

    @property
    def batch_norm(self) -> bool:
        """Whether the network has BatchNorm; False where timm is not installed, and nothing can be trained either."""
        try:
            _timm()
        except JobError:
            return False
        return _has_batch_norm(self.name, json.dumps(self.args))

    def build(self, image: ImageShape, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
        """``[B, *image]`` float32 in [0, 1] -> logits ``[B, num_classes]``; drawn from torch's global CPU seed.

        One forward is tried. JobError when timm refuses the arguments, or the images are too small for this network.
        """
        check_image(self.arch, image, num_classes)
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalise=normalise_by(image[0], mean, std))
        if self.resize is not None:
            layers["resize"] = Resize(self.resize)
        layers["net"] = self._made(image, num_classes)
        return attempt(self.name, nn.Sequential(layers), image, num_classes, self.resize)

    def pretrained(self, image: ImageShape, download: bool) -> tuple[dict[str, Tensor], str]:
        """(timm's weights of this network, under our names and for such images; the sha256 of their file).

        They come with the normalisation that they were trained with, and with the classes that they know. Raises
        :class:`JobError` where there are none, or they are not in the hub's cache and may not be downloaded.
        """
        known = _config(self.name)
        if not known.get("hf_hub_id"):
            raise JobError(f"init.weights: timm keeps no weights of {self.name} on its hub; choose another network")
        file = _fetched(known, download)
        overlay = {"file": str(file), "custom_load": False}
        with torch.random.fork_rng(devices=[]):
            net = self._made(image, known["num_classes"], pretrained=True, pretrained_cfg_overlay=overlay)
        ours = {f"net.{key}": tensor for key, tensor in net.state_dict().items()}
        return ours | normalisation(image[0], known["mean"], known["std"]), file_sha256(file)

    def written(self, image: ImageShape, num_classes: int) -> str:
        """The call that makes the network, without what comes before it."""
        return f"timm.create_model({self.name!r}, **{self._arguments(image, num_classes)!r})"

    def _arguments(self, image: ImageShape, num_classes: int) -> dict[str, Any]:
        # What has a table of positions wants to know the size of an image; the others do not know the word.
        sized = {"img_size": self._size(image)} if _config(self.name).get("fixed_input_size") else {}
        return {"num_classes": num_classes, "in_chans": image[0], **sized, **self.args}

    def _size(self, image: ImageShape) -> tuple[int, int]:
        return (self.resize, self.resize) if self.resize else image[1:]

    def _made(self, image: ImageShape, num_classes: int, **more: Any) -> nn.Module:
        try:
            return _timm().create_model(self.name, **self._arguments(image, num_classes), **more)
        except JobError:
            raise
        except Exception as error:  # of as many kinds as timm has networks
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            size = self._size(image)
            raise JobError(
                f"model: timm cannot build {self.name} for images of {size[0]}x{size[1]} pixels ({reason}); "
                "change args, or set resize to 224"
            ) from error


def _config(name: str) -> dict[str, Any]:
    """What timm knows of the published weights of ``name``: their size, normalisation and address."""
    _timm()
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(name)
    return found.to_dict() if found is not None else {}


def _fetched(known: dict[str, Any], download: bool) -> Path:
    """The file of the weights that ``known`` describes, in the hub's cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RemoteEntryNotFoundError

    place, why = known["hf_hub_id"], ""
    for name in (known["hf_hub_filename"],) if known.get("hf_hub_filename") else FILES:
        try:
            return Path(hf_hub_download(place, name, local_files_only=not download))
        except (EntryNotFoundError, OSError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            if download and not isinstance(error, RemoteEntryNotFoundError):
                break  # no network: the other name would wait as long for it
    if download:
        raise JobError(f"init.weights: {place} cannot be had from the hub ({why}); fetch it where there is a network")
    raise JobError(f"init.weights: {place} is not in the hub's cache (HF_HOME); set init.download: true to fetch it")


@cache
def _has_batch_norm(name: str, args: str) -> bool:
    with torch.random.fork_rng(devices=[]), WithoutWeights():
        net = _timm().create_model(name, **json.loads(args))
    return any(isinstance(module, _BatchNorm) for module in net.modules())

"""The network and the weights that a training begins with: tried at once; the weights are kept with its run."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from distrib.checkpoints import Checkpoint
from distrib.commands.models import stored_at
from distrib.commands.opened import OpenRun
from distrib.commands.tensors import read_tensors
from distrib.config.job import Training, with_data
from distrib.data.beton import open_split
from distrib.data.loader import open_reader, shard
from distrib.errors import CheckpointError, JobError
from distrib.evaluation.models import StoredModel
from distrib.files import file_sha256
from distrib.models import CustomNet, TimmNet, TorchvisionNet
from distrib.models.contract import check_contract
from distrib.models.layers import ImageShape
from distrib.models.start import TENSORS, Init, begin_from
from distrib.models.weights import save_tensors
from distrib.registry import versions
from distrib.tracking.folder import nothing_done, read_start, start_file, write_start
from distrib.world import World

PRETRAINED = "pretrained"


def begun_with(run: OpenRun[Any]) -> Path | None:
    """The file of the weights that the run's training begins with, in its folder; None: random ones.

    Raises :class:`InputError` where they cannot be found, do not fit, or are no longer those that the run began with.
    """
    with with_data(run.job) as part:
        if part.init is None:
            return None
        file, begun = start_file(run.folder), None if nothing_done(run.folder) else read_start(run.folder)
        if begun is not None and file.exists():
            return file
        tensors, sha256 = _found(run, part, part.init)
        if begun is not None and begun["sha256"] != sha256:
            raise JobError(
                f"init.weights: {part.init.weights} holds other weights than those that the run in {run.folder} began "
                "with; put those back, or choose another name (--set name=...)"
            )
        begin_from(_network(run, part), tensors, part.init)
        save_tensors(tensors, file)
        write_start(run.folder, {"weights": part.init.weights, "sha256": sha256})
        return file


def must_keep_its_promises(run: OpenRun[Any]) -> None:
    """Raises :class:`JobError` where a network from elsewhere cannot be trained, attacked or registered."""
    with with_data(run.job) as part:
        if isinstance(part.model, CustomNet | TimmNet):
            split = open_split(run.data, "validation", "training")
            few = np.arange(min(3, split.card.count))
            (batch,) = shard(open_reader(split, part.loader), few, len(few), World())
            check_contract(_network(run, part), batch.x, len(split.card.classes))


def _network(run: OpenRun[Any], part: Training) -> torch.nn.Module:
    card = open_split(run.data, "train", "training").card
    with torch.random.fork_rng():
        return part.model.build(_image(run), len(card.classes), card.mean, card.std)


def _image(run: OpenRun[Any]) -> ImageShape:
    height, width, channels = open_split(run.data, "train", "training").card.image
    return channels, height, width


def _found(run: OpenRun[Any], part: Training, init: Init) -> tuple[dict[str, Tensor], str]:
    """(the tensors of ``init.weights``, the sha256 of what holds them)."""
    if init.weights == PRETRAINED:
        if not isinstance(part.model, TorchvisionNet | TimmNet):
            raise JobError(
                "init.weights: pretrained is for networks of torchvision and timm; name a file or a registered model"
            )
        return part.model.pretrained(_image(run), init.download)
    if init.weights.startswith("models:"):
        model, _ = versions.fetch_subject(init.weights, run.uri, False, run.display.say)
        return _of_model(model)
    path = Path(init.weights)
    if path.is_file() and path.suffix in TENSORS:
        return read_tensors(path, "init.weights"), file_sha256(path)
    with _named():
        stored = stored_at(init.weights, trusted=False)
    return (load_file(stored.judged), stored.weights_sha256) if isinstance(stored, Checkpoint) else _of_model(stored)


def _of_model(model: StoredModel) -> tuple[dict[str, Tensor], str]:
    tensors = dict(model.load(torch.device("cpu")).state_dict())
    return tensors, hashlib.sha256(model.content()).hexdigest()


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"init.weights: {error}") from None

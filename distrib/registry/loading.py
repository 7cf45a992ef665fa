"""A stored model as a torch module in this process, for whoever goes on with it in Python."""

import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from distrib.errors import CheckpointError, JobError
from distrib.evaluation.models import Weights, in_folder
from distrib.models import CustomNet
from distrib.registry.versions import fetched_version, network_of, subject_in
from distrib.tracking import client


def load(address: str, tracking_uri: str | None = None) -> nn.Module:
    """The model of ``address``, on the CPU, in evaluation mode: float32 ``[B, C, H, W]`` in [0, 1] to logits.

    It is ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` (in MLflow at ``tracking_uri``, else MLFLOW_TRACKING_URI,
    else mlflow.db here), a folder of ``distrib pull``, or a ``.pt2`` file. A network of distrib, timm or torchvision
    comes as an ordinary module with its weights, to be trained further; any other, or one whose library is not
    installed, as the program that was registered, which can only be asked and attacked. No code that lies in the model
    is run. Raises :class:`RegistryError`, :class:`CheckpointError`.
    """
    if address.startswith("models:"):
        found = fetched_version(address, client.address(tracking_uri), Path(tempfile.gettempdir()))
    else:
        found = nullcontext((Path(address), None))
    with found as (folder, _):
        if not folder.exists():
            raise CheckpointError(f"{folder}: there is no such model; name models:/NAME/VERSION, a folder, a .pt2 file")
        if address.startswith("models:"):
            kept, stored = folder / "model" / "extra_files", subject_in(address, folder, trusted=False)
        elif (folder / "state.json").exists():
            raise CheckpointError(f"{folder}: a checkpoint of a run; name the model that the run registered")
        else:
            kept, stored = folder, in_folder(folder, trusted=False)
        return _ordinary(kept) or stored.load(torch.device("cpu"))


def _ordinary(folder: Path) -> nn.Module | None:
    """The network that the job in ``folder`` names, with the weights beside it; None where it cannot be built here."""
    try:
        model, (channels, height, width), num_classes = network_of(folder)
        if isinstance(model, CustomNet):
            return None  # it would run code that came with the model
        weights = Weights(
            model.model_dump(mode="json"), (height, width, channels), num_classes, folder / "weights.safetensors"
        )
        return weights.load(torch.device("cpu"))
    except (OSError, KeyError, ValueError, JobError, CheckpointError):
        return None

"""Storing a model in the registry, as a new version with what is claimed of it.

A version holds an exported program (``torch.export``: no distrib needed to load it), the weights, the resolved job and
the robustness card. Its tags say how robust it is; aliases point at the newest version, ``latest-robust``, and at the
best one, ``champion`` (:mod:`distrib.registry.champion`).
"""

import io
import json
import shutil
import tempfile
import warnings
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from distrib.errors import RunError
from distrib.evaluation.card import Card
from distrib.evaluation.made import num_parameters
from distrib.evaluation.models import Weights
from distrib.registry.champion import promote
from distrib.registry.listing import find
from distrib.tracking import limits
from distrib.tracking.artifacts import STORED, listing
from distrib.tracking.client import connect
from distrib.tracking.tracker import Tracker

LATEST = "latest-robust"


@dataclass(frozen=True)
class Registered:
    """A version that is in the registry."""

    name: str
    version: str
    champion: str
    """What became of the alias ``champion``, in words."""

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Entry:
    """What is registered: everything that a version keeps beside its program."""

    subject: Weights
    card: Card
    files: dict[str, bytes]
    """What lies beside the program, by name: the card's files, some test images."""
    batch: np.ndarray
    """A few real images, float32 ``[B, C, H, W]``: the input example."""


def register(entry: Entry, name: str, tracker: Tracker) -> Registered:
    """Makes ``entry`` a new version of ``name`` and moves the aliases; a version that this run made is found again."""
    registry = connect(tracker.uri)
    number = _known(entry, name, tracker) or _store(entry, name, tracker)
    tags = registry.get_model_version(name, number).tags
    if "champion_decision" in tags:
        return Registered(name, number, tags["champion_decision"])
    registry.set_registered_model_alias(name, LATEST, number)
    return Registered(name, number, promote(name, number, entry.card, tracker))


def _known(entry: Entry, name: str, tracker: Tracker) -> str | None:
    """The version that this run registered before it was interrupted."""
    for found in connect(tracker.uri).search_model_versions(f"name = '{name}'"):
        if found.run_id == tracker.run_id and found.tags.get("weights_sha256") == entry.card.weights_sha256:
            return str(found.version)
    return None


def warm() -> None:
    """Imports what :func:`register` will need, which takes seconds: for a thread, while other processes work."""
    with suppress(ImportError):  # which register itself tells of
        for module in ("mlflow.pytorch", "torch.export._trace"):
            import_module(module)


def attach(address: str, card: Card, tracker: Tracker) -> str:
    """Gives a registered version the card of a later evaluation; what became of ``champion``, in words."""
    _, found = find(address, tracker.uri)
    return promote(found.name, str(found.version), card, tracker)


def tags_of(address: str, uri: str) -> dict[str, str]:
    """The tags of a registered version. Raises :class:`RegistryError` where there is none."""
    return find(address, uri)[1].tags


def _store(entry: Entry, name: str, tracker: Tracker) -> str:
    """Logs and registers the model; the version's number."""
    import mlflow.artifacts
    from mlflow.models import ModelSignature
    from mlflow.pytorch import log_model
    from mlflow.types import Schema, TensorSpec

    module = entry.subject.load(torch.device("cpu"))
    height, width, channels = entry.subject.image
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), (-1, channels, height, width))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, entry.subject.num_classes))]),
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about its own internals
        extra = Path(folder) / "extra_files"
        extra.mkdir()
        shutil.copy(entry.subject.path, extra / "weights.safetensors")
        for file, content in entry.files.items():
            (extra / file).write_bytes(content)
        (extra / "job.json").write_text(json.dumps(entry.card.job, indent=2))
        # MLflow prints what it did, and how to open it; distrib says that itself
        with redirect_stderr(io.StringIO()), mlflow.start_run(run_id=tracker.run_id, log_system_metrics=False):
            info = log_model(
                module,
                name="model",
                signature=signature,
                input_example=entry.batch,
                serialization_format="pt2",
                extra_files=[str(path) for path in sorted(extra.iterdir())],
                pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "mlflow", "numpy")],
            )
        wanted = listing(Path(folder))
    with tempfile.TemporaryDirectory() as room:  # before it is registered: what differs gets no version
        mlflow.artifacts.download_artifacts(info.model_uri, dst_path=room)
        stored = listing(Path(room))
        lost = [path for path in wanted if stored.get(path) != wanted[path]]
        if lost:
            raise RunError(f"{info.artifact_path}: does not keep what was stored there ({', '.join(lost)}); not usable")
        _check(room, module, entry.batch)
    with redirect_stderr(io.StringIO()):
        mine = {
            "weights_sha256": entry.card.weights_sha256, STORED: json.dumps(stored), "data": entry.card.data,
            "arch": entry.subject.title, "parameters": str(num_parameters(module)),
            **({"training": entry.card.made.training} if entry.card.made else {}),
        }  # fmt: skip
        return str(mlflow.register_model(info.model_uri, name, tags=limits.version_tags(mine)).version)


def _check(uri: str, module: torch.nn.Module, batch: np.ndarray) -> None:
    """Raises :class:`RunError` unless the stored model gives what the evaluated one gave, for any batch size."""
    stored = load_version(uri)
    x = torch.from_numpy(batch)
    with torch.no_grad():
        for size in (1, len(x), 3 * len(x)):
            images = x.repeat(3, 1, 1, 1)[:size]
            if not torch.allclose(stored(images), module(images), rtol=1e-4, atol=1e-4):
                raise RunError(f"{uri}: the stored model's logits differ from the evaluated model's; not usable")


def load_version(uri: str) -> torch.nn.Module:
    """The stored model, as anyone would load it."""
    from mlflow.pytorch import load_model

    with tempfile.TemporaryDirectory() as room, warnings.catch_warnings():  # MLflow never removes what it fetched
        warnings.simplefilter("ignore")
        return load_model(uri, dst_path=room, device="cpu")

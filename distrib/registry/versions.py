"""The registry: robust models as versions that anyone can pull, with what is claimed of them.

A version holds an exported program (``torch.export``: no distrib needed to load it), the weights, the resolved job and
the robustness card. Its tags say how robust it is; aliases point at the newest
and at the best: ``latest-robust``, and ``champion`` (see :mod:`distrib.registry.champion`).
"""

import errno
import io
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distrib.config.job import AnyRun
from distrib.errors import CheckpointError, InputError, RegistryError, RunError
from distrib.evaluation.card import Card
from distrib.evaluation.models import Exported, Pickled, Weights, in_folder
from distrib.registry.cards import fetch
from distrib.registry.champion import promote
from distrib.tracking import limits
from distrib.tracking.artifacts import STORED, lacking, listing
from distrib.tracking.client import Tracker, client, or_none
from distrib.tracking.folder import kept_pins, with_versions
from distrib.values import MODEL_ADDRESS

LATEST = "latest-robust"
DATA = (".json", ".md", ".html", ".csv", ".safetensors")
"""Of the files that are pulled with a model."""
EXAMPLE = {"example.py": "pulled_example.py", "program.py": "program.py"}
"""The scripts that are written beside a pulled model, and distrib's own files of them."""


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
    """The card's files, by name."""
    batch: np.ndarray
    """A few real images, float32 ``[B, C, H, W]``: the input example."""


def register(entry: Entry, name: str, tracker: Tracker) -> Registered:
    """Makes ``entry`` a new version of ``name`` and moves the aliases; a version that this run made is found again."""
    number = _known(entry, name, tracker) or _store(entry, name, tracker)
    tags = tracker.client.get_model_version(name, number).tags
    if "champion_decision" in tags:
        return Registered(name, number, tags["champion_decision"])
    tracker.client.set_registered_model_alias(name, LATEST, number)
    return Registered(name, number, promote(name, number, entry.card, tracker))


def _known(entry: Entry, name: str, tracker: Tracker) -> str | None:
    """The version that this run registered before it was interrupted."""
    for found in tracker.client.search_model_versions(f"name = '{name}'"):
        if found.run_id == tracker.run_id and found.tags.get("weights_sha256") == entry.card.weights_sha256:
            return str(found.version)
    return None


def pinned(job: AnyRun, uri: str, say: Callable[[str], None]) -> tuple[AnyRun, dict[str, str]]:
    """(the job with versions in the place of aliases, those versions by alias): an alias may move meanwhile.

    A run that was interrupted goes on with the versions that it began with.
    """
    pins = dict(kept_pins(job, uri))

    def pin(address: str) -> str:
        if address not in pins:
            _, found = find(address, uri)
            pins[address] = f"models:/{found.name}/{found.version}"
        say(f"{address}: {pins[address]}")
        return pins[address]

    return with_versions(job, pin), pins


def attach(address: str, card: Card, tracker: Tracker) -> str:
    """Gives a registered version the card of a later evaluation; what became of ``champion``, in words."""
    _, found = find(address, tracker.uri)
    return promote(found.name, str(found.version), card, tracker)


def tag(address: str, tags: dict[str, str], uri: str) -> None:
    """Sets tags of a registered version. Raises :class:`RegistryError` where there is none."""
    registry, found = find(address, uri)
    limits.tag_version(registry, found.name, str(found.version), tags)


def fetch_card(address: str, uri: str, tier: str | None) -> tuple[dict, str]:
    """(a version's card, its examples as CSV); ``tier`` None: of its best evaluation. Raises :class:`RegistryError`."""
    _, found = find(address, uri)
    run = found.tags.get("card_run" if tier is None else f"card.{tier}")
    if run is None:
        known = ", ".join(key.removeprefix("card.") for key in found.tags if key.startswith("card.")) or "none"
        raise RegistryError(
            f"{address}: has no robustness card{f' of tier {tier}' if tier else ''} (its tiers: {known}); judge it "
            "(kind: evaluate)"
        )
    try:
        return fetch(run)
    except RegistryError as error:
        raise RegistryError(f"{address}: {error}") from None


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
        mine = {"weights_sha256": entry.card.weights_sha256, STORED: json.dumps(stored)}
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


def find(address: str, uri: str):
    """(client, model version) of ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``. Raises :class:`RegistryError`."""
    parts = MODEL_ADDRESS.match(address)
    if parts is None:
        raise RegistryError(
            f"{address}: write it as models:/NAME/VERSION (a number of at most 9 digits) or models:/NAME@ALIAS"
        )
    registry, name = client(uri), parts["name"]
    number, alias = parts["version"], parts["alias"]
    found = or_none(
        lambda: registry.get_model_version(name, number) if number else registry.get_model_version_by_alias(name, alias)
    )
    if found is None:
        names = sorted(model.name for model in _models(registry))
        there = f"registered there: {', '.join(names)}" if names else "nothing is registered there"
        raise RegistryError(f"{address}: not in {uri}; {there} (see distrib models)")
    return registry, found


def _models(registry) -> Iterator[Any]:
    """Every registered model; the server gives a hundred at a time."""
    page = registry.search_registered_models()
    yield from page
    while page.token:
        page = registry.search_registered_models(page_token=page.token)
        yield from page


def versions(uri: str) -> list[dict]:
    """Every version of every model with its robustness, newest first within a model."""
    registry = client(uri)
    rows = []
    for model in _models(registry):
        aliases: dict[str, list[str]] = {}
        for alias, number in model.aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        found = registry.search_model_versions(f"name = '{model.name}'")
        for one in sorted(found, key=lambda one: -int(one.version)):
            rows.append(
                {
                    "model": f"models:/{model.name}/{one.version}",
                    "aliases": sorted(aliases.get(str(one.version), [])),
                    "clean_accuracy": _number(one.tags.get("clean_accuracy")),
                    "robust_accuracy": _number(one.tags.get("robust_accuracy")),
                    "norm": one.tags.get("norm"),
                    "epsilon": _number(one.tags.get("epsilon")),
                    "attacks": (one.tags.get("attacks") or "").split(",") if one.tags.get("attacks") else [],
                    "n": int(one.tags["n"]) if "n" in one.tags else None,
                    "flags": one.tags.get("flags"),
                    "run_id": one.run_id,
                }
            )
    return rows


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def pull(address: str, folder: Path, uri: str) -> dict:
    """Brings a version to ``folder`` (new or empty): the model, weights, card, job, example. Nothing half-written.

    Returns the card. Raises :class:`RegistryError`, :class:`InputError`. No code comes from the registry: a program
    that could run some is refused, and the scripts are distrib's own. A pickled module comes without an example.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; name a new or empty folder")
    import mlflow.artifacts

    with _fetched(address, uri, folder.absolute().parent) as (room, found):
        aside = room / "whole"
        aside.mkdir()
        exported = any((room / "model").rglob("*.pt2"))
        if exported:
            try:
                _subject(address, room, trusted=False)
            except RegistryError as error:
                reason = str(error).replace(", or set trust_pickle: true if you trust its source", "")
                raise RegistryError(
                    f"{reason}; if you trust its source, mlflow artifacts download -u {address} -d DIR brings it"
                ) from None
        (room / "model").rename(aside / "model")
        _copy(aside / "model" / "extra_files", aside)
        later = found.tags.get("card_run", found.run_id)
        if later != found.run_id:  # it was judged again since it was registered
            try:
                fetch(later)
            except RegistryError as error:
                raise RegistryError(f"{address}: {error}") from None
            mlflow.artifacts.download_artifacts(run_id=later, artifact_path="card", dst_path=str(room))
            _copy(room / "card", aside)
        if exported and (aside / "card.json").exists():
            for name, text in EXAMPLE.items():
                (aside / name).write_text(files("distrib.evaluation").joinpath(text).read_text())
        if folder.exists():
            folder.rmdir()
        os.rename(aside, folder)
    card = folder / "card.json"
    return json.loads(card.read_text()) if card.exists() else {}


def _subject(address: str, room: Path, trusted: bool) -> Exported | Pickled:
    try:
        return in_folder(room / "model", trusted)
    except CheckpointError as error:
        raise RegistryError(f"{address}: {str(error).replace(str(room) + '/', '')}") from None


def _copy(source: Path, target: Path) -> None:
    """Copies the files of a version that are not code: a script, or a module of torch's name, would be run."""
    for file in sorted(source.glob("*")):
        if file.is_file() and file.suffix in DATA:
            shutil.copy(file, target / file.name)


def fetch_subject(address: str, uri: str, trusted: bool, say: Callable[[str], None]) -> tuple[Exported | Pickled, dict]:
    """(the model of a version, its card or {}). Raises :class:`RegistryError`, :class:`CheckpointError`."""
    say(f"model: fetching {address}")
    with _fetched(address, uri, Path(tempfile.gettempdir())) as (room, _):
        card = room / "model" / "extra_files" / "card.json"
        return _subject(address, room, trusted), json.loads(card.read_text()) if card.exists() else {}


@contextmanager
def _fetched(address: str, uri: str, near: Path) -> Iterator[tuple[Path, Any]]:
    """A temporary folder beside ``near``'s other files, with the version's files in ``model``; removed afterwards."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    registry, found = find(address, uri)
    try:
        near.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=".distrib-pull-", dir=near))
    except OSError as error:
        raise InputError(f"{near}: cannot be written to ({error.strerror}); choose another folder") from None
    try:
        target = room / "model"
        target.mkdir()
        place = registry.get_model_version_download_uri(found.name, str(found.version))
        reason = ""
        try:
            mlflow.artifacts.download_artifacts(f"models:/{found.name}/{found.version}", dst_path=str(target))
        except (MlflowException, OSError) as error:  # OSError: of a folder that is gone, or what a server's HTTP raises
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(f"{near}: is full; make room there, or choose another folder") from None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        lost = lacking(target, found.tags)
        if reason or lost:
            raise RegistryError(
                f"{address}: its files cannot be had whole from {place} ({reason or '; '.join(lost)}); bring them back "
                "there, or register the model again"
            )
        yield room, found
    except MlflowException as error:
        raise RegistryError(f"{address}: its files cannot be fetched ({str(error).splitlines()[0]})") from None
    finally:
        shutil.rmtree(room, ignore_errors=True)

"""The registry's versions: finding one, listing all, pinning an alias, and bringing one here whole."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distrib.config.job import AnyRun
from distrib.errors import CheckpointError, InputError, JobError, RegistryError
from distrib.evaluation.models import MODEL_TYPE, Exported, Pickled, in_folder
from distrib.models import Model
from distrib.models.definition import definition
from distrib.models.layers import ImageShape
from distrib.registry.cards import fetch
from distrib.registry.champion import standing_flags
from distrib.registry.listing import find
from distrib.registry.pulled import ORIGIN, write_note
from distrib.tracking import limits
from distrib.tracking.artifacts import lacking
from distrib.tracking.client import connect
from distrib.tracking.folder import kept_pins, with_versions

DATA = (".json", ".md", ".html", ".csv", ".safetensors")
"""Of the files that are pulled with a model."""
NEEDED = ("card.json", "job.json", "weights.safetensors")
"""What ``model.py`` is made of; the example needs test images, too."""
IMPORTED = (".py", ".pyc", ".pyd", ".so")
"""Of the files that Python would take for the module ``model``, or a part of it."""
EXAMPLE = {"example.py": "pulled_example.py", "program.py": "program.py"}
"""The scripts that are written beside a pulled model, and distrib's own files of them."""


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


def tag(address: str, tags: dict[str, str], uri: str) -> None:
    """Sets tags of a registered version. Raises :class:`RegistryError` where there is none."""
    registry, found = find(address, uri)
    limits.tag_version(registry, found.name, str(found.version), tags)


def fetch_card(address: str, uri: str, tier: str | None) -> tuple[dict, str]:
    """(a version's card, its examples as CSV); ``tier`` None: of its best evaluation. Raises :class:`RegistryError`."""
    return _of_card(address, uri, tier, "examples.csv")


def fetch_page(address: str, uri: str, tier: str | None) -> tuple[dict, str]:
    """(a version's card, the same as Markdown); as :func:`fetch_card`."""
    return _of_card(address, uri, tier, "card.md")


def _of_card(address: str, uri: str, tier: str | None, file: str) -> tuple[dict, str]:
    _, found = find(address, uri)
    run = found.tags.get("card_run" if tier is None else f"card.{tier}")
    if run is None:
        known = ", ".join(key.removeprefix("card.") for key in found.tags if key.startswith("card.")) or "none"
        raise RegistryError(
            f"{address}: has no robustness card{f' of tier {tier}' if tier else ''} (its tiers: {known}); judge it "
            "(kind: evaluate)"
        )
    try:
        return fetch(run, file)
    except RegistryError as error:
        raise RegistryError(f"{address}: {error}") from None


def pull(address: str, folder: Path, uri: str, say: Callable[[str], None] = print) -> dict:
    """Brings a version to ``folder`` (new or empty): the model, weights, card, job, example. Nothing half-written.

    Returns the card. Raises :class:`RegistryError`, :class:`InputError`. No code comes from the registry: a program
    that could run some is refused, the scripts are distrib's own, and ``model.py`` is written anew from what the job
    says. A pickled module comes without an example.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; name a new or empty folder")
    import mlflow.artifacts

    with fetched_version(address, uri, folder.absolute().parent) as (room, found):
        aside = room / "whole"
        aside.mkdir()
        exported = any((room / "model").rglob("*.pt2"))
        if exported:
            try:
                subject_in(address, room, trusted=False)
            except RegistryError as error:
                reason = str(error).replace(", or set trust_pickle: true if you trust its source", "")
                raise RegistryError(
                    f"{reason}; if you trust its source, mlflow artifacts download -u {address} -d DIR brings it"
                ) from None
        for path in [*(room / "model").rglob("*")]:
            if path.is_file() and path.suffix in IMPORTED:
                path.unlink()
        (room / "model").rename(aside / "model")
        _copy(aside / "model" / "extra_files", aside)
        later = found.tags.get("card_run", found.run_id)
        # It was judged again since it was registered, or before it was pushed to this registry
        if later != found.run_id or ORIGIN in found.tags:
            try:
                fetch(later, "card.json")  # one of before examples were kept has no others
            except RegistryError as error:
                raise RegistryError(f"{address}: {error}") from None
            mlflow.artifacts.download_artifacts(run_id=later, artifact_path="card", dst_path=str(room))
            _copy(room / "card", aside)
        if exported:
            _write_scripts(aside, say)
        else:
            say("no example.py: it is a pickled module, which runs whatever code is in it when it is loaded")
        write_note(aside, found, uri, standing_flags(connect(uri), found))
        if folder.exists():
            folder.rmdir()
        os.rename(aside, folder)
    card = folder / "card.json"
    return json.loads(card.read_text()) if card.exists() else {}


def network_of(folder: Path) -> tuple[Model, ImageShape, int]:
    """(the network, the shape C, H, W of its images, the number of classes) of what :func:`pull` brought.

    Raises OSError, KeyError or ValueError where the files do not say it.
    """
    card, job = (json.loads((folder / name).read_text()) for name in ("card.json", "job.json"))
    channels, height, width = (int(card["image"][side]) for side in ("channels", "height", "width"))
    return MODEL_TYPE.validate_python(job["model"], strict=False), (channels, height, width), len(card["classes"])


def _write_scripts(folder: Path, say: Callable[[str], None]) -> None:
    """Writes ``model.py`` and the example, or says what an older version was registered without."""
    lacking_parts = [name for name in NEEDED if not (folder / name).exists()]
    if lacking_parts:
        say(f"no model.py and no example.py: this version was registered without {', '.join(lacking_parts)}")
        return
    _write_definition(folder, say)
    if not (folder / "test_images.safetensors").exists():
        say("no example.py: this version was registered without test images")
        return
    for name, text in EXAMPLE.items():
        (folder / name).write_text(files("distrib.evaluation").joinpath(text).read_text())


def _write_definition(folder: Path, say: Callable[[str], None]) -> None:
    """Writes ``model.py``, or says why not."""
    try:
        model, image, num_classes = network_of(folder)
        tensors = load_file(folder / "weights.safetensors")
        ones = torch.ones(image[0])  # of a network that does not scale
        mean, std = (tensors.get(f"normalise.{part}", ones).flatten().tolist() for part in ("mean", "std"))
        text = definition(model, image, num_classes, mean, std)
    except (KeyError, ValueError, JobError) as error:
        say(f"no model.py: {error}")
    else:
        (folder / "model.py").write_text(text)


def subject_in(address: str, room: Path, trusted: bool) -> Exported | Pickled:
    """The model that :func:`fetched_version` brought to ``room``. Raises :class:`RegistryError`."""
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
    with fetched_version(address, uri, Path(tempfile.gettempdir())) as (room, _):
        card = room / "model" / "extra_files" / "card.json"
        return subject_in(address, room, trusted), json.loads(card.read_text()) if card.exists() else {}


@contextmanager
def fetched_version(address: str, uri: str, near: Path) -> Iterator[tuple[Path, Any]]:
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

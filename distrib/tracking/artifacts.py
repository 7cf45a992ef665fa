"""Files that MLflow keeps: whether a server takes them, and whether what was stored is whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from distrib.errors import RegistryError
from distrib.files import file_sha256

STORED = "files_sha256"
"""The tag of a version: the sha256 of each file that makes the model, by its path."""
PARTS = ("data", "extra_files")
"""Folders of a stored model with those files; the others (environments, examples of requests) may be edited later."""


def must_serve(client: Any, uri: str, experiment: str) -> None:
    """Raises :class:`RegistryError` where a server has its clients write files to a path on their own disks."""
    if urlparse(uri).scheme not in ("http", "https"):
        return
    found = client.get_experiment_by_name(experiment)
    found = found or next((one for one in client.search_experiments() if one.experiment_id == "0"), None)
    if found is not None and urlparse(found.artifact_location or "").scheme in ("", "file"):
        raise RegistryError(
            f"tracking.uri: {uri} does not serve artifacts: a run's files would go to {found.artifact_location} on "
            "this machine's own disk; start the server with --serve-artifacts and --artifacts-destination, and name "
            f"as tracking.experiment (now {experiment}) one made since: mlflow experiments create -n NAME"
        )


def listing(folder: Path) -> dict[str, str]:
    """The sha256 of every file that makes the model stored in ``folder``, by its path in it."""
    paths = sorted(path for part in PARTS for path in (folder / part).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def lacking(folder: Path, tags: Mapping[str, str]) -> list[str]:
    """What is not in ``folder`` as the version with these ``tags`` was stored, in words; nothing where it is whole."""
    if STORED in tags:
        wanted, found = json.loads(tags[STORED]), listing(folder)
        if len(lost := [path for path in wanted if path not in found]) == len(wanted):
            return ["nothing of it is there"]
        changed = [path for path in wanted if path in found and found[path] != wanted[path]]
        words = [f"{path} is missing" for path in lost] + [f"{path} is not what was stored" for path in changed]
        return words if (folder / "MLmodel").is_file() else [*words, "MLmodel is missing"]
    if not (folder / "MLmodel").is_file():
        return ["MLmodel is missing"]
    if "weights_sha256" not in tags:
        return []  # another program's
    weights = folder / "extra_files" / "weights.safetensors"
    words = [] if any((folder / "data").rglob("*.pt2")) else ["data/model.pt2 is missing"]
    if not weights.is_file():
        return [*words, "extra_files/weights.safetensors is missing"]
    same = file_sha256(weights) == tags["weights_sha256"]
    return words if same else [*words, "extra_files/weights.safetensors is not what was stored"]

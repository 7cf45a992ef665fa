"""Bringing a pulled folder to a registry: the same files, as a new version that says where it came from.

No alias moves. ``champion`` is decided on an evaluation that this registry has on record: a folder lies on somebody's
disk, and the version's other cards stayed where it was. ``distrib evaluate NAME/VERSION`` decides, by the code that
decides on every version (:mod:`distrib.registry.champion`); blocking flags that were known come along.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from distrib import __version__
from distrib.config.job import Name
from distrib.errors import DistribError, RegistryError, RunError, TrackingError
from distrib.registry.pulled import ORIGIN, Pulled, whole
from distrib.tracking import limits, provenance
from distrib.tracking.artifacts import STORED, lacking, listing
from distrib.tracking.client import connect, in_words, or_none
from distrib.tracking.mlflow_run import MLflowRun

CARD = ("card.json", "card.md", "card.html", "examples.csv")
"""The files of the version's own card, which may be of a later evaluation than those that lie in the model."""
UNDECIDED = "not decided: it was judged elsewhere; an evaluation of it here decides"
LEFT = re.compile(rf"(card_run|card\..*|champion_decision|search_run|{ORIGIN})$")
"""Tags that speak of the registry that a version was in."""


@dataclass(frozen=True)
class Pushed:
    """A version that holds the folder's model."""

    address: str
    """models:/NAME/VERSION."""
    new: bool
    """It was made now; else it was there already."""
    champion: str
    """What of the alias ``champion``, in words."""


def push(folder: Path, name: str | None, uri: str, experiment: str) -> Pushed:
    """Registers what ``distrib pull`` brought to ``folder`` in the MLflow at ``uri``; ``name`` None: as it was called.

    Its files are kept with a new run of ``experiment``. A version of that name with the same weights is found instead.
    Raises :class:`InputError` where the folder is not whole, or MLflow cannot be reached or refuses, and
    :class:`RunError` where it fails on the way; a version is made last, or not at all.
    """
    found = whole(folder)
    name = found.name if name is None else name
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise RegistryError(
            f"NAME: {name!r} is no name for a registered model; give one of letters, digits, dots, dashes and "
            "underscores, at most 63, that begins with a letter or a digit"
        ) from None
    known = _known(connect(uri, experiment), name, found.tags["weights_sha256"])
    if known is not None:
        return Pushed(f"models:/{name}/{known.version}", False, known.tags.get("champion_decision", UNDECIDED))
    with _run(folder, found, uri, experiment) as run:
        number = _store(run, name, folder, found)
    return Pushed(f"models:/{name}/{number}", True, UNDECIDED)


def _known(registry: Any, name: str, sha256: str) -> Any:
    """The newest version of ``name`` with these weights; None where there is none."""
    with in_words():
        versions = registry.search_model_versions(f"name = '{name}'")
    same = [one for one in versions if one.tags.get("weights_sha256") == sha256]
    return max(same, key=lambda one: int(one.version), default=None)


@contextmanager
def _run(folder: Path, found: Pulled, uri: str, experiment: str) -> Iterator[MLflowRun]:
    """The MLflow run that keeps the files, FINISHED or FAILED at the end; errors say that no version was made."""
    tags = {"distrib.kind": "push", "distrib.version": __version__, ORIGIN: found.origin}
    tags |= provenance.starter("push") | {"mlflow.source.name": "distrib push"}
    run = None
    try:
        with in_words():
            run = MLflowRun(uri, experiment, f"push-{found.name}", None, tags)
            yield run
    except BaseException as error:
        if run is not None:
            with suppress(DistribError):
                run.close("FAILED" if isinstance(error, Exception) else "KILLED")
        if isinstance(error, TrackingError | RegistryError):
            raise type(error)(
                f"{folder}: nothing was registered in {uri}: {error}; when that is mended the same command tries again"
            ) from None
        raise
    with suppress(DistribError):  # the version is there
        run.close("FINISHED")


def _store(run: MLflowRun, name: str, folder: Path, found: Pulled) -> str:
    """Stores the files and registers them; the version's number."""
    import mlflow.artifacts
    from mlflow.entities import LoggedModelOutput

    registry, model = run.client, folder / "model"
    for file in CARD:
        if (folder / file).is_file():
            run.file(folder / file, "card")
    stored = registry.create_logged_model(run.experiment_id, "model", run.run_id)
    with tempfile.TemporaryDirectory() as room:
        upload = Path(room) / "upload"
        shutil.copytree(model, upload, ignore=shutil.ignore_patterns("registered_model_meta"))  # of where it was
        _rename(upload, run, stored)
        registry.log_model_artifacts(stored.model_id, str(upload))
        back = Path(room) / "back"
        back.mkdir()
        mlflow.artifacts.download_artifacts(f"models:/{stored.model_id}", dst_path=str(back))
        if lost := lacking(back, {STORED: json.dumps(listing(model))}):
            raise RunError(f"{run.uri}: does not keep what was stored there ({'; '.join(lost)}); nothing is registered")
    registry.finalize_logged_model(stored.model_id, "READY")
    registry.log_outputs(run.run_id, [LoggedModelOutput(stored.model_id, 0)])
    number = _register(run, name, stored.model_id, _described(run, found, listing(model)))
    told = found.description.replace(f"models:/{found.name}/{found.version}", f"models:/{name}/{number}")
    with suppress(DistribError), in_words():  # the version is there, and says where it came from
        limits.describe_version(registry, name, number, told.replace(found.tags["card_run"], run.run_id), "card.md")
    return number


def _rename(model: Path, run: MLflowRun, stored: Any) -> None:
    """Has the model's own description say where it lies now."""
    from mlflow.models import Model

    said = Model.load(str(model))
    said.run_id, said.model_id, said.model_uuid = run.run_id, stored.model_id, stored.model_id
    said.artifact_path = stored.artifact_location
    said.save(str(model / "MLmodel"))


def _described(run: MLflowRun, found: Pulled, files: dict[str, str]) -> dict[str, Any]:
    """Tags and description of the version: what they say of the model stays, what they say of its registry is new."""
    tags = {key: value for key, value in found.tags.items() if not LEFT.match(key)}
    tags |= {
        STORED: json.dumps(files), "card_run": run.run_id, f"card.{tags['tier']}": run.run_id,
        "champion_decision": UNDECIDED, ORIGIN: found.origin,
    }  # fmt: skip
    description = found.description.replace(found.tags["card_run"], run.run_id)  # it names where its whole is
    return {"tags": limits.version_tags(tags), "description": limits.shortened(description, limits.DESCRIPTION)}


def _register(run: MLflowRun, name: str, model_id: str, said: dict[str, Any]) -> str:
    """Makes the version, with all that is said of it, in one call; a model that was made for it goes where it fails."""
    registry = run.client
    first = or_none(lambda: registry.get_registered_model(name)) is None
    if first:
        registry.create_registered_model(name)
    try:
        made = registry.create_model_version(name, f"models:/{model_id}", run.run_id, model_id=model_id, **said)
    except BaseException:
        if first:
            with suppress(Exception):  # whatever the server raises, the first error is told
                if not registry.search_model_versions(f"name = '{name}'"):
                    registry.delete_registered_model(name)
        raise
    return str(made.version)

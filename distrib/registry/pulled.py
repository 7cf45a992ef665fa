"""What a pulled folder says of itself: the version that it was, what its registry said, the hash of every file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distrib.errors import InputError, RegistryError
from distrib.files import file_sha256
from distrib.tracking import database
from distrib.tracking.artifacts import lacking
from distrib.values import Value

NOTE = "version.json"
ORIGIN = "pushed_from"
"""The tag of a version that came from a pulled folder: the address that it had, and in which registry."""


class Pulled(Value):
    """A version, as it was when it was pulled: the fields are the keys of version.json."""

    name: str
    version: str
    registry: str
    """The address of the MLflow that it was pulled from."""
    description: str
    tags: dict[str, str]
    files: dict[str, str]
    """The sha256 of every other file of the folder, by its path in it."""

    @property
    def home(self) -> str:
        """Its address, and the registry's in full."""
        return f"models:/{self.name}/{self.version} in {self.registry}"

    @property
    def origin(self) -> str:
        """Its address, and the registry's: of a file its name alone, for folders of a machine are nobody else's."""
        file = database.file_of(self.registry)
        return f"models:/{self.name}/{self.version} in {self.registry if file is None else file.name}"


def write_note(folder: Path, found: Any, uri: str, blocking: Sequence[str]) -> None:
    """Writes ``version.json`` of a folder that is otherwise complete.

    ``found`` is what MLflow says of the version, ``blocking`` every blocking flag that stands, its own card's or not.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    note = Pulled(
        name=found.name, version=str(found.version), registry=uri, description=found.description or "",
        tags={**found.tags, **({"blocking": ",".join(blocking)} if blocking else {})},
        files={path.relative_to(folder).as_posix(): file_sha256(path) for path in paths},
    )  # fmt: skip
    (folder / NOTE).write_text(note.model_dump_json(indent=2) + "\n")


def whole(folder: Path) -> Pulled:
    """What a folder of ``distrib pull`` says of itself, once every file was found to be what was pulled.

    What was added to the folder since is no matter. Raises :class:`InputError` where a file is missing or changed,
    :class:`RegistryError` where the version has no card of distrib.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name one that distrib pull made")
    try:
        found = Pulled.model_validate_json((folder / NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder}: has no {NOTE}, in which distrib pull notes what it brought: it was made by another program, or "
            "by an older distrib; pull the version again, to a new folder"
        ) from None
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not what distrib pull writes"
        raise InputError(
            f"{folder / NOTE}: cannot be read ({reason}); pull the version again, to a new folder"
        ) from None
    if not {"weights_sha256", "card_run", "tier"} <= set(found.tags):
        raise RegistryError(
            f"{folder}: {found.home} was registered by another program, or without a robustness card; distrib pushes "
            "what a distrib training registered with its card"
        )
    wrong = _wrong(folder, found)
    if wrong:
        more = f", and {len(wrong) - 5} files more" if len(wrong) > 5 else ""
        raise InputError(f"{folder}: {'; '.join(wrong[:5])}{more}; pull {found.home} again, to a new folder")
    return found


def _wrong(folder: Path, found: Pulled) -> list[str]:
    """What is not as it was pulled, in words: by the folder's own note, and by what the registry kept of the model."""
    wrong = []
    for name, sha256 in found.files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif file_sha256(path) != sha256:
            wrong.append(f"{name} is not what was pulled")
    if wrong:
        return wrong
    weights = "model/extra_files/weights.safetensors"
    if not (folder / weights).is_file() or file_sha256(folder / weights) != found.tags["weights_sha256"]:
        return [f"{weights} is not what was registered"]
    return [f"model/{one}" for one in lacking(folder / "model", found.tags)]

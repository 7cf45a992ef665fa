"""A pulled folder knows what it was, and whether it still is."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from distrib.errors import InputError, RegistryError
from distrib.files import file_sha256
from distrib.registry.pulled import NOTE, whole, write_note

WEIGHTS = "model/extra_files/weights.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a pull leaves of a small version."""
    root = tmp_path / "pulled"
    for name in ("card.json", "model.py", "model/MLmodel", "model/data/model.pt2", WEIGHTS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    tags = {"weights_sha256": file_sha256(root / WEIGHTS), "card_run": "r", "tier": "standard"}
    write_note(root, SimpleNamespace(name="m", version=3, description=None, tags=tags), "sqlite:///its.db", [])
    return root


def edit(folder: Path, **fields: object) -> None:
    note = json.loads((folder / NOTE).read_text())
    (folder / NOTE).write_text(json.dumps(note | fields))


def test_a_whole_folder_says_where_it_came_from(folder: Path):
    found = whole(folder)
    assert found.home == "models:/m/3 in sqlite:///its.db" and found.origin == "models:/m/3 in its.db"
    assert NOTE not in found.files
    (folder / "notes.txt").write_text("of whoever has it: no matter")
    assert whole(folder) == found


@pytest.mark.parametrize("name", ["card.json", "model.py", "model/MLmodel", "model/data/model.pt2", WEIGHTS])
def test_a_file_that_is_changed_or_missing_is_named_with_the_cure(folder: Path, name: str):
    cure = "; pull models:/m/3 in sqlite:///its.db again, to a new folder"
    (folder / name).write_text("else")
    with pytest.raises(InputError) as caught:
        whole(folder)
    assert str(caught.value) == f"{folder}: {name} is not what was pulled{cure}"
    (folder / name).unlink()
    with pytest.raises(InputError) as caught:
        whole(folder)
    assert str(caught.value) == f"{folder}: {name} is missing{cure}"


def test_a_note_that_was_fitted_to_changed_files_does_not_help(folder: Path):
    """The registry's own hashes are among the tags."""
    files = json.loads((folder / NOTE).read_text())["files"]
    (folder / WEIGHTS).write_text("else")
    edit(folder, files=files | {WEIGHTS: file_sha256(folder / WEIGHTS)})
    with pytest.raises(InputError, match=f"{WEIGHTS} is not what was registered; pull"):
        whole(folder)
    (folder / WEIGHTS).unlink()
    edit(folder, files={name: sha256 for name, sha256 in files.items() if name != WEIGHTS})
    with pytest.raises(InputError, match=f"{WEIGHTS} is not what was registered; pull"):
        whole(folder)


def test_what_is_no_pulled_folder_is_explained(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="there is no such folder; name one that distrib pull made"):
        whole(tmp_path / "nowhere")
    for text in ("{", '{"name": "m"}', "\xff"):
        (folder / NOTE).write_bytes(text.encode("latin-1"))
        with pytest.raises(
            InputError, match=r"version\.json: cannot be read \(it is not what distrib pull writes\); pul"
        ):
            whole(folder)
    (folder / NOTE).unlink()
    with pytest.raises(InputError, match=r"has no version\.json, .* by an older distrib; pull the version again"):
        whole(folder)


def test_a_version_of_another_program_is_refused(folder: Path):
    edit(folder, tags={"author": "someone"})
    with pytest.raises(RegistryError, match="was registered by another program, or without a robustness card"):
        whole(folder)

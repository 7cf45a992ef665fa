"""distrib.data.beton: damage to what is packed is refused, and training cannot open the test split."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from packs import listing, pack

from distrib.data.beton import open_split
from distrib.data.packing import Packing
from distrib.data.source import DataSource
from distrib.data.split import Split
from distrib.errors import DataError

Sources = Callable[..., DataSource]


def rewrite(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def flip(content: bytearray, place: float) -> None:
    content[int(place * (len(content) - 1))] ^= 0x10


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def of(folder: Path, split: Split) -> Path:
    """The file of the samples."""
    return folder / json.loads((folder / f"{split}.json").read_text())["file"]


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{
        f"a byte of {split} flipped at {place}": (
            split, lambda f, split=split, place=place: rewrite(of(f, split), lambda c: flip(c, place)),
        )
        for split, place in (("train", 0), ("train", 0.5), ("validation", 1), ("test", 0.3))
    },
    "cut short": ("train", lambda f: rewrite(of(f, "train"), lambda c: c.pop())),
    "longer": ("test", lambda f: rewrite(of(f, "test"), lambda c: c.append(0))),
    "empty": ("validation", lambda f: of(f, "validation").write_bytes(b"")),
    "missing": ("test", lambda f: of(f, "test").unlink()),
    "two files exchanged": ("train", lambda f: shutil.copy(of(f, "test"), of(f, "train"))),
    "card missing": ("test.json", lambda f: (f / "test.json").unlink()),
    "card empty": ("test.json", lambda f: (f / "test.json").write_bytes(b"")),
    "card no JSON": ("train.json", lambda f: (f / "train.json").write_text("{not json")),
    "card no UTF-8": ("train.json", lambda f: (f / "train.json").write_bytes(b"\xff\xfe\x00")),
    "card a list": ("validation.json", lambda f: (f / "validation.json").write_text("[]")),
    "card without a field": ("train.json", lambda f: edit(f / "train.json", sha256=None)),
    "card with a field too many": ("train.json", lambda f: edit(f / "train.json", colour="red")),
    "card of another split": ("test.json", lambda f: shutil.copy(f / "validation.json", f / "test.json")),
    "card a folder": ("test.json", lambda f: ((f / "test.json").unlink(), (f / "test.json").mkdir())),
}  # fmt: skip


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_by_the_files_name_and_nothing_is_touched(
    tmp_path: Path, digits_source: Sources, packing: Packing, prepared: Path, name: str,
    damage: Callable[[Path], object],
):  # fmt: skip
    folder = shutil.copytree(prepared, tmp_path / prepared.name)
    suffix = "" if name.endswith(".json") else (".beton" if packing == "ffcv" else ".safetensors")
    damage(folder)
    before = listing(tmp_path)
    with pytest.raises(DataError) as raised:
        pack(digits_source(tmp_path), packing)
    assert str(folder / f"{name}{suffix}") in str(raised.value)
    assert f"delete {folder}" in str(raised.value)  # the cure; preparing again is what was just tried
    assert listing(tmp_path) == before
    with pytest.raises(DataError):
        open_split(folder, name.split(".")[0], "evaluation").verify()


def test_without_a_folder_the_cure_is_to_prepare_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"train\.json: there is no card; run the job that prepares"):
        open_split(tmp_path / "nowhere", "train", "training")


def test_the_test_split_cannot_be_opened_for_training(digits: Path):
    assert open_split(digits, "train", "training").card.split == "train"
    assert open_split(digits, "validation", "training").card.split == "validation"
    assert open_split(digits, "test", "evaluation").card.split == "test"
    with pytest.raises(DataError, match="test split cannot be opened for training"):
        open_split(digits, "test", "training")

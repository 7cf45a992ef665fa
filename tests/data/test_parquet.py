"""Parquet files as the Hugging Face hub keeps them: the same images as in a folder, or one error with its cure."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from huggingface_hub import constants
from packs import cards, everything, pack
from PIL import Image
from pydantic import ValidationError

from distrib.commands.prepare import must_be_there
from distrib.data.beton import open_split
from distrib.data.loader import open_reader
from distrib.data.packing import Packing
from distrib.data.source import HuggingFace
from distrib.errors import DataError

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (24, 6, 5, 3), dtype=np.uint8)
LABELS = [row % 3 for row in range(24)]
NAMES = ["ant", "bee", "cat"]


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def table(
    path: Path, rows: range, names: list[str] | None = None, image: str = "image", labels: list | None = None,
    plain: bool = False,
) -> Path:  # fmt: skip
    """Writes those rows as the hub does (``plain``: bytes without a path beside them), in groups of five."""
    contents = [encoded(PIXELS[row]) for row in rows]
    images: list[Any] = contents if plain else [{"bytes": one, "path": "x.png"} for one in contents]
    made = arrow.table({image: images, "label": labels or [LABELS[row] for row in rows]})
    if names:
        told = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(told)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(made, path, row_group_size=5)
    return path


def tree(root: Path, names: list[str] | None = NAMES, **fields: Any) -> Path:
    """Eighteen rows to train on in two files, six to test on, laid out as the hub's converted branch is."""
    table(root / "plain" / "train" / "0000.parquet", range(12), names, **fields)
    table(root / "plain" / "train" / "0001.parquet", range(12, 18), names, **fields)
    table(root / "plain" / "test" / "0000.parquet", range(18, 24), names, **fields)
    return root


def source(path: Path | str, store: Path, **fields: Any) -> HuggingFace:
    return HuggingFace(source="huggingface", path=str(path), store=str(store), **({"validation": 1 / 3} | fields))


@pytest.mark.parametrize("plain", [False, True])
def test_every_row_is_an_image_and_a_label(tmp_path: Path, packing: Packing, plain: bool):
    data = source(tree(tmp_path / "set", plain=plain), tmp_path / "store")
    whole = data.open("train")
    assert whole.classes == tuple(NAMES) and whole.shape == (6, 5, 3) and len(whole) == 18
    for row in (17, 0, 11, 12, 4, 5):
        pixels, label = whole[row]
        assert np.array_equal(pixels, PIXELS[row]) and label == LABELS[row]
    folder = pack(data, packing)
    assert {split: card.count for split, card in cards(folder).items()} == {"train": 12, "validation": 6, "test": 6}
    images, labels = everything(open_reader(open_split(folder, "test", "evaluation"), "auto"), 6)
    assert np.array_equal(images, PIXELS[18:]) and labels.tolist() == LABELS[18:]


def test_names_of_classes_come_from_the_schema_the_labels_or_their_numbers(tmp_path: Path):
    assert source(tree(tmp_path / "named"), tmp_path).open("test").classes == tuple(NAMES)
    assert source(tree(tmp_path / "numbers", None), tmp_path).open("test").classes == ("0", "1", "2")
    table(tmp_path / "words" / "train.parquet", range(4), labels=["dog", "cat", "dog", "cat"])
    table(tmp_path / "words" / "test.parquet", range(4, 6), labels=["dog", "cat"])
    words = source(tmp_path / "words", tmp_path).open("test")
    assert words.classes == ("cat", "dog") and words.labels.tolist() == [1, 0]


def test_other_columns_and_layouts(tmp_path: Path):
    for part, rows in (("train", range(18)), ("test", range(18, 24))):
        table(tmp_path / "set" / "data" / f"{part}-00000-of-00001.parquet", rows, NAMES, image="img")
    data = source(tmp_path / "set", tmp_path, image="img", size=4, grey=True)
    assert data.open("train").shape == (4, 4, 1)
    with pytest.raises(DataError, match=r"data\.image: .*train.* has no column image, but img, label"):
        source(tmp_path / "set", tmp_path).open("train")
    with pytest.raises(DataError, match=r"data\.label: .* has no column y, but img, label"):
        source(tmp_path / "set", tmp_path, image="img", label="y").open("train")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train_files": "*nothing*"}, r"data\.train_files: no file below .* is called \*nothing\*"),
        ({"test_files": "*0001.parquet"}, r"data\.test_files: .*0001\.parquet is also of the train part"),
    ],
)
def test_patterns_that_do_not_serve_are_refused(tmp_path: Path, fields: dict, words: str):
    data = source(tree(tmp_path / "set"), tmp_path / "store", **fields)
    with pytest.raises(DataError, match=words):
        data.open("train")
    with pytest.raises(DataError, match=words):
        must_be_there(data)


def test_rows_that_do_not_serve_are_named(tmp_path: Path):
    tree(tmp_path / "set")
    table(tmp_path / "set" / "plain" / "test" / "0000.parquet", range(18, 24), NAMES, labels=[0, 1, 2, 0, 1, -1])
    with pytest.raises(DataError, match=r"data\.label: row 5 of .*test.* has -1, which is none of the 3 classes"):
        source(tmp_path / "set", tmp_path).open("test")
    made = arrow.table({"image": [{"bytes": None, "path": "x"}] * 3, "label": [0, 1, 2]})
    parquet.write_table(made, tmp_path / "set" / "plain" / "train" / "0000.parquet")
    with pytest.raises(DataError, match=r"data\.image: .*0000\.parquet \(row 0 of group 0\).*no encoded image"):
        source(tmp_path / "set", tmp_path).open("train")
    made = arrow.table({"image": [b"no picture"] * 3, "label": [0, 1, 2]})
    parquet.write_table(made, tmp_path / "set" / "plain" / "train" / "0000.parquet")
    with pytest.raises(DataError, match=r"0000\.parquet \(row 0 of group 0\): cannot be read as an image"):
        source(tmp_path / "set", tmp_path).open("train")
    (tmp_path / "set" / "plain" / "train" / "0000.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"data\.path: .*0000\.parquet cannot be read as parquet"):
        source(tmp_path / "set", tmp_path).open("train")


def test_the_fingerprint_changes_with_the_files(tmp_path: Path):
    data = source(tree(tmp_path / "set"), tmp_path)
    before = data.fingerprint()
    assert before and before == data.fingerprint()
    table(tmp_path / "set" / "plain" / "test" / "0000.parquet", range(18, 23), NAMES)
    assert data.fingerprint() not in (before, "")
    assert source(tmp_path / "gone", tmp_path).fingerprint() == ""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_set_of_the_hub_is_taken_from_its_cache(tmp_path: Path, hub: Path):
    place = hub / "datasets--someone--insects"
    (place / "refs" / "refs" / "convert").mkdir(parents=True)
    (place / "refs" / "refs" / "convert" / "parquet").write_text("0" * 40)
    tree(place / "snapshots" / ("0" * 40))
    data = source("someone/insects", tmp_path / "store")
    must_be_there(data)
    assert np.array_equal(data.open("train")[3][0], PIXELS[3])
    with pytest.raises(DataError, match=r"data\.path: someone/insects is neither .* at revision v1; .*data\.download"):
        source("someone/insects", tmp_path / "store", revision="v1").open("train")


def test_a_set_is_fetched_only_if_told(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match=r"data\.path: someone/birds is neither a folder nor in the hub's cache"):
        must_be_there(source("someone/birds", tmp_path))
    asked = []

    def no_network(path: str, **named: Any) -> str:
        asked.append((path, named["local_files_only"], named["allow_patterns"], named["revision"]))
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    data = source("someone/birds", tmp_path, download=True, revision="v2")
    must_be_there(data)  # it may be fetched
    with pytest.raises(DataError, match=r"data\.path: someone/birds cannot be had from the hub \(no network\)"):
        data.open("train")
    assert asked == [("someone/birds", False, ["*train*.parquet", "*test*.parquet"], "v2")]


def test_what_is_no_name_at_all_is_refused(tmp_path: Path, hub: Path):
    with pytest.raises(DataError, match=r"data\.path: no/such/name is neither a folder nor"):
        source("no/such/name", tmp_path).open("train")
    with pytest.raises(ValidationError, match="size"):
        source("x", tmp_path, size=2)

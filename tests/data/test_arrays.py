"""Images and labels in arrays: every layout is the same images, what does not fit is refused with a cure."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.numpy import save_file

from distrib.commands.prepare import must_be_there
from distrib.data.arrays import pack, read_arrays
from distrib.data.beton import open_split
from distrib.data.loader import MemoryReader
from distrib.data.packing import folder_of, prepare
from distrib.data.source import Arrays
from distrib.errors import DataError

DRAW = np.random.default_rng(0)
COLOUR = DRAW.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
GREY = COLOUR[..., :1]
LABELS = np.arange(12) % 3


def npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **({"images": COLOUR, "labels": LABELS} | arrays))  # pyright: ignore[reportArgumentType]
    return path


@pytest.mark.parametrize(
    ("stored", "images"),
    [(COLOUR, COLOUR), (COLOUR.transpose(0, 3, 1, 2), COLOUR), (GREY, GREY), (GREY[..., 0], GREY)],
    ids=["HWC", "CHW", "HW1", "HW"],
)
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_every_layout_is_the_same_images(
    tmp_path: Path, stored: np.ndarray, images: np.ndarray, ending: str, dtype: type
):
    arrays = {"images": np.ascontiguousarray(stored), "labels": LABELS.astype(dtype)}
    path = tmp_path / f"some.{ending}"
    np.savez(path, **arrays) if ending == "npz" else save_file(arrays, path)
    found, labels, names = read_arrays(path, "data.train")
    assert np.array_equal(found, images) and np.array_equal(labels, LABELS)
    assert labels.dtype == np.int64 and names is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": COLOUR / 255.0}, r"images are float64, not uint8; .*\* 255\)\.round\(\)"),
        ({"images": COLOUR[..., :2]}, r"images are \[12, 6, 5, 2\], not \[N, H, W\]"),
        ({"images": COLOUR[:, 0, 0]}, r"images are \[12, 3\], not"),
        ({"labels": np.eye(12, dtype=int)}, r"labels are int64 \[12, 12\] for 12 images.*argmax"),
        ({"labels": LABELS[:5]}, r"labels are int64 \[5\] for 12 images"),
        ({"labels": LABELS / 2}, "labels are float64"),
        ({"labels": np.array(["a"] * 12, dtype=object)}, "cannot be read"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict, words: str):
    with pytest.raises(DataError, match=rf"^data\.train: .*a\.npz.*{words}"):
        read_arrays(npz(tmp_path / "a.npz", **arrays), "data.train")


def test_files_that_are_none_are_refused(tmp_path: Path):
    np.savez(tmp_path / "x.npz", pixels=COLOUR, labels=LABELS)
    with pytest.raises(DataError, match=r"data\.test: .* has no images, but labels, pixels; rename what is meant"):
        read_arrays(tmp_path / "x.npz", "data.test")
    np.savez(tmp_path / "y.npz", x_train=COLOUR, y_train=LABELS)
    with pytest.raises(DataError, match=r"has no images and no labels, but x_train, y_train; rename what is meant"):
        read_arrays(tmp_path / "y.npz", "data.test")
    for name in ("bad.npz", "bad.safetensors", "other.npy"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(DataError, match=rf"data\.test: .*{name} cannot be read as"):
            read_arrays(tmp_path / name, "data.test")
    np.save(tmp_path / "one.npy", COLOUR)
    with pytest.raises(DataError, match=r"one\.npy cannot be read as"):
        read_arrays(tmp_path / "one.npy", "data.test")
    with pytest.raises(DataError, match="there is no file"):
        read_arrays(tmp_path / "none.npz", "data.test")


@pytest.mark.parametrize(
    "images",
    [
        COLOUR,
        list(COLOUR),
        torch.from_numpy(COLOUR.transpose(0, 3, 1, 2).copy()),
        [Image.fromarray(one) for one in COLOUR],
    ],
    ids=["array", "list", "tensor", "pictures"],
)
def test_whatever_is_indexable_is_packed(tmp_path: Path, images):
    path = pack(tmp_path / "a.safetensors", images, torch.from_numpy(LABELS), ["cat", "Löwe", "dog"])
    found, labels, names = read_arrays(path, "data.train")
    assert np.array_equal(found, COLOUR) and np.array_equal(labels, LABELS) and names == ("cat", "Löwe", "dog")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "a.npz"}, r"path: .*a\.npz must end in \.safetensors"),
        ({"labels": [0]}, "12 for 1 labels"),
        ({"images": [], "labels": []}, "at least one"),
        ({"path": "no/a.safetensors"}, "path: there is no folder .*no"),
        ({"labels": [3] * 12}, r"labels: must lie in 0 \.\. 2, places in classes; these are 3 to 3"),
        ({"labels": [0.5] * 12}, "labels: each is float64, not a whole number"),
        ({"labels": ["cat"] * 12}, "labels: each is <U3, not a whole number"),
        ({"labels": np.eye(12, 3)}, r"labels: each is float64 \[3\], not a whole number; of one-hot rows give"),
        ({"labels": None}, r"labels: are missing, and images\[0\] is no pair"),
        ({"labels": [[0, 1], [2]] * 6}, "labels: are not all of one kind"),
        ({"images": ["a.png"] * 12}, "images: number 0 is <U5 .*; give arrays of pixels"),
        ({"classes": 3}, "classes: 3 is no list of names"),
        ({"classes": [1, 2, 3]}, r"classes: \[1, 2, 3\] is no list of names"),
        ({"classes": "abc"}, "classes: abc is no list of names"),
        ({"labels": [-1] * 12}, "labels: must lie"),
        ({"images": [*COLOUR[:11], COLOUR[0, :3]]}, r"images: number 11 is uint8 \[3, 5, 3\], .*; resize them alike"),
        ({"images": COLOUR / 255.0}, r"number 0 is float64 .*give \(images \* 255\)\.round\(\)\.astype"),
        ({"images": COLOUR.astype(float)}, r"number 0 is float64 .*; give images\.round\(\)\.astype\('uint8'\)"),
        ({"images": COLOUR.astype(float) - 300}, r"number 0 is float64 .*; bring them to 0 \.\. 255 first"),
        ({"classes": ["a", "b\nc", "d"]}, "line break"),
    ],
)
def test_what_cannot_be_packed_is_refused_and_nothing_is_written(tmp_path: Path, changes: dict, words: str):
    given = {"path": "a.safetensors", "images": COLOUR, "labels": LABELS, "classes": ["a", "b", "c"]} | changes
    with pytest.raises(DataError, match=words):
        pack(tmp_path / given["path"], given["images"], given["labels"], given["classes"])
    assert not list(tmp_path.iterdir())


class Pairs:
    """What a torch Dataset gives."""

    def __init__(self, classes: list[str] | None = None):
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(COLOUR)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.fromarray(COLOUR[i]), int(LABELS[i])


@pytest.mark.parametrize(
    ("own", "given", "names"),
    [(["cat", "cow", "dog"], None, ("cat", "cow", "dog")), (["cat", "cow", "dog"], list("abc"), ("a", "b", "c")),
     (None, None, ("0", "1", "2"))],
)  # fmt: skip
def test_a_torch_dataset_is_packed_as_it_is(tmp_path: Path, own: list[str], given: list[str], names: tuple):
    found = read_arrays(pack(tmp_path / "a.safetensors", Pairs(own), classes=given), "data.train")
    assert np.array_equal(found[0], COLOUR) and np.array_equal(found[1], LABELS) and found[2] == names


def test_labels_that_count_from_one_are_told(tmp_path: Path):
    """Where nothing says what 0 is: it would be a class without an image."""
    shifted = npz(tmp_path / "train.npz", images=np.tile(COLOUR, (5, 1, 1, 1)), labels=np.tile(LABELS, 5) + 1)
    fields = {"train": str(shifted), "test": str(npz(tmp_path / "test.npz", images=COLOUR, labels=LABELS + 1))}
    with pytest.raises(DataError, match=r"data\.train: .*labels lie in 1 \.\. 3, and count from 0; subtract 1"):
        Arrays(source="arrays", **fields).open("train")
    named = Arrays(source="arrays", classes=("none", "a", "b", "c"), **fields)
    assert named.open("train").classes == ("none", "a", "b", "c")


def source(tmp_path: Path, **fields: object) -> Arrays:
    many = np.arange(60) % 3
    for part, seed in (("train", 1), ("test", 2)):
        images = np.random.default_rng(seed).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{part}.npz", images=images, labels=many)
    given = {"train": str(tmp_path / "train.npz"), "test": str(tmp_path / "test.npz"), "store": str(tmp_path / "store")}
    return Arrays(source="arrays", **(given | fields))


def test_a_source_of_arrays_is_packed_like_any_other(tmp_path: Path):
    data = source(tmp_path, classes=("cat", "cow", "dog"))
    folder = prepare(data, "memory", {}, "digest", print)
    split = open_split(folder, "test", "evaluation")
    assert split.card.classes == ("cat", "cow", "dog") and split.card.image == (6, 5, 3) and split.card.count == 60
    assert np.array_equal(MemoryReader(split).image.numpy(), np.load(tmp_path / "test.npz")["images"])
    assert sum(open_split(folder, one, "evaluation").card.count for one in ("train", "validation")) == 60


def test_other_content_is_another_packing(tmp_path: Path):
    data = source(tmp_path)
    first = prepare(data, "memory", {}, "digest", print)
    assert prepare(data, "memory", {}, "digest", print) == first == folder_of(data)
    npz(tmp_path / "train.npz", images=np.repeat(COLOUR, 5, 0) + 1, labels=np.repeat(LABELS, 5))
    assert prepare(data, "memory", {}, "digest", print) != first


def test_classes_are_those_of_the_train_part(tmp_path: Path):
    data = source(tmp_path)
    assert data.open("train").classes == data.open("test").classes == ("0", "1", "2")
    npz(tmp_path / "test.npz", labels=LABELS + 1)
    with pytest.raises(DataError, match=r"labels must lie in 0 \.\. 2"):
        data.open("test")


def test_one_file_for_both_parts_is_refused(tmp_path: Path):
    (tmp_path / "link.npz").symlink_to(tmp_path / "train.npz")
    for same in ("train.npz", "link.npz"):
        with pytest.raises(ValidationError, match="a test on what was trained on"):
            Arrays(source="arrays", train=str(tmp_path / "train.npz"), test=str(tmp_path / same))


def test_a_file_that_is_not_there_is_said_before_anything_is_read(tmp_path: Path):
    here = npz(tmp_path / "some.npz")
    for field in ("train", "test"):
        files = {"train": str(here), "test": str(tmp_path / "t.npz"), field: str(tmp_path / "gone.npz")}
        if field == "train":
            files["test"] = str(here)
        with pytest.raises(DataError, match=rf"data\.{field}: there is no file .*gone\.npz"):
            must_be_there(Arrays(source="arrays", store=str(tmp_path), **files))

"""Images of elsewhere mixed with a set's own: packed behind them, counted apart, kept from what is measured on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packs import cards, everything, pack
from pydantic import ValidationError

from distrib.commands.prepare import must_be_there, must_fill
from distrib.data.arrays import pack as pack_arrays
from distrib.data.beton import open_split
from distrib.data.loader import open_reader
from distrib.data.packing import Packing, folder_of
from distrib.data.samples import Extra
from distrib.data.source import Digits
from distrib.errors import DataError, JobError

Sources = Callable[..., Digits]
Pictures = Callable[..., Path]
TEN = [str(digit) for digit in range(10)]
SYNTHETIC = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)


def synthetic(path: Path, images: np.ndarray = SYNTHETIC, names: str = "plural") -> dict:
    """A file of such images, each of the class of its number, as a job mixes it in."""
    images_, labels = ("images", "labels") if names == "plural" else ("image", "label")
    np.savez(path, **{images_: images, labels: np.arange(len(images)) % 10})
    return {"source": "arrays", "path": str(path), "share": 0.7}


@pytest.mark.parametrize("names", ["plural", "singular"])
def test_they_are_packed_behind_the_set_s_own(tmp_path: Path, digits_source: Sources, packing: Packing, names: str):
    plain = pack(digits_source(tmp_path / "plain"), packing)
    said: list[str] = []
    mix = synthetic(tmp_path / "s.npz", names=names)
    folder = pack(digits_source(tmp_path / "mixed", mix=(mix,)), packing, said)
    card, before = cards(folder)["train"], cards(plain)["train"]
    assert card.mixed == (Extra(name=str(tmp_path / "s.npz"), count=50),)
    assert (card.own, card.count) == (before.count, before.count + 50) and before.own == before.count
    assert (card.mean, card.std) == (before.mean, before.std), "the normalisation is that of the set's own images"
    for split in ("validation", "test"):
        assert cards(folder)[split].content_sha256 == cards(plain)[split].content_sha256
    images, labels = everything(open_reader(open_split(folder, "train", "training"), "auto"), card.count)
    own, own_labels = everything(open_reader(open_split(plain, "train", "training"), "auto"), before.count)
    assert np.array_equal(images, np.concatenate([own, SYNTHETIC[..., None]]))
    assert np.array_equal(labels, np.concatenate([own_labels, np.arange(50) % 10]))
    assert any(f"{card.count} images 8x8x1" in line and "50 of them from" in line for line in said)


def test_what_distrib_packed_and_a_folder_of_pictures_serve_as_well(
    tmp_path: Path, digits_source: Sources, pictures: Pictures
):
    file = pack_arrays(tmp_path / "s.safetensors", SYNTHETIC, np.arange(50) % 10, TEN)
    root = pictures(tmp_path / "pictures", [(16, 12)] * 2, parts=("more",), classes=tuple(TEN)) / "more"
    arrays = {"source": "arrays", "path": str(file), "share": 0.25}
    folder = {"source": "folder", "root": str(root), "share": 0.5}
    card = cards(pack(digits_source(tmp_path / "store", mix=(arrays, folder))))["train"]
    assert [(extra.name, extra.count) for extra in card.mixed] == [(str(file), 50), (str(root), 20)]


def test_the_share_is_no_part_of_what_is_packed_and_the_content_is(tmp_path: Path, digits_source: Sources):
    mix = synthetic(tmp_path / "s.npz")
    folder = pack(digits_source(tmp_path / "store", mix=(mix,)))
    assert folder_of(digits_source(tmp_path / "store", mix=(mix | {"share": 0.2},))) == folder
    assert folder_of(digits_source(tmp_path / "store")) != folder
    synthetic(tmp_path / "s.npz", SYNTHETIC[::-1])
    assert folder_of(digits_source(tmp_path / "store", mix=(mix,))) != folder
    (tmp_path / "s.npz").unlink()  # on a machine that has only what is packed
    assert folder_of(digits_source(tmp_path / "store", mix=(mix,))) == folder


@pytest.mark.parametrize(
    ("images", "labels", "classes", "words"),
    [
        (SYNTHETIC[:, :6], np.zeros(50), TEN, r"images \[6, 8, 1\] \(HxWxC\), not \[8, 8, 1\]"),
        (SYNTHETIC, np.zeros(50), ["a", "b"], "has the classes a, b, not 0, 1, 2"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_packed(
    tmp_path: Path, digits_source: Sources, images: np.ndarray, labels: np.ndarray, classes: list, words: str
):
    file = pack_arrays(tmp_path / "s.safetensors", images, labels.astype(int).tolist(), classes)
    with pytest.raises(DataError, match=rf"data\.mix: .*{words}"):
        pack(digits_source(tmp_path / "store", mix=({"source": "arrays", "path": str(file), "share": 0.5},)))
    assert not (tmp_path / "store").exists() or not [p for p in (tmp_path / "store").iterdir() if p.is_dir()]


def test_labels_beyond_the_classes_are_refused(tmp_path: Path, digits_source: Sources):
    np.savez(tmp_path / "s.npz", images=SYNTHETIC, labels=np.arange(50))
    with pytest.raises(DataError, match=r"s\.npz: labels must lie in 0 \.\. 9"):
        pack(digits_source(tmp_path, mix=({"source": "arrays", "path": str(tmp_path / "s.npz"), "share": 0.5},)))


def test_pictures_of_other_classes_are_refused(tmp_path: Path, digits_source: Sources, pictures: Pictures):
    root = pictures(tmp_path / "pictures", [(8, 8)], parts=("more",)) / "more"
    with pytest.raises(DataError, match=r"data\.mix: .* has the classes .*, not 0, 1, 2"):
        pack(digits_source(tmp_path / "store", mix=({"source": "folder", "root": str(root), "share": 0.5},)))


def test_test_images_among_them_are_told_and_too_many_refused(tmp_path: Path, digits_source: Sources):
    test = digits_source(tmp_path).open("test")
    leaked = np.stack([test[i][0] for i in range(len(test))])
    few = synthetic(tmp_path / "few.npz", np.concatenate([SYNTHETIC, leaked[:5, ..., 0]]))
    said: list[str] = []
    pack(digits_source(tmp_path / "store", mix=(few,)), "memory", said)
    assert any(line.startswith("data: 5 of 450 test images are equal, pixel for pixel") for line in said)
    with pytest.raises(DataError, match="a test on what was trained on says nothing"):
        pack(digits_source(tmp_path / "store", mix=(synthetic(tmp_path / "all.npz", leaked[..., 0]),)))


def test_shares_must_leave_something_and_fill_a_place(tmp_path: Path, digits_source: Sources):
    mix = synthetic(tmp_path / "s.npz")
    with pytest.raises(ValidationError, match="leave nothing of every batch"):
        digits_source(tmp_path, mix=(mix, mix | {"share": 0.3}))
    data = digits_source(tmp_path, mix=(mix | {"share": 0.01},))
    folder = pack(data)
    must_fill(folder, data, 64, "optim.batch_size")
    with pytest.raises(JobError, match=r"optim\.batch_size: batches of 32 have no place for arrays"):
        must_fill(folder, data, 32, "optim.batch_size")
    with pytest.raises(JobError, match=r"but there are 270 to train on"):  # the set's own, as without them
        must_fill(folder, data, 271, "optim.batch_size")


def test_what_is_not_there_is_said_before_anything_is_read(tmp_path: Path, digits_source: Sources):
    data = digits_source(tmp_path / "store", mix=(synthetic(tmp_path / "s.npz"),))
    (tmp_path / "s.npz").unlink()
    with pytest.raises(DataError, match=r"data\.mix: .*s\.npz is not there"):
        must_be_there(data)
    synthetic(tmp_path / "s.npz")
    folder = pack(data)
    (tmp_path / "s.npz").unlink()
    must_be_there(data)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="is not there"):
        must_be_there(data)

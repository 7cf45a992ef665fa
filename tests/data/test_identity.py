"""What is packed is what lies in data.root now: by content, wherever it lies, and through links."""

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distrib.data import packing
from distrib.data.beton import open_split
from distrib.data.loader import MemoryReader
from distrib.data.packing import folder_of, prepare
from distrib.data.source import DataSource, Folder, TorchvisionData
from distrib.data.split import SPLITS
from distrib.errors import DataError


def mnist(root: Path, bright: int, count: int = 40) -> Path:
    """A set in MNIST's form at ROOT/MNIST/raw: images of 28 x 28, each nearly all of one brightness."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, first in (("train", 0), ("t10k", 100)):
        images = np.full((count, 28, 28), bright, np.uint8)
        images[:, 0, 0] = np.arange(first, first + count)  # none is in both parts
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
    return root


def named(root: Path, store: Path) -> TorchvisionData:
    return TorchvisionData(source="mnist", root=str(root), store=str(store), validation=0.25)


def pack(data: DataSource, said: list[str] | None = None) -> Path:
    return prepare(data, "memory", {}, "", (said if said is not None else []).append)


def brightness(folder: Path) -> int:
    """The last pixel of the first test image."""
    (raw,) = MemoryReader(open_split(folder, "test", "evaluation")).read(np.arange(1), 1)
    return int(raw.image[0, -1, -1, 0])


def test_two_sets_of_one_form_are_never_taken_for_each_other(tmp_path: Path):
    """As Fashion-MNIST is one of MNIST's form: the second was never read."""
    one, other = (named(mnist(tmp_path / str(bright), bright), tmp_path / "store") for bright in (50, 200))
    first = pack(one)
    second = pack(other)
    assert (brightness(first), brightness(second)) == (50, 200)
    said: list[str] = []
    assert (pack(one, said), pack(other, said)) == (first, second) == (folder_of(one), folder_of(other))
    assert len(said) == 2 and all("already prepared" in text for text in said)
    mnist(tmp_path / "50", 120)  # replaced in place
    assert brightness(pack(one)) == 120 and brightness(first) == 50


def test_the_same_content_is_packed_once_wherever_it_lies(tmp_path: Path):
    root = mnist(tmp_path / "a", 50)
    folder = pack(named(root, tmp_path / "store"))
    shutil.copytree(root, tmp_path / "b")
    (tmp_path / "c").symlink_to(root)
    for path in (root / "MNIST" / "raw").iterdir():
        os.utime(path, ns=(1, 1))
    (root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").write_bytes(b"what it was unpacked from")
    for name in "abc":
        said: list[str] = []
        assert pack(named(tmp_path / name, tmp_path / "store"), said) == folder
        assert len(said) == 1 and "already prepared" in said[0]


def test_without_the_files_the_one_packed_set_is_taken_and_of_two_none(tmp_path: Path):
    """On a machine of a cluster that has only the store."""
    one, other = (named(mnist(tmp_path / str(bright), bright), tmp_path / "store") for bright in (50, 200))
    away = named(tmp_path / "away", tmp_path / "store")
    folder = pack(one)
    assert pack(away) == folder
    second = pack(other)
    with pytest.raises(DataError, match=r"^data\.root: .*not on this machine.*delete all but one") as raised:
        pack(away)
    assert str(folder) in str(raised.value) and str(second) in str(raised.value)
    shutil.rmtree(folder)
    assert brightness(pack(away)) == 200


def test_what_was_packed_before_fingerprints_is_kept_if_it_is_the_same(tmp_path: Path):
    one, other = (named(mnist(tmp_path / str(bright), bright), tmp_path / "store") for bright in (50, 200))
    folder = pack(one)
    for split in SPLITS:
        card = folder / f"{split}.json"
        card.write_text(json.dumps(json.loads(card.read_text()) | {"fingerprint": ""}))
    before = (folder / "train.safetensors").stat().st_ino
    assert pack(other) != folder
    said: list[str] = []
    assert pack(one, said) == folder and "is taken" in said[-1]
    assert pack(one, said) == folder and "already prepared" in said[-1]
    assert (folder / "train.safetensors").stat().st_ino == before


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("fingerprint", ["", "of another formula"])
def test_a_read_only_store_serves_for_the_images_that_are_packed_in_it(
    number: int, fingerprint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Packed by older code, or from files that were touched since: nothing can be noted there, nor locked."""
    one, other = (named(mnist(tmp_path / str(bright), bright), tmp_path / "store") for bright in (50, 200))
    folder = pack(one)
    for split in SPLITS:
        card = folder / f"{split}.json"
        card.write_text(json.dumps(json.loads(card.read_text()) | {"fingerprint": fingerprint}))

    def refuse(*words: object, **fields: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(packing, "locked", refuse)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    said: list[str] = []
    for _ in range(2):
        assert pack(one, said) == folder and "is taken" in said[-1]
    with pytest.raises(DataError, match=r"data\.store: .* cannot be written to, or not be locked"):
        pack(other)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before
    (folder / "test.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"data\.store: .* cannot be written to, or not be locked"):
        pack(one)


def test_files_that_were_touched_are_read_again_but_not_packed_again(tmp_path: Path, pictures: Callable[..., Path]):
    root = pictures(tmp_path / "images", [(8, 8)] * 4)
    data = Folder(source="folder", root=str(root), store=str(tmp_path / "store"), validation=0.25)
    folder = pack(data)
    before = (folder / "train.safetensors").stat().st_ino
    os.utime(root / "train/cat/000.png", ns=(1, 1))
    said: list[str] = []
    assert pack(data, said) == folder and "is taken" in said[-1]
    assert pack(data, said) == folder and "already prepared" in said[-1]
    assert (folder / "train.safetensors").stat().st_ino == before
    (root / "train/cat").rename(root / "train/bird")
    (root / "test/cat").rename(root / "test/bird")
    assert open_split(pack(data), "test", "evaluation").card.classes == ("bird", "dog")  # the same pixels and numbers


@pytest.mark.parametrize("linked", ["test", "test/cat", "test/cat/000.png"])
def test_a_change_behind_a_link_is_seen(tmp_path: Path, pictures: Callable[..., Path], linked: str):
    root = pictures(tmp_path / "images", [(8, 8)] * 4)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(root / linked, tmp_path / "elsewhere" / "it")
    (root / linked).symlink_to(tmp_path / "elsewhere" / "it")
    data = Folder(source="folder", root=str(root), store=str(tmp_path / "store"), validation=0.25)
    first = pack(data)
    assert brightness(first) == np.asarray(Image.open(root / "test/cat/000.png"))[-1, -1, 0]
    Image.new("RGB", (8, 8), (7, 7, 7)).save(root / "test/cat/000.png")
    assert brightness(pack(data)) == 7


def test_files_that_change_while_they_are_packed_are_refused(
    tmp_path: Path, pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    from distrib.data import packing

    root = pictures(tmp_path / "images", [(8, 8)] * 4)
    data = Folder(source="folder", root=str(root), store=str(tmp_path / "store"), validation=0.25)
    hashed = packing.file_sha256
    monkeypatch.setattr(
        packing, "file_sha256", lambda path: (os.utime(root / "test/cat/000.png", ns=(1, 1)), hashed(path))[1]
    )
    with pytest.raises(DataError, match=r"data\.root: files changed while they were packed"):
        pack(data)
    assert list((tmp_path / "store").iterdir()) == []

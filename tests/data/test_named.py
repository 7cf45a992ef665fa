"""distrib.data.named: the sets that are known by name, whole and with the right labels, or refused with the cure."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from distrib.config.job import grey
from distrib.data.named import Digits, TorchvisionData
from distrib.errors import DataError

REAL = os.environ.get("DISTRIB_TEST_DATA")


def test_digits_are_whole_and_their_parts_disjoint():
    """As multisets of (pixels, label) the two parts make up scikit-learn's set: nothing twice, nothing lost."""
    from sklearn.datasets import load_digits

    parts = {part: Digits(source="digits").open(part) for part in ("train", "test")}
    for samples in parts.values():
        assert samples.shape == (8, 8, 1) and samples.classes == tuple("0123456789")
        assert samples.labels.dtype == np.int64 and set(samples.labels) == set(range(10))
    assert {part: len(samples) for part, samples in parts.items()} == {"train": 1347, "test": 450}
    bunch = load_digits()
    greys = np.round(bunch.images * 255 / 16).astype(np.uint8)
    whole = Counter((image.tobytes(), int(label)) for image, label in zip(greys, bunch.target, strict=True))
    found = Counter((samples[i][0].tobytes(), samples[i][1]) for samples in parts.values() for i in range(len(samples)))
    assert found == whole
    assert greys.max() == 255


def test_the_test_part_of_the_digits_is_fixed_and_holds_a_quarter_of_every_class():
    train, test = (Digits(source="digits").open(part) for part in ("train", "test"))
    for field in ({"split_seed": 5}, {"limit": 50}, {"validation": 0.3}):  # what cuts the train part leaves it alone
        again = Digits(source="digits", **field).open("test")
        assert np.array_equal(again.labels, test.labels)
        assert all(np.array_equal(again[i][0], test[i][0]) for i in range(0, 450, 7))
    held, rest = np.bincount(test.labels), np.bincount(train.labels)
    assert (np.abs(held / (held + rest) - 0.25) < 0.01).all()


# torchvision


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_a_missing_torchvision_set_names_the_field_and_the_cure(tmp_path: Path, name: str):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"^data\.root: ") as raised:
            TorchvisionData(source=name, root=str(root)).open("train")
        assert name.upper() in str(raised.value) and repr(str(root)) in str(raised.value)
        assert "data.download: true" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x00\x00\x08\x03" + b"\x00" * 12, b"\x00\x00\x08\x01"])
def test_a_damaged_torchvision_set_is_refused(tmp_path: Path, content: bytes):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for kind in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{kind}-ubyte").write_bytes(content)
    with pytest.raises(DataError):
        TorchvisionData(source="mnist", root=str(tmp_path)).open("train")


def idx(array: np.ndarray) -> bytes:
    """As the files of MNIST are written: the type, the sides, then bytes."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape) + array.tobytes()


def test_fashion_mnist_is_read_from_a_folder_of_its_own(tmp_path: Path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    for kind, count in (("train", 40), ("t10k", 20)):
        (raw / f"{kind}-images-idx3-ubyte").write_bytes(idx(images[:count]))
        (raw / f"{kind}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    data = TorchvisionData(source="fashion_mnist", root=str(tmp_path))
    train, test = data.open("train"), data.open("test")
    assert (len(train), len(test), train.shape, train.classes[9]) == (40, 20, (28, 28, 1), "Ankle boot")
    assert np.array_equal(train[3][0][..., 0], images[3]) and train[3][1] == 3
    assert data.missing() == "" and len(data.of_files()) == 64 and grey(data)


def test_svhn_is_read_in_colour_with_its_digits_as_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """torchvision reads the file; that it is the published one, by its md5, is left out here."""
    from scipy.io import savemat
    from torchvision import datasets

    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": np.arange(1, 13)[:, None] % 10 + 1})
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    data = TorchvisionData(source="svhn", root=str(tmp_path))
    found = data.open("test")
    assert found.shape == (32, 32, 3) and found.classes == tuple("0123456789") and data.missing() == ""
    assert np.array_equal(found[5][0], images[..., 5]) and found[5][1] == 7 and found[8][1] == 0  # 10 stands for 0
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"data\.root: no usable SVHN"):
        data.open("test")


@pytest.mark.skipif(REAL is None, reason="DISTRIB_TEST_DATA is not set to a folder that holds MNIST/raw")
def test_real_mnist_is_mnist():
    source = TorchvisionData(source="mnist", root=str(REAL))
    train, test = source.open("train"), source.open("test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.shape == test.shape == (28, 28, 1) and len(train.classes) == 10
    assert [train[i][1] for i in range(5)] == [5, 0, 4, 1, 9] and [test[i][1] for i in range(4)] == [7, 2, 1, 0]
    image, _ = train[0]
    assert image.dtype == np.uint8 and image.max() == 255 and image[0].max() == 0
    with pytest.raises(DataError, match=r"data\.root: no usable CIFAR10"):
        TorchvisionData(source="cifar10", root=str(REAL)).open("train")

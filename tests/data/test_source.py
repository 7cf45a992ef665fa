"""distrib.data.source: real images with the right labels, and errors that name the file and the cure."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from distrib.data.packing import folder_of
from distrib.data.source import DataSource, Digits, Folder, TorchvisionData
from distrib.data.survey import split_samples
from distrib.errors import DataError

Pictures = Callable[..., Path]
ODD_SIZES = [(8, 8), (9, 17), (31, 12), (40, 40)]


def folder(root: Path, **fields: object) -> Folder:
    return Folder(source="folder", root=str(root), **fields)


# Digits


# Folders of images


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("grey", [False, True])
def test_images_of_any_size_become_squares(tmp_path: Path, pictures: Pictures, kind: str, size: int, grey: bool):
    source = folder(pictures(tmp_path, ODD_SIZES, kind=kind, grey=grey), size=size, grey=grey)
    for part in ("train", "test"):
        samples = source.open(part)
        assert samples.classes == ("cat", "dog") and samples.shape == (size, size, 1 if grey else 3)
        assert samples.labels.tolist() == [0] * 4 + [1] * 4
        seen = {samples[i][0].tobytes() for i in range(8)}
        assert len(seen) == 8  # each image is itself
        assert all(samples[i][0].flags.c_contiguous and samples[i][0].dtype == np.uint8 for i in range(8))


def test_the_centre_is_cut_out_of_the_longer_side(tmp_path: Path):
    """Black, then white from the middle on: so is the square, whichever side is longer; and nothing is stretched."""
    for name, shape in (("cat", (8, 24)), ("dog", (24, 8))):
        pixels = np.zeros(shape, np.uint8)
        pixels[:, 12:] = 255
        pixels[12:] = 255 if name == "dog" else pixels[12:]
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "train" / name / "0.png")
    samples = folder(tmp_path, size=8, grey=True).open("train")
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 255
    assert np.array_equal(samples[0][0][..., 0], half) and np.array_equal(samples[1][0][..., 0], half.T)


def test_pixels_of_png_files_arrive_as_they_are(tmp_path: Path):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, size=(2, 5, 7, 3), dtype=np.uint8)
    for name, image in zip(("cat", "dog"), images, strict=True):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "train" / name / "0.png")
    samples = folder(tmp_path).open("train")
    assert samples.shape == (5, 7, 3)
    assert all(np.array_equal(samples[i][0], images[i]) for i in (0, 1))


def test_every_usual_kind_of_picture_becomes_rgb(tmp_path: Path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
    for number, mode in enumerate(("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")):
        kind = "tif" if mode == "CMYK" else "png"
        Image.new("RGB", (6, 6), (255, 255, 255)).convert(mode).save(tmp_path / f"train/cat/{number}.{kind}")
    Image.new("RGB", (6, 6)).save(tmp_path / "train/dog/0.png")
    samples = folder(tmp_path).open("train")
    assert len(samples) == 8
    for i in range(7):
        image, label = samples[i]
        assert image.shape == (6, 6, 3) and label == 0
        assert (image == 255).all()


def test_sixteen_bits_a_pixel_are_brought_to_eight_or_refused(tmp_path: Path):
    """PIL cuts them off at 255, which turns an X-ray into a white sheet."""
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(ramp).save(tmp_path / "train" / name / "0.png")
    for grey in (True, False):
        try:
            image, _ = folder(tmp_path, grey=grey).open("train")[0]
        except DataError as error:
            assert "0.png" in str(error)
        else:
            assert np.abs(image.astype(int) - (ramp // 256)[..., None]).max() <= 1


def jpeg(width: int = 32) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, width), 50).convert("RGB").save(file, "jpeg")
    return file.getvalue()


BROKEN = {
    "empty": ("x.png", b""),
    "text": ("x.jpg", b"this is no picture"),
    "cut short": ("x.jpg", jpeg()[: len(jpeg()) // 2]),
    "only a header": ("x.png", b"\x89PNG\r\n\x1a\n"),
    "bad chunks": ("x.png", b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\x0dIHDR" + b"\xff" * 40),
    "a web page": ("x.webp", b"<html>404</html>"),
}


@pytest.mark.parametrize(("name", "content"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("first", [True, False])
def test_a_corrupt_file_is_named(tmp_path: Path, pictures: Pictures, name: str, content: bytes, first: bool):
    root = pictures(tmp_path, [(8, 8)] * 2)
    path = root / "train" / ("cat" if first else "dog") / (name if not first else f"!{name}")
    path.write_bytes(content)
    source = folder(root, size=8)
    with pytest.raises(DataError) as raised:
        samples = source.open("train")
        for i in range(len(samples)):
            samples[i]
    assert str(path) in str(raised.value) and "remove the file" in str(raised.value)


def test_sizes_that_differ_are_refused_with_the_cure(tmp_path: Path, pictures: Pictures):
    samples = folder(pictures(tmp_path, [(8, 8), (9, 8)])).open("train")
    assert samples[0][0].shape == (8, 8, 3)
    with pytest.raises(DataError, match=r"\[8, 9, 3\].*\[8, 8, 3\].*data\.size"):
        samples[1]


def test_a_missing_folder_is_named_with_its_neighbours(tmp_path: Path, pictures: Pictures):
    root = pictures(tmp_path, [(8, 8)], parts=("train", "val"))
    with pytest.raises(DataError, match=r"data\.root: there is no folder") as raised:
        folder(root).open("test")
    assert str(root / "test") in str(raised.value)
    assert "['train', 'val']" in str(raised.value) and "data.test_part" in str(raised.value)
    assert len(folder(root, test_part="val").open("test")) == 2  # the cure
    with pytest.raises(DataError, match=r"data\.root: there is no folder"):
        folder(tmp_path / "nowhere").open("train")


def test_a_folder_without_classes_or_images_is_refused(tmp_path: Path, pictures: Pictures):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "bare" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "bare" / "train" / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "train").write_text("a file")
    for name in ("empty", "bare", "file"):
        with pytest.raises(DataError, match=r"data\.root: .*" + str(tmp_path / name / "train")):
            folder(tmp_path / name).open("train")
    with pytest.raises(DataError, match="1 class, but a classifier needs at least 2"):
        folder(pictures(tmp_path / "one", [(8, 8)], classes=("cat",))).open("train")


def test_a_part_of_one_tree_of_classes_is_tested_on(tmp_path: Path, pictures: Pictures):
    """Of every class the same share, drawn once; nothing is in both parts, and nothing is lost."""
    root = pictures(tmp_path, [(9, 8)] * 10, parts=("train",)) / "train"
    fields = {"source": "folder", "root": str(root), "size": 8, "store": str(tmp_path / "store")}
    data = Folder.model_validate(fields | {"test_share": 0.2})
    train, test = data.open("train"), data.open("test")
    assert (len(train), len(test), train.classes) == (16, 4, ("cat", "dog"))
    assert np.bincount(test.labels).tolist() == [2, 2]
    pixels = [[part[i][0].tobytes() for i in range(len(part))] for part in (train, test)]
    assert len({*pixels[0], *pixels[1]}) == 20
    again = Folder.model_validate(fields | {"test_share": 0.2, "split_seed": 1}).open("test")
    assert [again[i][0].tobytes() for i in range(4)] == pixels[1], "no training image becomes one to test on"
    assert Folder.model_validate(data.model_dump(), strict=False) == data, "as a job is read from its record"
    splits = {split: len(part) for split, part in split_samples(data).items()}
    assert splits == {"train": 14, "validation": 2, "test": 4}
    assert folder_of(data) != folder_of(Folder.model_validate(fields | {"test_share": 0.3}))
    with pytest.raises(DataError, match=r"data\.test_share: 0\.01 of the 10 images of cat leaves none"):
        Folder.model_validate(fields | {"test_share": 0.01}).open("train")
    with pytest.raises(ValidationError, match="test_share: cuts the test part out of root itself; leave train_part"):
        Folder.model_validate(fields | {"test_share": 0.2, "test_part": "val"})


def test_what_is_left_out_of_one_tree_is_told_once(tmp_path: Path, pictures: Pictures):
    root = pictures(tmp_path, [(8, 8)] * 10, parts=("train",)) / "train"
    (root / "cat" / "notes.txt").write_text("no image")
    data = Folder.model_validate({"source": "folder", "root": str(root), "validation": 0.25, "test_share": 0.2})
    told = [part.remark() for part in split_samples(data).values()]
    assert [text.count("left out: 1 of a kind that is not read (.txt)") for text in told] == [0, 1, 0]


def test_images_that_are_added_leave_the_test_part_as_it_was(tmp_path: Path, pictures: Pictures):
    root = pictures(tmp_path, [(9, 8)] * 20, parts=("train",)) / "train"
    data = Folder.model_validate({"source": "folder", "root": str(root), "size": 8, "test_share": 0.3})
    before = {path for path in data._tree("test").paths}
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 9, 9)).save(root / "cat" / f"new{number}.png")
    after = {path for path in data._tree("test").paths}
    assert len(before) == 12 and len(before - after) <= 3 and len(after & before) >= 9


def test_a_folder_that_is_parted_and_one_that_is_not_are_told_apart(tmp_path: Path, pictures: Pictures):
    root = pictures(tmp_path, [(8, 8)] * 4)
    with pytest.raises(DataError, match=r"data\.test_share: .* holds train and test, so it is parted; leave it out"):
        Folder.model_validate({"source": "folder", "root": str(root), "test_share": 0.3}).open("train")
    with pytest.raises(DataError, match=r"\['cat', 'dog'\]; .* or, where these are the classes, data\.test_share"):
        Folder.model_validate({"source": "folder", "root": str(root / "train")}).open("train")


def test_the_fingerprint_of_a_folder_follows_its_files(tmp_path: Path, pictures: Pictures):
    root = pictures(tmp_path / "a", [(8, 8)] * 2)
    source = folder(root)
    first = source.fingerprint()
    assert first and first == source.fingerprint()
    path = root / "train" / "cat" / "000.png"
    os.utime(path, ns=(1, 1))
    touched = source.fingerprint()
    path.unlink()
    assert len({first, touched, source.fingerprint()}) == 3
    assert folder(tmp_path / "elsewhere").fingerprint() == ""


def test_sources_are_told_apart_by_name_and_refuse_the_fields_of_others():
    adapter: TypeAdapter = TypeAdapter(DataSource)
    for document, kind in (
        ({"source": "digits"}, Digits),
        ({"source": "cifar100", "root": "x"}, TorchvisionData),
        ({"source": "folder", "root": "x", "size": 32}, Folder),
    ):
        source = adapter.validate_python(document)
        assert type(source) is kind and adapter.validate_json(adapter.dump_json(source)) == source
    for document in (
        {"source": "imagenet"}, {"source": "digits", "root": "x"}, {"source": "mnist", "size": 3}, {"source": "folder"},
        {"source": "digits", "validation": 0.0}, {"source": "digits", "validation": 1.0},
        {"source": "digits", "limit": 9},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            adapter.validate_python(document)

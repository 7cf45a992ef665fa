"""What is tested on was not trained on: parts that overlap, by name, through a link or by content, are refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distrib.config.file import parse
from distrib.data.packing import prepare
from distrib.data.source import Folder
from distrib.errors import DataError, JobError

Pictures = Callable[..., Path]


def of(root: Path, store: Path, **fields: object) -> Folder:
    return Folder.model_validate(
        {"source": "folder", "root": str(root), "store": str(store), "validation": 0.25} | fields
    )


def pack(data: Folder, said: list[str] | None = None) -> Path:
    return prepare(data, "memory", {}, "", (said if said is not None else []).append)


@pytest.mark.parametrize("test", ["train", "./train/", "train/cat", ".", "x/../train"])
def test_a_job_that_tests_on_what_it_trains_on_is_refused(test: str):
    job = {"kind": "prepare", "data": {"source": "folder", "root": "images", "test_part": test}}
    with pytest.raises(
        JobError, match=r"data\.test_part: .* and train_part 'train' hold the same images; .*name another"
    ):
        parse(job, [], "here")


@pytest.mark.parametrize("beyond", ["", "cat"])
def test_the_same_folder_through_a_link_is_refused_before_anything_is_read(
    tmp_path: Path, pictures: Pictures, beyond: str
):
    root = pictures(tmp_path / "images", [(8, 8)] * 4, parts=("train",))
    (root / "test").symlink_to(root / "train" / beyond)
    with pytest.raises(DataError, match=r"data\.test_part: .*test and .*train are the same images, through a link"):
        pack(of(root, tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_images_packed_before_are_no_way_round_it(tmp_path: Path, pictures: Pictures):
    root = pictures(tmp_path / "images", [(8, 8)] * 4)
    pack(of(root, tmp_path / "store"))
    shutil.rmtree(root / "test")
    (root / "test").symlink_to(root / "train")
    with pytest.raises(DataError, match="through a link"):
        pack(of(root, tmp_path / "store"))


def twenty(root: Path, again: int) -> Path:
    """Twenty test images, of which ``again`` are train images too, as files of another kind and in the other class."""
    for part, first in (("train", 0), ("test", 100)):
        for number in range(20):
            folder = root / part / ("cat" if number < 10 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), first + number, np.uint8)).save(folder / f"{number}.png")
    for number in range(again):
        (root / "test" / "cat" / f"{number}.png").unlink()
        Image.fromarray(np.full((4, 4), 19 - number, np.uint8)).save(root / "test" / "cat" / f"{number}.bmp")
    return root


def test_a_few_images_that_are_in_both_parts_are_told(tmp_path: Path):
    said: list[str] = []
    pack(of(twenty(tmp_path / "none", 0), tmp_path / "store"), said)
    assert not any("equal" in text for text in said)
    pack(of(twenty(tmp_path / "two", 2), tmp_path / "store"), said)
    assert "data: 2 of 20 test images are equal, pixel for pixel, to images of the train part" in said


def test_more_than_a_few_are_refused_with_their_number(tmp_path: Path):
    """Held-out images count as well: they chose the checkpoint."""
    root = twenty(tmp_path / "three", 3)
    with pytest.raises(
        DataError, match=r"three/test: 3 of 20 test images are equal.*at most 10% are allowed; take them"
    ):
        pack(of(root, tmp_path / "store"))
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    with pytest.raises(DataError, match=r"three/test: 20 of 20 test images"):
        pack(of(root, tmp_path / "store"))
    assert list((tmp_path / "store").iterdir()) == []


def test_images_that_are_stored_larger_are_known_by_what_a_network_sees_of_them(tmp_path: Path, pictures: Pictures):
    root = pictures(tmp_path / "images", [(40, 30)] * 8)
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    with pytest.raises(DataError, match=r"images/test: 16 of 16 test images are equal"):
        pack(of(root, tmp_path / "store", size=16, resize=20))

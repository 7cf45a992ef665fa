"""Frozen sets: what is in them is found by index; what is not a set, or cheats, is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distrib.errors import DataError
from distrib.evaluation import frozen


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def write(folder: Path, **tensors: Tensor) -> Path:
    save_file(tensors, folder / frozen.SET)
    return folder


def test_images_are_found_by_their_index_in_any_order(tmp_path: Path):
    x = images()
    folder = write(tmp_path, x_adv=x, index=torch.tensor([40, 10, 30, 20, 60, 50]))
    assert torch.equal(frozen.stored_images(folder, torch.tensor([10, 60, 40])), x[[1, 4, 0]])
    assert torch.equal(frozen.stored_images(folder / frozen.SET, torch.tensor([30])), x[[2]])
    with pytest.raises(DataError, match="holds 6 images, but not that of test image 11"):
        frozen.stored_images(folder, torch.tensor([10, 11]))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x_adv": images().half(), "index": torch.arange(6)}, "must be float32"),
        ({"x_adv": images()[:, 0], "index": torch.arange(6)}, "must be float32"),
        ({"x_adv": images(), "index": torch.tensor([0, 1, 2, 3, 4, 4])}, "5 different indices of 6"),
        ({"x_adv": images(), "index": torch.arange(5)}, "6 images"),
        ({"x_adv": images()}, "needs the tensors x_adv and index"),
        ({"images": images(), "index": torch.arange(6)}, "needs the tensors x_adv and index"),
    ],
)
def test_what_is_no_set_is_refused(tmp_path: Path, tensors: dict[str, Tensor], words: str):
    with pytest.raises(DataError, match=words):
        frozen.stored_images(write(tmp_path, **tensors), torch.arange(2))


def test_a_file_that_is_not_there_or_damaged_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such file"):
        frozen.identity(tmp_path)
    (tmp_path / frozen.SET).write_bytes(b"no tensors")
    with pytest.raises(DataError, match="not a set of images"):
        frozen.identity(tmp_path)

"""Crops, flips and holes: pixels are moved or blackened; each image's own draw; nothing unless asked for."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from distrib.data.augment import Augment
from distrib.noise import Noise

VARIED = [
    Augment(flip=True), Augment(crop_padding=2), Augment(crop_padding=3, flip=True), Augment(cutout=3),
    Augment(cutout=2, flip=True),
]  # fmt: skip
varied = pytest.mark.parametrize("augment", VARIED, ids=repr)
SHAPES = [(1, 8, 8), (3, 5, 7), (3, 1, 1)]


def images(shape: tuple[int, ...], count: int = 40) -> Tensor:
    """uint8, no pixel black (so padding can be told), all pixels of an image different where they fit."""
    values = torch.arange(count * torch.Size(shape).numel()).view(count, *shape)
    return (values % 255 + 1).to(torch.uint8)


def noise(index: list[int], epoch: int = 0) -> Noise:
    return Noise.of(torch.tensor(index, dtype=torch.int64), 0, "augment", epoch)


def windows(image: Tensor, augment: Augment) -> list[Tensor]:
    """Everything that this augmentation may make of one image ``[C, H, W]``."""
    pad, (height, width) = augment.crop_padding, image.shape[1:]
    padded = F.pad(image, [pad] * 4)
    cut = [padded[:, i : i + height, j : j + width] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
    cut += [window.flip(2) for window in cut] * augment.flip
    return [hidden for window in cut for hidden in holed(window, augment.cutout)]


def holed(image: Tensor, side: int) -> list[Tensor]:
    """``image`` with a square of ``side`` pixels blackened around each of its pixels in turn; itself, if side is 0."""
    if not side:
        return [image]
    found = []
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            found.append(image.clone())
            top, left = max(row - side // 2, 0), max(column - side // 2, 0)
            found[-1][:, top : row - side // 2 + side, left : column - side // 2 + side] = 0
    return found


@varied
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_image_is_a_window_of_itself(augment: Augment, shape: tuple[int, ...]):
    x = images(shape)
    out = augment(x, noise(list(range(40))))
    assert out.shape == x.shape and out.dtype == x.dtype
    assert out.stride() == torch.empty(out.shape).stride()
    for before, after in zip(x, out, strict=True):
        assert any(torch.equal(after, window) for window in windows(before, augment))


@varied
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.int64])
def test_any_dtype_is_kept_and_moved_alike(augment: Augment, dtype: torch.dtype):
    x = images((3, 5, 7))
    before = (typed := x.to(dtype)).clone()
    out = augment(typed, noise(list(range(40))))
    assert out.dtype == dtype and torch.equal(out, augment(x, noise(list(range(40)))).to(dtype))
    assert torch.equal(typed, before), "changed in place"


@varied
def test_an_image_does_not_depend_on_its_company(augment: Augment):
    x, index = images((1, 8, 8)), list(range(100, 140))
    whole = augment(x, noise(index))
    alone = torch.cat([augment(x[i : i + 1], noise(index[i : i + 1])) for i in range(40)])
    backwards = augment(x.flip(0), noise(index[::-1])).flip(0)
    assert torch.equal(whole, alone) and torch.equal(whole, backwards)
    assert torch.equal(whole, augment(x, noise(index))) and not torch.equal(whole, augment(x, noise(index, epoch=1)))


def test_all_windows_and_both_sides_come_up():
    """One image, many draws: each of the 25 windows, mirrored or not, about as often as it should."""
    augment = Augment(crop_padding=2, flip=True)
    image = images((1, 6, 6), 1)
    out = augment(image.expand(5000, -1, -1, -1), noise(list(range(5000))))
    counts = torch.tensor([int((out == window).flatten(1).all(1).sum()) for window in windows(image[0], augment)])
    assert counts.sum() == 5000 and (counts - 100).abs().max() < 50  # 5 deviations of a count of 100


@pytest.mark.parametrize("side", [1, 3, 4])
def test_all_holes_come_up(side: int):
    """One image, many draws: the hole lies around each of the 30 pixels about as often as it should."""
    image = images((3, 5, 6), 1)
    out = Augment(cutout=side)(image.expand(3000, -1, -1, -1), noise(list(range(3000))))
    places = holed(image[0], side)
    counts = torch.tensor([int((out == place).flatten(1).all(1).sum()) for place in places])
    alike = torch.tensor([sum(torch.equal(place, other) for other in places) for place in places])
    assert (counts - 100 * alike).abs().max() < 50 * alike.max() and (counts > 0).all()


def test_the_default_changes_nothing_and_draws_nothing():
    x, stream = images((3, 5, 7)), noise(list(range(40)))
    assert Augment()(x, stream) is x and stream.calls == 0


def test_no_images():
    assert Augment(crop_padding=2, flip=True, cutout=3)(images((3, 5, 7), 0), noise([])).shape == (0, 3, 5, 7)


@pytest.mark.parametrize(
    "fields", [{"crop_padding": -1}, {"crop_padding": 65}, {"crop_padding": 1.0}, {"flip": 1}, {"cutout": -1}]
)
def test_bad_fields_are_refused(fields: dict):
    with pytest.raises(ValidationError):
        Augment(**fields)

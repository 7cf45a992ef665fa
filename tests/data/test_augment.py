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
    Augment(cutout=2, flip=True), Augment(crop_shift=4), Augment(crop_shift=3, flip=True),
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
    if augment.crop_shift:
        sides = [image, image.flip(2)] if augment.flip else [image]
        return [window for side in sides for window in shifted(side, augment.crop_shift)]
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


def shifted(image: Tensor, most: int) -> list[Tensor]:
    """Every rectangle that ``most`` rows and columns off ``image`` leave, at every place on black where it fits."""
    height, width = image.shape[1:]
    found = []
    for rows in range(most + 1):
        for columns in range(most + 1 - rows):
            if rows >= height or columns >= width:
                found.append(torch.zeros_like(image))
                continue
            for top in range(rows + 1):
                for left in range(columns + 1):
                    kept = image[:, top : top + height - rows, left : left + width - columns]
                    for down in range(rows + 1):
                        for right in range(columns + 1):
                            found.append(F.pad(kept, [right, columns - right, down, rows - down]))
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


@pytest.mark.parametrize("pad", [0, 1])
def test_all_windows_of_a_larger_image_come_up(pad: int):
    """Of 7 x 6 pixels where 5 x 4 are trained on: each window, mirrored or not, about as often as it should."""
    image, size = images((3, 7, 6), 1), (5, 4)
    out = Augment(flip=True, crop_padding=pad)(image.expand(5000, -1, -1, -1), noise(list(range(5000))), size)
    padded, places = F.pad(image[0], [pad] * 4), range(3 + 2 * pad)
    cut = [padded[:, i : i + 5, j : j + 4] for i in places for j in places]
    counts = torch.tensor([
        int((out == window).flatten(1).all(1).sum()) for one in cut for window in (one, one.flip(2))
    ])  # fmt: skip
    assert out.shape == (5000, 3, 5, 4) and counts.sum() == 5000
    assert (counts - 5000 / len(counts)).abs().max() < 5 * (5000 / len(counts)) ** 0.5
    again = Augment()(image.expand(50, -1, -1, -1), noise(list(range(50))), size)
    assert all(any(torch.equal(one, window) for window in cut) for one in again) or pad, "without being asked for more"
    assert len({one.numpy().tobytes() for one in again}) > 5


def test_a_resized_crop_of_a_larger_image_is_as_large_as_it_shall_be():
    """On a slope of 10 levels a pixel: its windows are as steep as the share of the side that they are made of."""
    x = (torch.arange(24) * 10.0).expand(500, 1, 20, 24)
    out = Augment(resized_crop=0.25)(x, noise(list(range(500))), (10, 12))
    steps = (out[..., 1:] - out[..., :-1]).float().flatten(1)
    assert out.shape == (500, 1, 10, 12)
    assert 0.4 * 20 < steps.quantile(0.5, dim=1).min() < 0.5 * 20 and 19 <= steps.quantile(0.5, dim=1).max() <= 20


@pytest.mark.parametrize("side", [1, 3, 4])
def test_all_holes_come_up(side: int):
    """One image, many draws: the hole lies around each of the 30 pixels about as often as it should."""
    image = images((3, 5, 6), 1)
    out = Augment(cutout=side)(image.expand(3000, -1, -1, -1), noise(list(range(3000))))
    places = holed(image[0], side)
    counts = torch.tensor([int((out == place).flatten(1).all(1).sum()) for place in places])
    alike = torch.tensor([sum(torch.equal(place, other) for other in places) for place in places])
    assert (counts - 100 * alike).abs().max() < 50 * alike.max() and (counts > 0).all()


def test_all_shifts_come_up():
    """One image, many draws: every rectangle that a row or a column less leaves, at each of its places."""
    image = images((1, 4, 5), 1)
    out = Augment(crop_shift=1)(image.expand(4000, -1, -1, -1), noise(list(range(4000))))
    counts = [int((out == place).flatten(1).all(1).sum()) for place in shifted(image[0], 1)]
    assert sum(counts) == 4000 and abs(counts[0] - 2000) < 160  # nothing is cut off in one draw of two
    assert len(counts) == 9 and all(abs(count - 250) < 80 for count in counts[1:])


COLOURS = [Augment(brightness=0.3), Augment(contrast=0.5), Augment(saturation=0.5)]


@pytest.mark.parametrize("augment", COLOURS, ids=repr)
def test_colours_are_varied_as_far_as_they_may_be_and_no_further(augment: Augment):
    """What each keeps is kept, and what it moves by a factor is moved by one from its whole range."""
    x = (50 + images((3, 6, 6), 2000) % 100).float().round()
    out = augment(x, noise(list(range(2000))))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    own, now = (x * weights).sum(1, keepdim=True), (out * weights).sum(1, keepdim=True)
    if augment.brightness:
        factors, share = out.mean((1, 2, 3)) / x.mean((1, 2, 3)), 0.3
    elif augment.contrast:
        torch.testing.assert_close(own.mean((1, 2, 3)), now.mean((1, 2, 3)), rtol=0, atol=0.3)
        share = 0.5
        middle = own.mean((1, 2, 3), keepdim=True)
        factors = (out - middle).flatten(1).norm(dim=1) / (x - middle).flatten(1).norm(dim=1)
    else:
        torch.testing.assert_close(own, now, rtol=0, atol=1.0)
        factors, share = (out - own).flatten(1).norm(dim=1) / (x - own).flatten(1).norm(dim=1), 0.5
    assert 1 - share - 0.02 < factors.min() < 1 - 0.9 * share and 1 + 0.9 * share < factors.max() < 1 + share + 0.02
    assert abs(factors.mean() - 1) < 0.05


@pytest.mark.parametrize("augment", [*COLOURS, Augment(brightness=0.2, contrast=0.2, saturation=0.2, flip=True)])
def test_colours_are_each_image_s_own_on_whole_levels(augment: Augment):
    x, index = images((3, 8, 8)), list(range(100, 140))
    whole = augment(x, noise(index))
    alone = torch.cat([augment(x[i : i + 1], noise(index[i : i + 1])) for i in range(40)])
    assert whole.dtype == torch.uint8 and torch.equal(whole, alone) and not torch.equal(whole, x)
    assert not torch.equal(whole, augment(x, noise(index, epoch=1)))


def test_a_resized_crop_is_a_window_of_the_image_enlarged():
    """On a slope: each window is a slope too, from within the image's ends, as steep as its share of the side."""
    height, width = 12, 16
    rows, columns = torch.meshgrid(torch.arange(height) * 10.0, torch.arange(width) * 10.0, indexing="ij")
    x = torch.stack([rows, columns]).expand(3000, -1, -1, -1)
    out = Augment(resized_crop=0.25)(x, noise(list(range(3000))))
    inner = out[:, :, 2:-2, 2:-2]  # beyond the middles of the outermost pixels there is no slope
    shares = torch.stack([
        (inner[:, 0, -1, 0] - inner[:, 0, 0, 0]) / (10.0 * (height - 5)),
        (inner[:, 1, 0, -1] - inner[:, 1, 0, 0]) / (10.0 * (width - 5)),
    ])  # fmt: skip
    assert out.shape == x.shape and out.min() >= 0 and out.max() <= 150
    assert (inner[:, 0, :, 1:] == inner[:, 0, :, :-1]).all() and (inner[:, 1, 1:] == inner[:, 1, :-1]).all()
    area, ratio = shares.prod(0), shares[1] / shares[0]
    assert 0.2 < area.min() < 0.28 and 0.9 < area.max() < 1.05
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.4
    first = inner[:, 0, 0, 0]
    assert first.min() < 25 and first.max() > 60, "the windows lie anywhere"


def test_a_resized_crop_is_each_image_s_own():
    x, index, augment = images((3, 8, 8)), list(range(100, 140)), Augment(resized_crop=0.3)
    whole = augment(x, noise(index))
    alone = torch.cat([augment(x[i : i + 1], noise(index[i : i + 1])) for i in range(40)])
    assert whole.dtype == torch.uint8 and torch.equal(whole, alone)
    assert not torch.equal(whole, augment(x, noise(index, epoch=1)))


def test_grey_has_no_saturation():
    x = images((1, 8, 8))
    assert torch.equal(Augment(saturation=0.9)(x, noise(list(range(40)))), x)


def test_the_default_changes_nothing_and_draws_nothing():
    x, stream = images((3, 5, 7)), noise(list(range(40)))
    assert Augment()(x, stream) is x and stream.calls == 0


def test_no_images():
    assert Augment(crop_padding=2, flip=True, cutout=3)(images((3, 5, 7), 0), noise([])).shape == (0, 3, 5, 7)


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_padding": -1},
        {"crop_padding": 65},
        {"crop_padding": 1.0},
        {"flip": 1},
        {"cutout": -1},
        {"crop_shift": -1},
        {"crop_shift": 2, "crop_padding": 2},
        {"brightness": 1.0},
        {"contrast": -0.1},
        {"resized_crop": 0.0},
    ],
)
def test_bad_fields_are_refused(fields: dict):
    with pytest.raises(ValidationError):
        Augment(**fields)

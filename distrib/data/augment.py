"""Random crops, flips, holes and colours: functions of (seed, epoch, sample), never of who loads it, or when."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from distrib.noise import Noise
from distrib.values import Value

Jitter = Annotated[float, Field(ge=0, lt=1)]
Alpha = Annotated[float, Field(ge=0, le=100)]


class Augment(Value):
    """How training images are varied. The default is: not at all."""

    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    """Pad by so many black pixels on each side, then cut out a random window of the size that is trained on."""
    crop_shift: Annotated[int, Field(ge=0, le=64)] = 0
    """Cut up to so many rows and columns in all off the sides, and put what is left at a random place on black
    (CropShift, Li and Spratling, arXiv 2301.09879); instead of crop_padding."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2, drawn anew every epoch."""
    cutout: Annotated[int, Field(ge=0, le=64)] = 0
    """Blacken a square of so many pixels a side around a random pixel, as far as it lies in the image (DeVries and
    Taylor, arXiv 1708.04552)."""

    resized_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Cut out a window of at least this share of the stored image's area, its sides up to 4:3 to each other, and resize
    it to the size that is trained on, bilinear (Szegedy et al., arXiv 1409.4842, who take 0.08); 1: none."""
    brightness: Jitter = 0.0
    """How far each image's brightness is varied: all its numbers times a draw from 1 - brightness to 1 + brightness."""
    contrast: Jitter = 0.0
    """The same of the distance of every pixel from the image's mean grey."""
    saturation: Jitter = 0.0
    """The same of the distance of every pixel from its own grey; nothing happens to grey images."""

    mixup: Alpha = 0.0
    """Fade each image into another one of the batch, the labels alike: what remains of it is drawn from Beta(mixup,
    mixup) (Zhang et al., arXiv 1710.09412; 0.2, or 0.8 where cutmix is 1); 0: none."""
    cutmix: Alpha = 0.0
    """Put a rectangle of another one of the batch into each image, the labels by area: what remains is drawn from
    Beta(cutmix, cutmix) (Yun et al., arXiv 1905.04899, who take 1); 0: none. With mixup, each image meets one of the
    two."""

    @model_validator(mode="after")
    def _one_crop(self) -> "Augment":
        if self.crop_shift and self.crop_padding:
            raise ValueError("crop_shift: crop_padding shifts and cuts as well; leave one of the two out")
        return self

    def __call__(self, x: Tensor, noise: Noise, size: tuple[int, int] | None = None) -> Tensor:
        """Varied images: ``x`` ``[B, C, H, W]``, numbers from 0 to 255 of any dtype -> the same dtype.

        Their rows and columns are ``size``, H and W or less (None: H and W). Where no resized_crop makes them so, a
        window is cut at a random place.
        """
        size = size or (x.shape[2], x.shape[3])
        if self.brightness or self.contrast or self.saturation:
            x = self._coloured(x, noise)
        if self.resized_crop < 1:
            x = self._resized(x, noise, size)
        if self.flip or self.crop_padding or self.crop_shift or x.shape[2:] != size:
            x = self._window(x, noise, size)
        return x.masked_fill(self._hole(x, noise), 0) if self.cutout else x

    def _coloured(self, x: Tensor, noise: Noise) -> Tensor:
        """Brightness, contrast and saturation in this order, on whole levels again as images are stored."""
        pixels = x.float()

        def factor(share: float) -> Tensor:
            return 1 + share * (2 * noise.uniform((1, 1, 1)) - 1)

        if self.brightness:
            pixels = (pixels * factor(self.brightness)).clamp(0, 255)
        if self.contrast:
            middle = _grey(pixels).mean((1, 2, 3), keepdim=True)
            pixels = (middle + (pixels - middle) * factor(self.contrast)).clamp(0, 255)
        if self.saturation:
            grey = _grey(pixels)
            pixels = (grey + (pixels - grey) * factor(self.saturation)).clamp(0, 255)
        return pixels.round().to(x.dtype)

    def _resized(self, x: Tensor, noise: Noise, size: tuple[int, int]) -> Tensor:
        """Windows of random area, sides and place, each resized to ``size``; on whole levels again."""
        area = self.resized_crop + (1 - self.resized_crop) * noise.uniform(())
        ratio = torch.exp((2 * noise.uniform(()) - 1) * math.log(4 / 3))
        scales = [(area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)]  # of the width, the height
        shifts = [(1 - scale) * (2 * noise.uniform(()) - 1) for scale in scales]  # the image reaches from -1 to 1
        move = x.new_zeros(len(x), 2, 3, dtype=torch.float32)
        for axis, (scale, shift) in enumerate(zip(scales, shifts, strict=True)):
            move[:, axis, axis], move[:, axis, 2] = scale, shift
        grid = F.affine_grid(move, [*x.shape[:2], *size], align_corners=False)
        return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False).round().to(x.dtype)

    def _window(self, x: Tensor, noise: Noise, size: tuple[int, int]) -> Tensor:
        batch, channels = x.shape[:2]
        height, width = size
        spare = [2 * self.crop_padding + have - want for have, want in zip(x.shape[2:], size, strict=True)]
        pixels = x.permute(0, 2, 3, 1)  # whole, as images are stored: they are taken as such
        rows = torch.arange(height, device=x.device).expand(batch, height)
        columns = torch.arange(width, device=x.device).expand(batch, width)
        if self.flip:
            mirrored = noise.integers(2)[:, None].bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
        if self.crop_padding:
            pixels = F.pad(pixels, [0, 0] + [self.crop_padding] * 4)
        if any(spare):
            rows = rows + noise.integers(spare[0] + 1)[:, None]
            columns = columns + noise.integers(spare[1] + 1)[:, None]
        if self.crop_shift:
            pixels = F.pad(pixels, [0, 0, 0, 1, 0, 1])  # one black row and column, behind the others
            cut = noise.integers(self.crop_shift + 1)
            of_rows = _up_to(noise, cut)
            rows, columns = _shifted(rows, of_rows, noise), _shifted(columns, cut - of_rows, noise)
        rows = rows + torch.arange(batch, device=x.device)[:, None] * pixels.shape[1]
        places = rows[:, :, None] * pixels.shape[2] + columns[:, None, :]
        # index_select copies a pixel at once, indexing each of its numbers by itself
        varied = pixels.reshape(-1, channels).index_select(0, places.flatten())
        varied = varied.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return varied.clone(memory_format=torch.contiguous_format)  # contiguous() keeps the strides of one channel

    def _hole(self, x: Tensor, noise: Noise) -> Tensor:
        """Which pixels are blackened, ``[B, 1, H, W]`` bool."""
        inside = []
        for size in x.shape[2:]:
            first = noise.integers(size)[:, None] - self.cutout // 2
            place = torch.arange(size, device=x.device)
            inside.append((place >= first) & (place < first + self.cutout))
        rows, columns = inside
        return (rows[:, :, None] & columns[:, None, :])[:, None]


def _grey(pixels: Tensor) -> Tensor:
    """``[B, 1, H, W]``: the luma of ITU-R BT.601, of one channel itself."""
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    return (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _up_to(noise: Noise, most: Tensor) -> Tensor:
    """A draw from 0 to ``most`` ``[B]`` for each sample."""
    return (noise.uniform(()) * (most + 1)).long()


def _shifted(places: Tensor, cut: Tensor, noise: Noise) -> Tensor:
    """``places`` ``[B, N]`` less ``cut`` ``[B]`` of them at the ends, the rest moved as one; N (black) elsewhere."""
    count = places.shape[1]
    first, target = _up_to(noise, cut)[:, None], _up_to(noise, cut)[:, None]
    position = torch.arange(count, device=places.device) - target
    inside = (position >= 0) & (position < count - cut[:, None])
    return torch.where(inside, places.gather(1, (position + first).clamp(0, count - 1)), count)

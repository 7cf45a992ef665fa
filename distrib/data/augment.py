"""Random crops, flips and holes, each a function of (seed, epoch, sample): never of who loads the sample, or when."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distrib.noise import Noise
from distrib.values import Value


class Augment(Value):
    """How training images are varied. The default is: not at all."""

    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    """Pad by so many black pixels on each side, then cut out a random window of the image's own size."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2, drawn anew every epoch."""
    cutout: Annotated[int, Field(ge=0, le=64)] = 0
    """Blacken a square of so many pixels a side around a random pixel, as far as it lies in the image (DeVries and
    Taylor, arXiv 1708.04552)."""

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        """Varied images: ``x`` ``[B, C, H, W]`` of any dtype -> the same shape and dtype."""
        if self.flip or self.crop_padding:
            x = self._window(x, noise)
        return x.masked_fill(self._hole(x, noise), 0) if self.cutout else x

    def _window(self, x: Tensor, noise: Noise) -> Tensor:
        batch, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1)  # whole, as images are stored: they are taken as such
        rows = torch.arange(height, device=x.device).expand(batch, height)
        columns = torch.arange(width, device=x.device).expand(batch, width)
        if self.flip:
            mirrored = noise.integers(2)[:, None].bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
        if self.crop_padding:
            pixels = F.pad(pixels, [0, 0] + [self.crop_padding] * 4)
            rows = rows + noise.integers(2 * self.crop_padding + 1)[:, None]
            columns = columns + noise.integers(2 * self.crop_padding + 1)[:, None]
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

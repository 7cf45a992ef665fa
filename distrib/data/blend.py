"""Images blended with their neighbours in the global batch, and their labels too: MixUp and CutMix.

Which images are neighbours is a matter of the order, how much of each remains one of (seed, epoch, sample): any number
of workers makes the same images.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distrib.noise import Noise

QUANTILES = 4096
"""So many equally likely shares of an image, in place of a draw from the whole range."""


@dataclass
class Blend:
    """MixUp (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899); where both are set, each image
    meets one of them, drawn anew."""

    mixup: float
    """Alpha of the Beta distribution of what remains of each image; 0: no MixUp."""
    cutmix: float
    """The same of the area that remains; 0: no CutMix."""
    num_classes: int
    device: torch.device = torch.device("cpu")
    shares: dict[float, Tensor] = field(init=False)

    def __post_init__(self):
        from scipy.special import betaincinv  # here: no worker shall wait for it that needs none of it

        places = (np.arange(QUANTILES) + 0.5) / QUANTILES
        self.shares = {
            alpha: torch.from_numpy(betaincinv(alpha, alpha, places)).float().to(self.device)
            for alpha in (self.mixup, self.cutmix)
            if alpha
        }

    def __call__(self, x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """All images but the first, each blended with the one before it: float32 ``[B, C, H, W]``, and ``[B, K]``, the
        share of each class in it.

        ``x`` float32 ``[B + 1, C, H, W]``, ``y`` int64 ``[B + 1]``; ``noise`` is that of the images but the first.
        """
        fade = noise.uniform((1, 1, 1)) < (0.5 if self.mixup and self.cutmix else float(self.mixup > 0))
        hole = _rectangle(1 - self._remains(self.cutmix, noise), x.shape[2:], noise)
        remains = torch.where(fade, self._remains(self.mixup, noise).view(-1, 1, 1, 1), 1 - hole.float())
        share = remains.mean((1, 2, 3))[:, None]  # of a rectangle, as the border may have cut it
        classes = F.one_hot(y, self.num_classes).float()
        return torch.lerp(x[:-1], x[1:], remains), torch.lerp(classes[:-1], classes[1:], share)

    def _remains(self, alpha: float, noise: Noise) -> Tensor:
        """A draw from Beta(alpha, alpha) for each sample; 1 where alpha is 0."""
        place = (noise.uniform(()) * QUANTILES).long()
        return self.shares[alpha][place] if alpha else torch.ones_like(place, dtype=torch.float32)


def _rectangle(area: Tensor, size: torch.Size, noise: Noise) -> Tensor:
    """Which pixels lie in a rectangle of the image's form around a random pixel, ``[B, 1, H, W]``.

    It has the share ``area`` ``[B]`` of the image's area, as far as it lies within.
    """
    inside = []
    for length in size:
        side = (length * area.sqrt()).round().long()[:, None]
        first = noise.integers(length)[:, None] - side // 2
        place = torch.arange(length, device=area.device)
        inside.append((place >= first) & (place < first + side))
    rows, columns = inside
    return (rows[:, :, None] & columns[:, None, :])[:, None]

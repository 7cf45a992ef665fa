"""A GPU that does not exist, whose copies come late, and a reader that overwrites its buffers meanwhile."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from distrib.data.loader import Raw

GPU = torch.device("cuda")
IMAGES = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 2, 2, 1) + 1
LABELS = torch.arange(7) * 10


class Overwriting:
    """Reads as FFCV does: every batch lies in the same buffers, until the next one is asked for."""

    def read(self, order: np.ndarray, batch_size: int) -> Iterator[Raw]:
        image, label, index = IMAGES[:batch_size].clone(), LABELS[:batch_size].clone(), torch.zeros(batch_size).long()
        for rows in torch.from_numpy(order).split(batch_size):
            for buffer, content in ((image, IMAGES[rows]), (label, LABELS[rows]), (index, rows)):
                buffer[: len(rows)] = content
            yield Raw(image[: len(rows)], label[: len(rows)], index[: len(rows)])
        for buffer in (image, label, index):
            buffer.zero_()


class Late:
    """A GPU's copies: each is made when somebody waits for it, or at the end, from what its source holds by then."""

    def __init__(self):
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def copy(self, source: Tensor) -> Tensor:
        target = torch.full_like(source, 99)
        self.waiting.append((target, source))
        return target

    def made(self, copies: list[tuple[Tensor, Tensor]]) -> None:
        """Makes those of ``copies`` that were not made yet."""
        asked = set(map(id, copies))
        for target, source in (one for one in self.waiting if id(one) in asked):
            target.copy_(source)
        self.waiting = [one for one in self.waiting if id(one) not in asked]

    def start(self, held: list[Tensor], device: torch.device):
        copies = [self.copy(part) for part in held]
        mine = self.waiting[-len(held) :]
        return copies, lambda: self.made(mine)

    def start_one(self, number: Tensor):
        (copy,), wait = self.start([number], GPU)
        return copy, wait

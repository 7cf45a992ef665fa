"""Batches on their way to a GPU, by pinned memory of our own: a reader may overwrite its buffers at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Copies = tuple[list[Tensor], Callable[[], object]]
"""The tensors on the device, which may be filled later, and a function that waits until they are."""

SLOTS = 2
"""Batches that may be under way at a time."""


def _start(held: list[Tensor], device: torch.device) -> Copies:
    copies = [part.to(device, non_blocking=True) for part in held]
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(device))
    return copies, done.synchronize


def _pinned(part: Tensor) -> Tensor:
    return torch.empty_like(part).pin_memory()


class Staging:
    """Takes batches to a device; copies to a GPU run beside its computation.

    FFCV pins the buffers that it decodes into, so that copying from them to a GPU is asynchronous, and decodes a later
    batch into them as soon as the next one is asked for, whether or not the copy was made. So a batch is first copied
    into a buffer of this object, which is used again only when its own copy to the device is done.
    """

    def __init__(
        self,
        device: torch.device,
        start: Callable[[list[Tensor], torch.device], Copies] = _start,
        buffer: Callable[[Tensor], Tensor] = _pinned,
    ):
        self.device, self.start, self.buffer = device, start, buffer
        self.held: list[list[Tensor]] = [[] for _ in range(SLOTS)]
        self.wait: list[Callable[[], object]] = [lambda: None for _ in range(SLOTS)]
        self.turn = 0

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The same tensors on the device; on the CPU those that were given."""
        if self.device.type == "cpu":
            return list(parts)
        slot, self.turn = self.turn, (self.turn + 1) % SLOTS
        self.wait[slot]()
        if not self._fit(self.held[slot], parts):
            self.held[slot] = [self.buffer(part) for part in parts]
        views = [whole[: len(part)] for whole, part in zip(self.held[slot], parts, strict=True)]
        for view, part in zip(views, parts, strict=True):
            view.copy_(part)
        copies, self.wait[slot] = self.start(views, self.device)
        return copies

    def _fit(self, held: list[Tensor], parts: Sequence[Tensor]) -> bool:
        """Whether the parts find room in what is held: the last batch of an epoch is smaller."""
        return len(held) == len(parts) and all(
            whole.dtype == part.dtype and whole.shape[1:] == part.shape[1:] and len(whole) >= len(part)
            for whole, part in zip(held, parts, strict=True)
        )

"""Betons flowing: batches on the device, pixels as float32 in [0, 1], in an order that distrib owns.

Two readers keep one contract, ``read(order, batch_size)``: FFCV, and a whole split in memory. Both give identical
batches. Augmentation and conversion happen here in torch, on the device, because FFCV's own augmentations cannot be
seeded.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from distrib.data.augment import Augment
from distrib.data.beton import Beton
from distrib.data.blend import Blend
from distrib.data.order import Portion, bounds, global_batches
from distrib.data.staging import Staging
from distrib.data.writer import compiled, ffcv_usable, threads_kept
from distrib.errors import DataError
from distrib.noise import Noise
from distrib.world import World

LoaderName = Literal["auto", "ffcv", "memory"]

FEW = 4096
"""Images of an order up to which FFCV is run by Python, at 10 us a digit: to compile it takes over a second."""


class Raw(NamedTuple):
    """Samples as they are stored."""

    image: Tensor
    """uint8 ``[B, H, W, C]``; may be a view that the next read overwrites."""
    label: Tensor
    """int64 ``[B]``."""
    index: Tensor
    """int64 ``[B]``: the sample's place in its split."""


class Batch(NamedTuple):
    """Samples as the rest of distrib sees them, on the device."""

    x: Tensor
    """float32 ``[B, C, H, W]`` in [0, 1]."""
    y: Tensor
    """int64 ``[B]``; of blended images float32 ``[B, K]``, the share of each class."""
    index: Tensor
    """int64 ``[B]``: the sample's place in its split."""


class Reader(Protocol):
    """Samples of one split, in any order."""

    def read(self, order: np.ndarray, batch_size: int) -> Iterator[Raw]:
        """The samples ``order`` (int64), in that order, in batches of ``batch_size`` (the last may be smaller)."""
        ...


class FfcvReader:
    """Reads a ``.beton`` with FFCV, which decodes ahead in threads of its own."""

    def __init__(self, beton: Beton, threads: int = 1, few: int = FEW):
        self.beton = beton
        self.threads = threads
        self.few = few
        self.loaders: dict[tuple[int, int], Any] = {}

    def _loader(self, order: np.ndarray, batch_size: int):
        from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import Squeeze, ToTensor

        key = (len(order), batch_size)
        if key not in self.loaders:
            decoder = NDArrayDecoder() if self.beton.card.encoding == "array" else SimpleRGBImageDecoder()
            number = lambda: [IntDecoder(), ToTensor(), Squeeze(1)]  # noqa: E731
            with compiled(len(order) > self.few):
                self.loaders[key] = Loader(
                    str(self.beton.path), batch_size=batch_size, num_workers=self.threads, os_cache=True,
                    order=OrderOption.SEQUENTIAL, indices=order.tolist(), drop_last=False, seed=0,
                    pipelines={"image": [decoder, ToTensor()], "label": number(), "index": number()},
                )  # fmt: skip
        loader = self.loaders[key]
        loader.indices = order
        loader.traversal_order.indices = order
        return loader

    def read(self, order: np.ndarray, batch_size: int) -> Iterator[Raw]:
        """See :class:`Reader`."""
        if len(order) == 0:
            return
        with threads_kept():
            epoch = iter(self._loader(order.astype(np.uint64), batch_size))
        try:
            for image, label, index in epoch:
                yield Raw(image, label, index)
        finally:  # left early, its thread would live on and hold the buffers (ffcv issues 345, 393)
            epoch.close()
            epoch.iter_ixes = iter(())  # no further batch; what is ready is taken away, so that it is never stuck
            for _ in range(1000):
                with suppress(Empty):
                    epoch.output_queue.get_nowait()
                epoch.join(timeout=0.01)
                if not epoch.is_alive():
                    break


class MemoryReader:
    """Holds a whole split in memory."""

    def __init__(self, beton: Beton):
        if beton.card.file.endswith(".beton"):
            everything = np.arange(beton.card.count)
            parts = [Raw(*(part.clone() for part in raw)) for raw in FfcvReader(beton).read(everything, 512)]
            self.image, self.label = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        else:
            from safetensors.torch import load_file

            tensors = load_file(beton.path)
            self.image, self.label = tensors["image"], tensors["label"]

    def read(self, order: np.ndarray, batch_size: int) -> Iterator[Raw]:
        """See :class:`Reader`."""
        for rows in torch.from_numpy(order).split(batch_size) if len(order) else ():
            yield Raw(self.image[rows], self.label[rows], rows)


def resolve(name: LoaderName) -> Literal["ffcv", "memory"]:
    """The reader that ``auto`` stands for here. Raises :class:`DataError` if ffcv is demanded but not usable."""
    if name == "ffcv" and not ffcv_usable():
        raise DataError("loader: ffcv cannot be imported here; run distrib doctor, or set loader: auto or memory")
    if name == "auto":
        return "ffcv" if ffcv_usable() else "memory"
    return name


def open_reader(beton: Beton, name: LoaderName, threads: int = 1) -> Reader:
    """A reader of ``beton``. Raises :class:`DataError` where it is packed for FFCV and FFCV cannot be imported."""
    if beton.card.file.endswith(".beton") and not ffcv_usable():
        raise DataError(f"{beton.path}: FFCV cannot be imported here, so it cannot be read; run distrib doctor")
    packed_for_ffcv = beton.card.file.endswith(".beton")
    return FfcvReader(beton, threads) if resolve(name) == "ffcv" and packed_for_ffcv else MemoryReader(beton)


def to_device(raw: Raw, staging: Staging) -> Raw:
    """The batch on the device of ``staging``, channels first (``[B, C, H, W]``)."""
    image, label, index = staging(raw)
    return Raw(image.permute(0, 3, 1, 2), label, index)


def unit(image: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [0, 1], with the strides of a new tensor.

    A permuted image of one channel counts as contiguous: ``contiguous()`` would keep its strides, (784, 1, 28, 1), and
    ``x.view(len(x), -1)`` in a network would fail.
    """
    return image.to(torch.float32, memory_format=torch.contiguous_format) / 255


@dataclass
class TrainLoader:
    """The training split, epoch by epoch: this rank's slices of the global batches."""

    reader: Reader
    count: int
    seed: int
    batch_size: int
    """Of the global batch."""
    augment: Augment = field(default_factory=Augment)
    world: World = field(default_factory=World)
    mixed: Sequence[Portion] = ()
    """What every batch has a share of, whose images come behind the first ``count``."""
    num_classes: int = 0
    """Asked for where images are blended."""
    size: tuple[int, int] | None = None
    """Rows and columns of the windows that are cut out of the stored images; None: all of each."""

    def __post_init__(self):
        if self.count < self.batch_size:
            raise DataError(
                f"optim.batch_size: {self.batch_size} is more than the {self.count} training images there are"
            )
        self.staging = Staging(self.world.device)
        mixup, cutmix = self.augment.mixup, self.augment.cutmix
        self.blend = Blend(mixup, cutmix, self.num_classes, self.world.device) if mixup or cutmix else None

    @property
    def steps(self) -> int:
        """Global batches (so optimiser steps) an epoch."""
        return self.count // self.batch_size

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This rank's part of every global batch of ``epoch``: a function of (seed, epoch, rank, ranks)."""
        start, stop = bounds(self.batch_size, self.world.rank, self.world.size)
        columns = range(start - 1 if self.blend else start, stop)  # -1, before the first of a batch, is its last
        order = global_batches(self.count, self.seed, epoch, self.batch_size, self.mixed)[:, columns].reshape(-1)
        for raw in self.reader.read(order, len(columns)):
            image, y, index = to_device(raw, self.staging)
            noise = Noise.of(index, self.seed, "augment", epoch)
            x = unit(self.augment(image, noise, self.size))
            if self.blend is None:
                yield Batch(x, y.clone(), index.clone())
            else:
                x, shares = self.blend(x, y, Noise.of(index[1:], self.seed, "blend", epoch))
                yield Batch(x, shares, index[1:].clone())


def shard(reader: Reader, indices: np.ndarray, batch_size: int, world: World) -> Iterator[Batch]:
    """This rank's share of ``indices``, every one exactly once over all ranks, never padded, never augmented."""
    start, stop = bounds(len(indices), world.rank, world.size)
    staging = Staging(world.device)
    for raw in reader.read(indices[start:stop], batch_size):
        image, y, index = to_device(raw, staging)
        yield Batch(unit(image), y.clone(), index.clone())

"""Indexable images: uint8 ``[H, W, C]`` and an int label."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import numpy as np

from distrib.errors import DataError
from distrib.values import Value

Image = np.ndarray
"""uint8 ``[H, W, C]``."""


class Extra(Value):
    """Images of elsewhere behind a split's own."""

    name: str
    """The file or folder that they came from."""
    count: int


@dataclass(frozen=True)
class Samples:
    """One part of a data set: labels known beforehand, images read one by one, each checked as it is read."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    """int64 ``[N]``, in 0 .. len(classes) - 1."""
    image: Callable[[int], Image]
    """Index -> image. Raises :class:`DataError` that names what could not be read."""
    shape: tuple[int, int, int]
    """(H, W, C) of every image."""
    remark: Callable[[], str] = str
    """What was done with which files, once all were read; nothing where there is nothing to say."""
    mixed: tuple[Extra, ...] = ()
    """What the last of them are, if they come from elsewhere."""

    @property
    def own(self) -> int:
        """How many of them, the first ones, are the set's own."""
        return len(self) - sum(extra.count for extra in self.mixed)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Image, int]:
        image = self.image(i)
        if image.dtype != np.uint8 or image.shape != self.shape:
            raise DataError(
                f"{self.name}: image {i} is {image.dtype} {list(image.shape)}, but the others are uint8 "
                f"{list(self.shape)}; leave it out, or set data.size so that all are resized alike"
            )
        return np.ascontiguousarray(image), int(self.labels[i])

    def checked(self) -> "Samples":
        """Itself, if it can be a data set at all: not empty, labels in range."""
        if len(self) == 0:
            raise DataError(f"{self.name}: there are no images")
        if len(self.classes) < 2:
            raise DataError(f"{self.name}: {len(self.classes)} class, but a classifier needs at least 2")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            found = f"{self.labels.min()} .. {self.labels.max()}"
            raise DataError(f"{self.name}: labels must lie in 0 .. {len(self.classes) - 1}, and lie in {found}")
        return self


def in_memory(name: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Samples:
    """Samples over arrays: ``images`` uint8 ``[N, H, W, C]``, ``labels`` int64 ``[N]``."""
    return Samples(name, tuple(classes), labels, images.__getitem__, images.shape[1:]).checked()


def centred(samples: Samples, size: int | None) -> Samples:
    """The centre of every image, ``size`` pixels a side; None: all of it."""
    if size is None:
        return samples
    return replace(samples, image=partial(_centre, samples.image, size), shape=(size, size, samples.shape[2]))


def _centre(image: Callable[[int], Image], size: int, i: int) -> Image:
    return centre_of(image(i), (size, size))


def centre_of(image: Image, size: tuple[int, int]) -> Image:
    """The middle ``size`` (rows, columns) of an image that is as large or larger."""
    top, left = ((have - want) // 2 for have, want in zip(image.shape, size, strict=False))
    return image[top : top + size[0], left : left + size[1]]


def combined(own: Samples, extras: Sequence[Samples]) -> Samples:
    """``own``, and behind them the ``extras``, which are of the same classes and shape."""
    if not extras:
        return own
    parts = (own, *extras)
    starts = [0, *accumulate(len(part) for part in parts)]
    return replace(
        own,
        labels=np.concatenate([part.labels for part in parts]),
        image=partial(_of_parts, parts, starts),
        remark=lambda: "; ".join(filter(None, (part.remark() for part in parts))),
        mixed=tuple(Extra(name=part.name, count=len(part)) for part in extras),
    )


def _of_parts(parts: Sequence[Samples], starts: Sequence[int], i: int) -> Image:
    part = bisect_right(starts, i) - 1
    return parts[part].image(i - starts[part])

"""Which samples meet in which global batch: a function of (seed, epoch) alone, cut among the ranks.

One, two or eight workers see the same global batches in the same order; each takes its slice of every one. Where only
some images of a split are measured, which ones is a draw with the seed too.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np


class Portion(NamedTuple):
    """Images of elsewhere that every batch has some of."""

    count: int
    share: float
    """Of every batch."""


def epoch_order(count: int, seed: int, epoch: int, source: int = 0) -> np.ndarray:
    """A permutation of ``0 .. count - 1`` for this epoch, int64 ``[count]``; another one for each ``source``."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, source])).permutation(count)


def bounds(total: int, rank: int, size: int) -> tuple[int, int]:
    """The half-open range of ``0 .. total`` that falls to ``rank``; over all ranks they tile it without overlap."""
    return rank * total // size, (rank + 1) * total // size


def global_batches(count: int, seed: int, epoch: int, batch_size: int, mixed: Sequence[Portion] = ()) -> np.ndarray:
    """The samples of every whole global batch of this epoch, int64 ``[steps, batch_size]``.

    The last images of the permutation, which fill no batch, are left out: others in each epoch.

    Of ``mixed`` sources, whose images come behind the first ``count``, each batch has its share, and an epoch as many
    steps as without them. Each source is gone through whole, in an order of its own, before it begins again.
    """
    steps = count // batch_size
    if not mixed:
        return epoch_order(count, seed, epoch)[: steps * batch_size].reshape(steps, batch_size)
    counts, sizes = [count, *(part.count for part in mixed)], sizes_of(batch_size, [part.share for part in mixed])
    columns = [
        first + _stream(number, seed, source, epoch * steps * size, steps * size).reshape(steps, size)
        for source, (first, number, size) in enumerate(zip(accumulate([0, *counts]), counts, sizes, strict=False))
    ]
    # Every stretch of a batch, so every worker's part, has each source's share: within an image of each.
    places = np.argsort(np.concatenate([(np.arange(size) + 0.5) / size for size in sizes]), kind="stable")
    return np.concatenate(columns, axis=1)[:, places]


def sizes_of(batch_size: int, shares: Iterable[float]) -> list[int]:
    """How many images of a batch are the set's own, and how many those of each source that has a share of it."""
    sizes = [round(share * batch_size) for share in shares]
    return [batch_size - sum(sizes), *sizes]


def _stream(count: int, seed: int, source: int, start: int, length: int) -> np.ndarray:
    """``length`` samples from ``start`` on of a source's permutations, one behind the other."""
    rounds = range(start // count, (start + length - 1) // count + 1)
    endless = np.concatenate([epoch_order(count, seed, each, source) for each in rounds])
    return endless[start - rounds.start * count :][:length]


def chosen(count: int, n: int | None, seed: int) -> np.ndarray:
    """``n`` of the indices ``0 .. count - 1`` (None: all of them) in a random order; int64.

    A draw with the seed, not the first ones: a split that is sorted by class begins with images of one class. A smaller
    ``n`` takes the first of the same draw.
    """
    draw = np.random.Generator(np.random.Philox(key=[seed, 0xE7A1]))
    return draw.permutation(count)[: min(count, n or count)]

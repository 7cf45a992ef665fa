"""Which samples meet in which global batch: a function of (seed, epoch) alone, cut among the ranks.

One, two or eight workers see the same global batches in the same order; each takes its slice of every one. Where only
some images of a split are measured, which ones is a draw with the seed too.
"""

import numpy as np


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``0 .. count - 1`` for this epoch, int64 ``[count]``."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def bounds(total: int, rank: int, size: int) -> tuple[int, int]:
    """The half-open range of ``0 .. total`` that falls to ``rank``; over all ranks they tile it without overlap."""
    return rank * total // size, (rank + 1) * total // size


def global_batches(count: int, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """The samples of every whole global batch of this epoch, int64 ``[steps, batch_size]``.

    The last images of the permutation, which fill no batch, are left out: others in each epoch.
    """
    steps = count // batch_size
    return epoch_order(count, seed, epoch)[: steps * batch_size].reshape(steps, batch_size)


def chosen(count: int, n: int | None, seed: int) -> np.ndarray:
    """``n`` of the indices ``0 .. count - 1`` (None: all of them) in a random order; int64.

    A draw with the seed, not the first ones: a split that is sorted by class begins with images of one class. A smaller
    ``n`` takes the first of the same draw.
    """
    draw = np.random.Generator(np.random.Philox(key=[seed, 0xE7A1]))
    return draw.permutation(count)[: min(count, n or count)]

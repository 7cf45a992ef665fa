"""Which images of a data set's train part are trained on, and which are held out for validation."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from distrib.errors import DataError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation): sorted indices into ``labels`` ``[N]``, every class cut in the same proportion.

    A function of its arguments alone. Raises :class:`DataError` where a class has no image left for one of the two.
    """
    held_out = []
    for label, members in _shuffled(labels, seed):
        count = round(len(members) * fraction)
        if not 0 < count < len(members):
            raise DataError(
                f"data.validation: {fraction:g} of the {len(members)} images of class {label} leaves none on one side; "
                "choose another fraction, raise data.limit if it is set, or leave the class out"
            )
        held_out.append(members[:count])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def limited(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Sorted indices of about ``limit`` images, the same share of every class; of all, where there are no more.

    A function of its arguments alone. Raises :class:`DataError` where a class has none.
    """
    if limit >= len(labels):
        return np.arange(len(labels))
    chosen = []
    for label, members in _shuffled(labels, seed):
        count = round(len(members) * (limit / len(labels)))
        if count == 0:
            raise DataError(
                f"data.limit: {limit} of {len(labels)} images leaves none of the {len(members)} of class {label}; "
                "raise it, or leave the class out"
            )
        chosen.append(members[:count])
    return np.sort(np.concatenate(chosen))


def _shuffled(labels: np.ndarray, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Each label with the indices that have it, in an order that ``seed`` draws."""
    draw = np.random.Generator(np.random.Philox(key=[seed, 0x5EED]))
    for label in np.unique(labels):
        yield label, draw.permutation(np.flatnonzero(labels == label))

"""Which images of a data set's train part are trained on, and which are held out for validation."""

from typing import Literal

import numpy as np

from distrib.errors import DataError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation): sorted indices into ``labels`` ``[N]``, every class cut in the same proportion.

    A function of its arguments alone. Raises :class:`DataError` where a class has no image left for one of the two.
    """
    draw = np.random.Generator(np.random.Philox(key=[seed, 0x5EED]))
    held_out = []
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        count = round(len(members) * fraction)
        if not 0 < count < len(members):
            raise DataError(
                f"data.validation: {fraction:g} of the {len(members)} images of class {label} leaves none on one side; "
                "choose another fraction or leave the class out"
            )
        held_out.append(members[:count])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), validation), validation

"""A flag: something that speaks against believing an evaluation's figures, as a field of its result.

A blocking flag says that the figure is not to be used: no model is promoted on it. The others say where to look.
"""

import numpy as np

from distrib.evaluation.evidence import Evidence
from distrib.values import Value

FEWEST_IMAGES = 20
"""On fewer images no share is held against chance: of 2 images, one misclassified is "wrong labels" to the half."""
MOST_EXAMPLES = 20
"""So many examples are named in a flag."""


class Flag(Value):
    """Something that speaks against believing the figures."""

    name: str
    blocking: bool
    """The figure is not to be used, and no model is promoted on it."""
    detail: str
    examples: tuple[int, ...] = ()
    """Images that show it, as places in the test split; the first 20."""


def examples_of(evidence: Evidence, which: np.ndarray) -> tuple[int, ...]:
    """The first images that a mask selects, as places in the test split."""
    return tuple(evidence.index[which][:MOST_EXAMPLES].tolist())

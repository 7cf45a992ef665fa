"""Accuracy and confusion class by class: an average hides the class that every attack breaks."""

import numpy as np

from distrib.evaluation.evidence import Evidence, worst_case
from distrib.values import Value


class ClassFigures(Value):
    """What became of the images of one class, of those that every attack was asked for."""

    name: str
    n: int
    clean: int
    """Images that are classified rightly without an attack."""
    robust: int
    """Images that are classified rightly under every attack."""
    taken_for: tuple[tuple[str, int], ...]
    """(class, images) of the others, by the worst image that was found for each; the commonest first, of more than
    20 classes five."""

    @property
    def clean_accuracy(self) -> float:
        """The share that is classified rightly without an attack."""
        return self.clean / self.n

    @property
    def robust_accuracy(self) -> float:
        """The share that is classified rightly under every attack."""
        return self.robust / self.n


LARGEST_TABLE, MOST_CONFUSIONS = 20, 5
"""Classes: of more, a confusion table cannot be read, and each keeps the commonest confusions alone."""


def figures_by_class(evidence: Evidence) -> tuple[ClassFigures, ...]:
    """The figures of every class that has an image, in the order of the classes."""
    every, standing = worst_case(evidence)
    found = []
    for label in np.unique(evidence.label[every]).tolist():
        mine = every & (evidence.label == label)
        fell = evidence.attacked[mine & ~standing & (evidence.attacked != label)]
        others, counts = np.unique(fell, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        shown = order if evidence.num_classes <= LARGEST_TABLE else order[:MOST_CONFUSIONS]
        taken_for = tuple((evidence.called(int(others[i])), int(counts[i])) for i in shown)
        found.append(
            ClassFigures(
                name=evidence.called(label), n=int(mine.sum()), clean=int((mine & evidence.clean).sum()),
                robust=int((mine & standing).sum()), taken_for=taken_for,
            )
        )  # fmt: skip
    return tuple(found)


def images_in_words(evidence: Evidence) -> dict[int, str]:
    """For every image, by its place in the test split: its class, and what its worst image is taken for."""
    rows = zip(evidence.index.tolist(), evidence.label.tolist(), evidence.attacked.tolist(), strict=True)
    return {
        index: evidence.called(label) + (f", taken for {evidence.called(seen)}" if seen != label else "")
        for index, label, seen in rows
    }

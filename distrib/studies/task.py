"""What a worker needs to know to do any part of a study."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from distrib.data.beton import open_split
from distrib.data.loader import Batch, LoaderName
from distrib.data.order import chosen
from distrib.data.stage import staged
from distrib.evaluation.models import Subject
from distrib.evaluation.points import points
from distrib.values import Value


@dataclass(frozen=True)
class StudyTask:
    """A study, its models and its data."""

    study: Value
    subjects: dict[str, Subject]
    """Each model by its label."""
    data: Path
    loader: LoaderName
    threads: int
    cuda: bool
    stage: str | None = None
    """The folder of a worker's own disk that the data are copied into."""

    @property
    def device(self) -> torch.device:
        """Where the part is done."""
        return torch.device("cuda" if self.cuda else "cpu")

    def model(self, label: str) -> nn.Module:
        """The model, in evaluation mode."""
        torch.set_num_threads(self.threads)
        return self.subjects[label].load(self.device)

    def batch(self, n: int | None, seed: int, start: int, stop: int) -> Batch:
        """The test images from place ``start`` to ``stop`` of those that ``n`` and ``seed`` choose."""
        return points(
            staged(self.data, self.stage), self.loader, self.threads, self.order(n, seed)[start:stop], self.device
        )

    def order(self, n: int | None, seed: int) -> np.ndarray:
        """The test images that ``n`` and ``seed`` choose."""
        return chosen(open_split(self.data, "test", "evaluation").card.count, n, seed)


def starts(count: int, size: int) -> range:
    """Where each shard of ``size`` among ``count`` images begins."""
    return range(0, count, size)

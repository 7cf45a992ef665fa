"""What every study is: parts that workers carry out, one by one, and a conclusion from all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from distrib.config.job import Study, Train
from distrib.convolution import quickened
from distrib.data.beton import open_split
from distrib.data.loader import Batch, LoaderName
from distrib.data.order import chosen
from distrib.data.stage import staged
from distrib.evaluation.models import StoredModel
from distrib.evaluation.points import points
from distrib.precision import exact_float32
from distrib.processor import compute_with
from distrib.studies.findings import Findings


@dataclass(frozen=True)
class StudyTask:
    """The models and the data of a study, as a worker takes them up."""

    subjects: dict[str, StoredModel]
    """Each model by its label."""
    data: Path
    loader: LoaderName
    threads: int
    cuda: bool
    stage: str | None = None
    """The folder of a worker's own disk that the data are copied into."""

    @property
    def device(self) -> torch.device:
        """Where a part is carried out."""
        return torch.device("cuda" if self.cuda else "cpu")

    def model(self, label: str) -> nn.Module:
        """The model, in evaluation mode."""
        compute_with(self.threads)
        return quickened(self.subjects[label].load(self.device))

    def batch(self, n: int | None, seed: int, start: int, stop: int) -> Batch:
        """The test images from place ``start`` to ``stop`` of those that ``n`` and ``seed`` choose."""
        return points(
            staged(self.data, self.stage), self.loader, self.threads, self.order(n, seed)[start:stop], self.device
        )

    def order(self, n: int | None, seed: int) -> np.ndarray:
        """The test images that ``n`` and ``seed`` choose."""
        return chosen(open_split(self.data, "test", "evaluation").card.count, n, seed)


@dataclass(frozen=True)
class StudyFacts:
    """What a conclusion needs beside what the parts found."""

    num_classes: int
    source: str
    """The name of the job's data source."""
    fingerprints: dict[str, str]
    """Of each model by its label: models of one fingerprint are the same."""
    training_losses: dict[str, float]
    """The final training loss of each model that the study trained, by its label."""
    name: str = ""
    """Of the study's run."""
    trained_within: dict[str, tuple[str, float]] = field(default_factory=dict)
    """The norm and the epsilon that each model was trained within, by its label, where that is known."""

    def about(self, *measured: str) -> str:
        """What was ``measured``, on what, in which run: a line below the title of every plot."""
        return " · ".join([*measured, self.source, f"run {self.name}"])


class PaperStudy(Protocol):
    """One of the paper's studies. It is a small frozen value, so that every worker can be sent it."""

    def models(self, job: Study) -> Mapping[str, str | Train]:
        """Each model under study by its label: the address of one that exists, or the training that makes it."""
        ...

    def parts(self, count: int) -> list[tuple]:
        """What there is to do where the test split holds ``count`` images: a tuple for each call of :meth:`part`."""
        ...

    def part(self, task: StudyTask, which: tuple) -> dict:
        """What one part finds, in plain values: they are kept as JSON. It depends on nothing but its arguments."""
        ...

    def conclude(self, found: dict[tuple, dict], facts: StudyFacts) -> Findings:
        """What all parts show together; ``found`` holds the outcome of each, in the order of :meth:`parts`."""
        ...


@exact_float32()
def study_part(shared: tuple[PaperStudy, StudyTask], *which: object) -> dict:
    """One part of a study, on a worker, in exact float32."""
    study, task = shared
    return study.part(task, which)


def starts(count: int, n: int | None, size: int) -> range:
    """Where each shard of ``size`` images begins, among ``n`` (None: all) of ``count``."""
    return range(0, min(count, n or count), size)

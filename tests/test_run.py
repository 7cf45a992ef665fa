"""distrib.run: what a job hands on, without Ray and MLflow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from documents import job

from distrib import run
from distrib.data.beton import open_split
from distrib.data.loader import MemoryReader
from distrib.progress import Display


def test_the_input_example_of_a_version_is_not_the_first_images_of_the_first_class(
    sorted_by_class: Path, monkeypatch: pytest.MonkeyPatch
):
    """The stored model is compared with the original on it."""
    examples: list[np.ndarray] = []

    def register(entry, name, tracker):
        examples.append(entry.batch)
        return run.registry.Registered("t", "1", "champion")

    monkeypatch.setattr(run.registry, "register", register)
    monkeypatch.setattr(run, "_weights", lambda *arguments: None)
    nothing: dict = dict.fromkeys(("best", "card", "files", "tracker"))
    run._register(job(), **nothing, data=sorted_by_class, display=Display())
    reader = MemoryReader(open_split(sorted_by_class, "validation", "training"))
    images = reader.image.permute(0, 3, 1, 2).float() / 255
    labels = {int(reader.label[(images == image).flatten(1).all(1)][0]) for image in torch.from_numpy(examples[0])}
    assert len(examples[0]) == 4 and len(labels) > 1, labels

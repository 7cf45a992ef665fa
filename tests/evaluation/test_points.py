"""distrib.evaluation.points: the test images of an evaluation, by their places in the split."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distrib.data.beton import open_split
from distrib.data.loader import open_reader, shard
from distrib.evaluation import points as module
from distrib.evaluation.points import points
from distrib.world import World

CPU = torch.device("cpu")


def test_images_come_by_their_places_and_in_their_order(digits: Path):
    places = np.array([40, 3, 3, 449, 0])
    (whole,) = shard(open_reader(open_split(digits, "test", "evaluation"), "memory"), np.arange(450), 450, World())
    x, y, index = points(digits, "memory", 1, places, CPU)
    assert index.tolist() == places.tolist() and x.dtype == torch.float32 and x.shape == (5, 1, 8, 8)
    assert torch.equal(x, whole.x[places]) and torch.equal(y, whole.y[places])


def test_a_process_opens_the_split_once(digits: Path, monkeypatch: pytest.MonkeyPatch):
    """Ray gives many tasks to one process: each asks for its own images."""
    opened, original = [], module.open_reader
    monkeypatch.setattr(module, "open_reader", lambda *given: opened.append(given) or original(*given))
    module._reader.cache_clear()
    for start in (0, 10, 20):
        points(digits, "memory", 1, np.arange(start, start + 10), CPU)
    assert len(opened) == 1

"""The test images that a task judges."""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from distrib.data.beton import open_split
from distrib.data.loader import Batch, LoaderName, Reader, open_reader, shard
from distrib.world import World


def points(data: Path, loader: LoaderName, threads: int, indices: np.ndarray, device: torch.device) -> Batch:
    """The test images ``indices`` (places in the split) of the betons in ``data``, as one batch on ``device``."""
    (batch,) = shard(_reader(data, loader, threads), indices, len(indices), World(device=device))
    return batch


@cache
def _reader(data: Path, loader: LoaderName, threads: int) -> Reader:
    """Opened once in each process: Ray gives the tasks of one kind to the same few processes."""
    return open_reader(open_split(data, "test", "evaluation"), loader, threads)

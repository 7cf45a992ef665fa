"""Packed data as tests make, list and read them."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from distrib.data.beton import DataCard, open_split
from distrib.data.loader import Reader
from distrib.data.packing import Packing, prepare
from distrib.data.source import DataSource
from distrib.data.split import SPLITS, Split


def pack(data: DataSource, packing: Packing = "memory", said: list[str] | None = None) -> Path:
    return prepare(data, packing, {"kind": "prepare"}, "a digest", (said if said is not None else []).append)


def listing(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file below with its size, time of change and content."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_size, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }  # fmt: skip


def cards(folder: Path) -> dict[Split, DataCard]:
    return {split: open_split(folder, split, "evaluation").verify().card for split in SPLITS}


def everything(reader: Reader, count: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [(raw.image.clone(), raw.label.clone()) for raw in reader.read(np.arange(count), 64)]
    return tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True))

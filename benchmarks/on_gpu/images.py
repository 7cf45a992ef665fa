"""The images of a run: an archive of pictures, ``train/CLASS/*`` and ``test/CLASS/*``, or noise for a quick run.

They are packed for the in-memory loader, into a folder that is there whole or not at all.
"""

import io
import os
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from distrib import __version__
from distrib.data.beton import DataCard
from distrib.data.split import SPLITS, Split, stratified

SIDE = 8
"""Of the noise's images."""

Part = tuple[np.ndarray, np.ndarray]
"""Images uint8 ``[N, H, W, C]``, labels int64 ``[N]``."""


def unpack(archive: Path, folder: Path, held_out: float) -> None:
    """Packs the pictures of a tar archive, compressed or not; a share of ``train`` is held out for validation."""
    from PIL import Image

    parts: dict[str, list[tuple[str, np.ndarray]]] = defaultdict(list)
    with tarfile.open(archive) as tar:
        for member in tar:
            names = Path(member.name).parts
            if member.isfile() and len(names) > 2 and names[-3] in ("train", "test"):
                file = tar.extractfile(member)
                assert file is not None
                picture = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                parts[names[-3]].append((names[-2], picture))
    classes = sorted({label for part in parts.values() for label, _ in part})
    if set(parts) != {"train", "test"} or len(classes) < 2:
        raise ValueError(f"{archive}: expected pictures at train/CLASS/* and test/CLASS/* of two classes or more")
    train, test = (
        (np.stack([picture for _, picture in part]), np.array([classes.index(label) for label, _ in part]))
        for part in (parts["train"], parts["test"])
    )
    pack(folder, Origin(archive.name, classes, held_out), train, test)


def noise(folder: Path) -> None:
    """Packs a few images of noise, whose brightness tells their class."""
    draw = np.random.default_rng(0)

    def part(count: int) -> Part:
        labels = np.arange(count) % 10
        bright = labels[:, None, None, None] * 20
        return (draw.integers(0, 60, (count, SIDE, SIDE, 3)) + bright).astype(np.uint8), labels

    pack(folder, Origin("noise", [str(label) for label in range(10)], 0.1), part(120), part(40))


@dataclass(frozen=True)
class Origin:
    """Where images come from, their classes, and the share of ``train`` that is held out."""

    name: str
    classes: list[str]
    held_out: float


def pack(folder: Path, origin: Origin, train: Part, test: Part) -> None:
    """Writes the three splits and their cards."""
    kept, held_out = stratified(train[1], origin.held_out, 0)
    parts: dict[Split, Part] = {
        "train": (train[0][kept], train[1][kept]),
        "validation": (train[0][held_out], train[1][held_out]),
        "test": test,
    }
    channels = parts["train"][0].reshape(-1, 3)
    levels = np.stack([np.bincount(channels[:, one], minlength=256) for one in range(3)]) / len(channels)
    pixels = np.arange(256) / 255
    mean = levels @ pixels
    std = np.sqrt(levels @ pixels**2 - mean**2)
    aside = folder.with_name(f".{folder.name}")
    aside.mkdir(parents=True)
    for split in SPLITS:
        images, labels = parts[split]
        path = aside / f"{split}.safetensors"
        save_file({"image": torch.from_numpy(images), "label": torch.from_numpy(labels.astype(np.int64))}, path)
        card = DataCard(
            distrib_version=__version__, job={"origin": origin.name}, job_digest="", split=split, count=len(labels),
            classes=tuple(origin.classes), image=images.shape[1:], encoding="array", file=path.name,
            size_bytes=path.stat().st_size, sha256="", content_sha256="", mean=tuple(mean.tolist()),
            std=tuple(std.tolist()), fingerprint="",
        )  # fmt: skip
        (aside / f"{split}.json").write_text(card.model_dump_json())
    os.rename(aside, folder)


def some(count: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images of noise, labels and places, the same at every call and on every device."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, side, side, generator=draw)
    y = torch.randint(0, 10, (count,), generator=draw)
    return x.to(device), y.to(device), torch.arange(count, device=device)

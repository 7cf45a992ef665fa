"""Sources packed once, read ever after: a ``.beton`` (FFCV) and a card for each split.

    STORE/NAME-DIGEST/
        train.beton       validation.beton       test.beton
        train.json        validation.json        test.json      the cards

Where ffcv cannot be imported the same content is packed as ``.safetensors``, for the in-memory loader. The folder is
written aside and renamed, so it is there whole or not at all.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from distrib import __version__
from distrib.data.source import DataSource, Samples
from distrib.data.split import SPLITS, Split, stratified
from distrib.data.writer import Encoding, ffcv_usable, write_beton, write_tensors
from distrib.errors import DataError
from distrib.files import file_sha256, locked
from distrib.values import Value

Packing = Literal["ffcv", "memory"]

LARGE = 128 * 128
"""Pixels above which RGB images are packed as JPEG unless told otherwise."""
WAIT = 4 * 3600
"""Seconds that another process is waited for, which packs or copies the same data."""


class Card(Value):
    """What one packed split is, so that nobody has to guess, and so that damage shows."""

    distrib_version: str
    job: dict
    """The resolved job that wrote it (kind: prepare)."""
    job_digest: str
    split: Split
    count: int
    classes: tuple[str, ...]
    image: tuple[int, int, int]
    """(H, W, C)."""
    encoding: Encoding
    file: str
    size_bytes: int
    sha256: str
    """Of the file."""
    content_sha256: str
    """Of pixels and labels in order, before any encoding: the identity of the data, however it is packed."""
    mean: tuple[float, ...]
    """Per channel, pixels in [0, 1], measured on the train split (on every card)."""
    std: tuple[float, ...]
    fingerprint: str
    """Of the source's files when they were read; empty if unknown."""


@dataclass(frozen=True)
class Beton:
    """A packed split on disk."""

    folder: Path
    card: Card

    @property
    def path(self) -> Path:
        """The file that holds the samples."""
        return self.folder / self.card.file

    def verify(self) -> "Beton":
        """Itself, if the file is the one that its card describes. Reads the whole file.

        Raises :class:`DataError` where it is missing, shorter or longer, or changed.
        """
        cure = f"delete {self.folder} and run the job again to prepare it anew"
        if not self.path.is_file():
            raise DataError(f"{self.path}: the file is missing; {cure}")
        if self.path.stat().st_size != self.card.size_bytes:
            raise DataError(
                f"{self.path}: {self.path.stat().st_size} bytes, but its card says {self.card.size_bytes}; {cure}"
            )
        if file_sha256(self.path) != self.card.sha256:
            raise DataError(f"{self.path}: its sha256 is not the one on its card: the file has changed; {cure}")
        return self


def folder_of(data: DataSource) -> Path:
    """Where the betons of ``data`` live: a function of what shapes the content, not of where it is kept."""
    elsewhere = {"store", "download"} if data.source == "folder" else {"store", "download", "root"}
    content = data.model_dump(mode="json", exclude=elsewhere)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Path(data.store).absolute() / f"{data.source}-{digest[:12]}"


def open_split(folder: Path, split: Split, purpose: Literal["training", "evaluation"]) -> Beton:
    """The packed split and its card. Training cannot open the test split, whoever asks.

    Raises :class:`DataError` where the folder or card is missing or no card.
    """
    if purpose == "training" and split == "test":
        raise DataError("the test split cannot be opened for training: it is for the end evaluation alone")
    path = folder / f"{split}.json"
    cure = f"delete {folder} and run the job again to prepare it anew"
    try:
        card = Card.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        cure = cure if folder.is_dir() else "run the job that prepares the data (kind: prepare) first"
        raise DataError(f"{path}: there is no card; {cure}") from None
    except (OSError, ValidationError) as error:
        raise DataError(f"{path}: not a card ({str(error).splitlines()[0]}); {cure}") from None
    if card.split != split:
        raise DataError(f"{path}: the card of the {card.split} split; {cure}")
    return Beton(folder, card)


def prepare(data: DataSource, packing: Packing, job: dict, job_digest: str, say: Callable[[str], None]) -> Path:
    """The folder with every split of ``data``, packed now unless it is there already and its card still matches.

    ``job`` is the resolved prepare job that the cards keep. Nothing is left half-written. Raises :class:`DataError`.
    """
    folder = folder_of(data)
    if _ready(folder, data, packing, say):  # without a lock: a store may be read-only
        return folder
    samples = _cut(data)
    with _alone(folder, say):
        for left in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        if not _ready(folder, data, packing, say):  # another process may have packed them meanwhile
            _check_space(folder, samples)
            try:
                _pack(folder, samples, data, packing, job, job_digest, say)
            except OSError as error:
                raise DataError(
                    f"data.store: {error.filename or folder.parent} could not be written ({error.strerror or error}); "
                    "make room there, or choose another folder"
                ) from None
    return folder


def _ready(folder: Path, data: DataSource, packing: Packing, say: Callable[[str], None]) -> bool:
    stale = _stale(folder, data, packing) if folder.is_dir() else ""
    if stale is None:
        say(f"data: {folder} (already prepared)")
    return stale is None


@contextmanager
def _alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Nobody else packs these data meanwhile; who does is waited for."""
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.parent / f".{folder.name}.lock"
            try:
                stack.enter_context(locked(lock, 0, remove=True))
            except BlockingIOError:
                say(f"data: another process is packing {folder}; waiting for it")
                stack.enter_context(locked(lock, WAIT, remove=True))
        except OSError as error:
            raise DataError(
                f"data.store: {folder.parent} cannot be written to, or not be locked ({error.strerror}); choose "
                "another folder"
            ) from None
        yield


def _pack(
    folder: Path,
    samples: dict[Split, Samples],
    data: DataSource,
    packing: Packing,
    job: dict,
    job_digest: str,
    say: Callable[[str], None],
) -> None:
    if folder.is_dir():
        say(f"data: preparing {folder} anew: {_stale(folder, data, packing)}")
    train = samples["train"]
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        hashes, moments = {}, None
        for split, part in samples.items():  # every sample is read once before anything is written
            hashes[split], found = _survey(part)
            moments = found if split == "train" else moments
        assert moments is not None
        fingerprint = data.fingerprint()
        for split, part in samples.items():
            if part.classes != train.classes:
                other = ", ".join(sorted(set(part.classes) ^ set(train.classes))) or "their order"
                raise DataError(f"{part.name}: other classes than {train.name} ({other}); mend the folders")
            if part.shape != train.shape:
                raise DataError(
                    f"{part.name}: images {list(part.shape)}, but {train.name} has {list(train.shape)}; set data.size"
                )
            encoding = _encoding(data, split, part.shape)
            path = aside / f"{split}.{'beton' if packing == 'ffcv' else 'safetensors'}"
            if packing == "ffcv":
                write_beton(path, part, encoding, data.jpeg_quality)
            else:
                encoding = "array"
                write_tensors(path, part)
            card = Card(
                distrib_version=__version__, job=job, job_digest=job_digest, split=split, count=len(part),
                classes=part.classes, image=part.shape, encoding=encoding, file=path.name,
                size_bytes=path.stat().st_size, sha256=file_sha256(path), content_sha256=hashes[split],
                mean=moments[0], std=moments[1], fingerprint=fingerprint,
            )  # fmt: skip
            (aside / f"{split}.json").write_text(card.model_dump_json(indent=2))
            say(f"data: {split}: {len(part)} images {'x'.join(map(str, part.shape))}, {encoding}, {path.name}")
        if folder.is_dir():
            shutil.rmtree(folder)
        for path in (aside, *aside.iterdir()):  # the temporary folder was for its owner alone
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _stale(folder: Path, data: DataSource, packing: Packing) -> str | None:
    """Why the folder must be prepared anew, or None if it can be used as it is. Raises where it is damaged."""
    fingerprint = data.fingerprint()
    for split in SPLITS:
        card = open_split(folder, split, "evaluation").verify().card
        if packing == "memory" and card.file.endswith(".beton") and not ffcv_usable():
            return "it is packed for FFCV, which cannot be imported here"
        if packing == "ffcv" and not card.file.endswith(".beton"):
            return "it was packed without FFCV"
        if fingerprint and card.fingerprint != fingerprint:
            return "the source's files have changed"
    return None


def _cut(data: DataSource) -> dict[Split, Samples]:
    """The three splits of a source."""
    whole, test = data.open("train"), data.open("test")
    chosen = np.arange(len(whole))
    if data.limit is not None and data.limit < len(whole):
        _, chosen = stratified(whole.labels, data.limit / len(whole), data.split_seed)
    train, validation = stratified(whole.labels[chosen], data.validation, data.split_seed)
    return {
        "train": _subset(whole, chosen[train], "train"),
        "validation": _subset(whole, chosen[validation], "validation"),
        "test": test,
    }


def _subset(samples: Samples, chosen: np.ndarray, name: str) -> Samples:
    return Samples(
        f"{samples.name} ({name})", samples.classes, samples.labels[chosen],
        partial(_indirect, samples.image, chosen), samples.shape,
    )  # fmt: skip


def _indirect(image: Callable[[int], np.ndarray], chosen: np.ndarray, i: int) -> np.ndarray:
    return image(int(chosen[i]))


def _survey(samples: Samples) -> tuple[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Reads every sample: (content sha256, (mean, std) per channel). Raises where one cannot be read."""
    seen = hashlib.sha256()
    total = np.zeros(samples.shape[2])
    squares = np.zeros(samples.shape[2])
    for i in range(len(samples)):
        image, label = samples[i]
        seen.update(image.tobytes() + label.to_bytes(8, "little"))
        pixels = image.reshape(-1, samples.shape[2]) / 255.0
        total += pixels.mean(axis=0)
        squares += (pixels**2).mean(axis=0)
    mean = total / len(samples)
    std = np.sqrt(np.maximum(squares / len(samples) - mean**2, 0))
    return seen.hexdigest(), (tuple(mean.tolist()), tuple(std.tolist()))


def _encoding(data: DataSource, split: Split, shape: tuple[int, int, int]) -> Encoding:
    large = shape[2] == 3 and shape[0] * shape[1] > LARGE
    if data.encoding == "jpeg" and shape[2] != 3:
        raise DataError(f"data.encoding: jpeg is for RGB, but these images have {shape[2]} channel(s); use raw")
    if split == "train" and (data.encoding == "jpeg" or (data.encoding == "auto" and large)):
        return "rgb-jpeg"
    return "rgb-raw" if large else "array"


def _check_space(folder: Path, samples: dict[Split, Samples]) -> None:
    """Refuses early what would not fit: packing may take hours."""
    needed = sum(len(part) * (int(np.prod(part.shape)) + 64) for part in samples.values()) + 3 * (1 << 24)
    parent = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise DataError(f"data.store: {parent} has {free >> 20} MiB free, but up to {needed >> 20} MiB are needed")

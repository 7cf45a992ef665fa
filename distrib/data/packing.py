"""A source's splits packed once, each in a file with its card: the folder is found, or written now.

Where ffcv cannot be imported the same content is packed for the in-memory loader. The folder is written aside and
renamed, so it is there whole or not at all.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from distrib import __version__
from distrib.data.beton import DataCard, open_split
from distrib.data.samples import Samples
from distrib.data.source import DataSource
from distrib.data.split import SPLITS, Split
from distrib.data.survey import Survey, split_samples, surveyed
from distrib.data.writer import Encoding, ffcv_usable, write_beton, write_tensors
from distrib.errors import DataError
from distrib.files import file_sha256, locked, write_bytes

Packing = Literal["ffcv", "memory"]

LARGE = 128 * 128
"""Pixels above which RGB images are packed as JPEG unless told otherwise."""
NOT_NAMED = ("folder", "huggingface")
"""Sources that are what lies in a place: the last that was packed of it is the set, where the place is not here."""
WAIT = 4 * 3600
"""Seconds to wait for another process that packs or copies the same data."""


def folder_of(data: DataSource) -> Path:
    """Where the betons of ``data`` are, or would be: a function of what shapes the content, not of where it is kept.

    A name or a place may hold another content than before or elsewhere (MNIST's form, for one, is also that of other
    sets), so each content has a folder of its own, and no other content replaces it under a run that reads it. The same
    images in another packing do, for FFCV or for memory. Where the source is not on this machine, what is packed is
    taken, of a folder's contents the last one. Raises :class:`DataError` where different sets of one name are packed.
    """
    return _folder_of(data, data.fingerprint())


def _folder_of(data: DataSource, fingerprint: str) -> Path:
    base = _base(data)
    there = _there(base)
    cards = {folder: card for folder in there if (card := _card(folder)) is not None}
    if fingerprint:
        free = base.with_name(f"{base.name}-{fingerprint[:8]}") if there else base
        return next((folder for folder, card in cards.items() if card.fingerprint == fingerprint), free)
    if data.source in NOT_NAMED and cards:
        return max(cards, key=lambda folder: (folder / "train.json").stat().st_mtime_ns)
    if len({card.content_sha256 for card in cards.values()}) > 1:
        raise DataError(
            f"data.root: the set is not on this machine, and different ones are packed ({', '.join(map(str, cards))}); "
            "put the files back, or delete all but one of these folders"
        )
    return there[0] if there else base


def _base(data: DataSource) -> Path:
    elsewhere = {"store", "download"} if data.source in NOT_NAMED else {"store", "download", "root"}
    unused = {
        field for field in ("mix", "resize", "test_share", "labels") if not getattr(data, field, None)
    }  # as before there were any
    content = data.model_dump(mode="json", exclude=elsewhere | unused)
    for one in content.get("mix", ()):
        del one["share"]  # says how the images are used, not which they are
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Path(data.store).absolute() / f"{data.source}-{digest[:12]}"


def _there(base: Path) -> list[Path]:
    """The folders of every content that is packed."""
    try:
        return [folder for folder in (base, *sorted(base.parent.glob(f"{base.name}-*"))) if folder.is_dir()]
    except OSError as error:
        raise DataError(
            f"data.store: {base.parent} cannot be looked into ({error.strerror}); choose another folder"
        ) from None


def _card(folder: Path) -> DataCard | None:
    try:
        return open_split(folder, "train", "evaluation").card
    except DataError:  # whoever wants this folder is told
        return None


def prepare(data: DataSource, packing: Packing, job: dict, job_digest: str, say: Callable[[str], None]) -> Path:
    """The folder with every split of ``data``, packed now unless it is there already and its card still matches.

    ``job`` is the resolved prepare job that the cards keep. Nothing is left half-written. Raises :class:`DataError`.
    """
    fingerprint = data.fingerprint()
    folder = _folder_of(data, fingerprint)
    if _ready(folder, packing, say):  # without a lock: a store may be read-only
        return folder
    samples, base = split_samples(data), _base(data)
    with ExitStack() as stack:
        try:
            stack.enter_context(_alone(base, say))
        except ReadOnly:  # its cards may be of older code, or the source's files touched, and the images the same
            same = _same(base, samples, surveyed(samples, say), packing) if _there(base) else None
            if same is None:
                raise
            say(f"data: {same} is taken: it holds the same images")
            return same
        for left in base.parent.glob(f".{base.name}-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        fingerprint = data.fingerprint()  # it may have been downloaded just now, or packed by another process meanwhile
        folder = _folder_of(data, fingerprint)
        if _ready(folder, packing, say):
            return folder
        _check_space(folder, samples)
        try:
            return _packed(_Order(data, packing, job, job_digest, say), folder, fingerprint, samples)
        except OSError as error:
            raise DataError(
                f"data.store: {error.filename or folder.parent} could not be written ({error.strerror or error}); make "
                "room there, or choose another folder"
            ) from None


def _ready(folder: Path, packing: Packing, say: Callable[[str], None]) -> bool:
    stale = _stale(folder, packing) if folder.is_dir() else ""
    if stale is None:
        say(f"data: {folder} (already prepared)")
    return stale is None


class ReadOnly(DataError):
    """The store cannot be written to: it serves for what is packed in it."""


@contextmanager
def _alone(base: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keeps other processes from packing these data meanwhile; waits for one that does."""
    with ExitStack() as stack:
        try:
            base.parent.mkdir(parents=True, exist_ok=True)
            lock = base.parent / f".{base.name}.lock"
            try:
                stack.enter_context(locked(lock, 0, remove=True))
            except BlockingIOError:
                say(f"data: another process is packing {base}; waiting for it")
                stack.enter_context(locked(lock, WAIT, remove=True))
        except OSError as error:
            kind = ReadOnly if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else DataError
            raise kind(
                f"data.store: {base.parent} cannot be written to, or not be locked ({error.strerror}); choose "
                "another folder"
            ) from None
        yield


@dataclass(frozen=True)
class _Order:
    """What is packed and how, the job that the cards keep, and who is told."""

    data: DataSource
    packing: Packing
    job: dict
    job_digest: str
    say: Callable[[str], None]


def _packed(order: _Order, folder: Path, fingerprint: str, samples: dict[Split, Samples]) -> Path:
    """The folder, written now, or one that holds the same images."""
    base = _base(order.data)
    if folder.is_dir():
        order.say(f"data: preparing {folder} anew: {_stale(folder, order.packing)}")
    elif others := _there(base):
        order.say(f"data: the source's files have changed, or are others than those of {', '.join(map(str, others))}")
    surveys = surveyed(samples, order.say)
    if (same := _same(base, samples, surveys, order.packing)) is not None:
        order.say(f"data: {same} is taken: it holds the same images")
        _recognise(same, fingerprint)
        return same
    aside = Path(tempfile.mkdtemp(prefix=f".{base.name}-", dir=folder.parent))
    try:
        _write(order, aside, fingerprint, samples, surveys)
        if order.data.fingerprint() != fingerprint:
            raise DataError("data.root: files changed while they were packed; run the job again when they do not")
        if folder.is_dir():
            shutil.rmtree(folder)
        for path in (aside, *aside.iterdir()):  # the temporary folder was for its owner alone
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _write(
    order: _Order, aside: Path, fingerprint: str, samples: dict[Split, Samples], surveys: dict[Split, Survey]
) -> None:
    """Writes every split and its card."""
    for split, part in samples.items():
        encoding = _encoding(order.data, split, part.shape)
        path = aside / f"{split}.{'beton' if order.packing == 'ffcv' else 'safetensors'}"
        if order.packing == "ffcv":
            write_beton(path, part, encoding, order.data.jpeg_quality)
        else:
            encoding = "array"
            write_tensors(path, part)
        card = DataCard(
            distrib_version=__version__, job=order.job, job_digest=order.job_digest, split=split, count=len(part),
            classes=part.classes, image=samples["test"].shape,
            stored=None if part.shape == samples["test"].shape else part.shape[:2], encoding=encoding, file=path.name,
            size_bytes=path.stat().st_size, sha256=file_sha256(path), content_sha256=surveys[split].content_sha256,
            mean=surveys["train"].mean, std=surveys["train"].std, fingerprint=fingerprint, mixed=part.mixed,
        )  # fmt: skip
        (aside / f"{split}.json").write_text(card.model_dump_json(indent=2))
        mixed = "".join(f", {extra.count} of them from {extra.name}" for extra in part.mixed)
        order.say(f"data: {split}: {len(part)} images {'x'.join(map(str, part.shape))}, {encoding}, {path.name}{mixed}")


def _same(base: Path, samples: dict[Split, Samples], surveys: dict[Split, Survey], packing: Packing) -> Path | None:
    """A packed folder that holds these images already: files are touched, copied and moved without being changed."""
    for folder in _there(base):
        with suppress(DataError):  # damaged: no use
            cards = [open_split(folder, split, "evaluation").verify().card for split in SPLITS]
            if all(
                card.content_sha256 == surveys[card.split].content_sha256
                and card.classes == samples[card.split].classes
                and _unfit(card, packing) is None
                for card in cards
            ):
                return folder
    return None


def _recognise(folder: Path, fingerprint: str) -> None:
    """Notes on the cards that these files hold the same images; where the store is read-only it is found out again."""
    with suppress(OSError):
        for split in SPLITS:
            card = open_split(folder, split, "evaluation").card.model_copy(update={"fingerprint": fingerprint})
            write_bytes(folder / f"{split}.json", card.model_dump_json(indent=2).encode())


def _stale(folder: Path, packing: Packing) -> str | None:
    """Why the folder must be prepared anew, or None if it can be used as it is. Raises where it is damaged."""
    for split in SPLITS:
        card = open_split(folder, split, "evaluation").verify().card
        if (unfit := _unfit(card, packing)) is not None:
            return unfit
    return None


def _unfit(card: DataCard, packing: Packing) -> str | None:
    if packing == "memory" and card.file.endswith(".beton") and not ffcv_usable():
        return "it is packed for FFCV, which cannot be imported here"
    if packing == "ffcv" and not card.file.endswith(".beton"):
        return "it was packed without FFCV"
    return None


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

"""Packed data copied once to a machine's own disk: reading at random over a network file system is slow."""

import os
import shutil
import tempfile
from pathlib import Path

from distrib.data.beton import DataCard, open_split
from distrib.data.packing import WAIT
from distrib.data.split import SPLITS
from distrib.errors import DataError
from distrib.files import locked


def staged(data: Path, stage: str | None) -> Path:
    """The folder to read the betons of ``data`` from, on this machine: itself, or its copy in ``stage``, made now.

    A copy is made by one process, aside, checked against the cards' sha256, and renamed; one whose cards are those of
    ``data`` is taken as it is. Raises :class:`DataError` where it cannot be made, or ``data`` is not seen from here.
    """
    if stage is None:
        return data
    room, copy = Path(stage).absolute(), Path(stage).absolute() / data.name
    cards = [open_split(data, split, "evaluation").card for split in SPLITS]
    try:
        room.mkdir(parents=True, exist_ok=True)
        with locked(room / f".{data.name}.lock", WAIT):
            if not _whole(copy, cards):
                for left in room.glob(f".{data.name}-*"):  # of a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                _copy(data, copy)
    except OSError as error:
        raise DataError(
            f"cluster.stage: {data} cannot be copied to {room} ({error.strerror or error}); name a folder that can be "
            "written to, with room for it"
        ) from None
    return copy


def _whole(copy: Path, cards: list[DataCard]) -> bool:
    """Whether the copy has these cards, and files as long as they say."""
    try:
        found = [open_split(copy, split, "evaluation") for split in SPLITS]
        return [_content(one.card) for one in found] == [_content(card) for card in cards] and all(
            one.path.stat().st_size == one.card.size_bytes for one in found
        )
    except (DataError, OSError):
        return False


def _content(card: DataCard) -> DataCard:
    return card.model_copy(update={"fingerprint": ""})  # of files elsewhere, which may be touched without a change


def _copy(data: Path, copy: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{data.name}-", dir=copy.parent))
    try:
        for split in SPLITS:
            card = open_split(data, split, "evaluation").card
            for name in (card.file, f"{split}.json"):
                shutil.copyfile(data / name, aside / name)
            open_split(aside, split, "evaluation").verify()
        aside.chmod(0o755)
        shutil.rmtree(copy, ignore_errors=True)
        os.rename(aside, copy)
    finally:
        shutil.rmtree(aside, ignore_errors=True)

"""A packed split: a ``.beton`` (FFCV) or a ``.safetensors`` (in memory), and the card that says what it is.

STORE/NAME-DIGEST/
    train.beton       validation.beton       test.beton
    train.json        validation.json        test.json      the cards
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from distrib.data.samples import Extra
from distrib.data.split import Split
from distrib.data.writer import Encoding
from distrib.errors import DataError
from distrib.files import file_sha256
from distrib.values import Value


class DataCard(Value):
    """What one packed split is, so that nobody has to guess, and so that damage shows."""

    distrib_version: str
    job: dict
    """The resolved job that wrote it (kind: prepare)."""
    job_digest: str
    split: Split
    count: int
    classes: tuple[str, ...]
    image: tuple[int, int, int]
    """(H, W, C), as networks see them."""
    stored: tuple[int, int] | None = None
    """(H, W) in the file, where windows of them are what is trained on."""
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
    """Of the source's files when they were last found to hold these images; empty if unknown."""
    mixed: tuple[Extra, ...] = ()
    """What the last of the images are, if they come from elsewhere."""

    @property
    def own(self) -> int:
        """How many of the images, the first ones, are the data set's own."""
        return self.count - sum(extra.count for extra in self.mixed)


@dataclass(frozen=True)
class Beton:
    """A packed split on disk."""

    folder: Path
    card: DataCard

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


def open_split(folder: Path, split: Split, purpose: Literal["training", "evaluation"]) -> Beton:
    """The packed split and its card. Training cannot open the test split, whoever asks.

    Raises :class:`DataError` where the folder or card is missing or no card.
    """
    if purpose == "training" and split == "test":
        raise DataError("the test split cannot be opened for training: it is for the end evaluation alone")
    path = folder / f"{split}.json"
    cure = f"delete {folder} and run the job again to prepare it anew"
    try:
        card = DataCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        cure = cure if folder.is_dir() else "run the job that prepares the data (kind: prepare) first"
        raise DataError(f"{path}: there is no card; {cure}") from None
    except (OSError, ValidationError) as error:
        raise DataError(f"{path}: not a card ({str(error).splitlines()[0]}); {cure}") from None
    if card.split != split:
        raise DataError(f"{path}: the card of the {card.split} split; {cure}")
    return Beton(folder, card)

"""What every source of data says about how it is cut and packed."""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distrib.data.mix import Mixed
from distrib.values import Value

Part = Literal["train", "test"]


class Packed(Value):
    """What every source says about how it is cut and packed."""

    store: str = "betons"
    """The folder that keeps prepared betons; on a cluster, one that every machine sees."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the train part that is held out, to choose the best checkpoint."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Draws which images of the train part are held out."""
    limit: Annotated[int, Field(ge=10)] | None = None
    """Use only so many images of the train part, the same share of every class; for trying things out."""
    encoding: Literal["auto", "raw", "jpeg"] = "auto"
    """How training images are packed: auto is jpeg for RGB images of over 128 x 128 pixels, else raw.

    What is measured on (validation, test) is always raw."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    """The quality of the encoding jpeg; 100 is the best."""
    mix: tuple[Mixed, ...] = ()
    """More images to train on, such as synthetic ones, each with its share of every batch. An epoch has as many steps
    as without them. What is held out and what is tested on has none of them."""

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if sum(one.share for one in self.mix) >= 1:
            raise ValueError("mix: the shares leave nothing of every batch for the set's own images; lower them")
        return self

    @property
    def has_files(self) -> bool:
        """Whether the set lies in files of its own."""
        return True

    @property
    def cut(self) -> int | None:
        """Side of the centre of each image that networks see; None: they see all that :meth:`open` gives."""
        return None

    def fingerprint(self) -> str:
        """Changes when a file of the data does; empty where some are not on this machine, or none can change."""
        own, mixed = self.of_files(), [one.fingerprint() for one in self.mix]
        if not mixed:
            return own
        here = all(mixed) and (own or not self.has_files)
        return hashlib.sha256(" ".join([own, *mixed]).encode()).hexdigest() if here else ""

    def of_files(self) -> str:
        """The fingerprint of the source's own files."""
        return ""

    def missing(self) -> str:
        """What of the data is not in its place, and the cure; empty where all is, or may be fetched."""
        gone = next((one.place for one in self.mix if not one.place.exists()), None)
        return f"data.mix: {gone} is not there; put the images there, or name others" if gone else ""

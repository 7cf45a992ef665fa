"""Named data sets as indexable images: uint8 ``[H, W, C]`` and an int label.

A source is a frozen value; :meth:`open` gives one of its two official parts, ``train`` or ``test``. What training
may see is cut from ``train`` alone (:mod:`distrib.data.split`).
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from distrib.errors import DataError
from distrib.values import Value

Part = Literal["train", "test"]
Image = np.ndarray
"""uint8 ``[H, W, C]``."""


@dataclass(frozen=True)
class Samples:
    """One part of a data set: labels known beforehand, images read one by one, each checked as it is read."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    """int64 ``[N]``, in 0 .. len(classes) - 1."""
    image: Callable[[int], Image]
    """Index -> image. Raises :class:`DataError` that names what could not be read."""
    shape: tuple[int, int, int]
    """(H, W, C) of every image."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Image, int]:
        image = self.image(i)
        if image.dtype != np.uint8 or image.shape != self.shape:
            raise DataError(
                f"{self.name}: image {i} is {image.dtype} {list(image.shape)}, but the others are uint8 "
                f"{list(self.shape)}; leave it out, or set data.size so that all are resized alike"
            )
        return np.ascontiguousarray(image), int(self.labels[i])

    def checked(self) -> "Samples":
        """Itself, if it can be a data set at all: not empty, labels in range."""
        if len(self) == 0:
            raise DataError(f"{self.name}: there are no images")
        if len(self.classes) < 2:
            raise DataError(f"{self.name}: {len(self.classes)} class, but a classifier needs at least 2")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DataError(f"{self.name}: labels must lie in 0 .. {len(self.classes) - 1}")
        return self


class Packed(Value):
    """What every source says about how it is cut and packed."""

    store: str = "betons"
    """The folder that keeps prepared betons; on a cluster, one that every machine sees."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the train part that is held out, to choose the best checkpoint."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=10)] | None = None
    """Use only so many images of the train part, the same share of every class; for trying things out."""
    encoding: Literal["auto", "raw", "jpeg"] = "auto"
    """How training images are packed: auto is jpeg for RGB images of over 128 x 128 pixels, else raw.

    What is measured on (validation, test) is always raw."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90

    def fingerprint(self) -> str:
        """Changes when the source's files do; empty where that cannot be told cheaply."""
        return ""


class Digits(Packed):
    """The handwritten digits that come with scikit-learn: 1,797 real 8x8 grey images, no download.

    The set has no test part of its own: every class's images are shuffled once, with a fixed seed, and a quarter of
    them is the test part. Its 17 grey levels are spread over 0..255.
    """

    source: Literal["digits"]

    def open(self, part: Part) -> Samples:
        """The images of one part."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        bunch = load_digits()
        images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # pyright: ignore
        labels = np.asarray(bunch.target, dtype=np.int64)  # pyright: ignore
        chosen = train_test_split(np.arange(len(labels)), test_size=0.25, random_state=0, stratify=labels)
        chosen = np.sort(chosen[part == "test"])
        return in_memory(f"digits {part}", images[chosen], labels[chosen], [str(digit) for digit in range(10)])


class Torchvision(Packed):
    """A data set that torchvision reads from ``root``."""

    source: Literal["mnist", "cifar10", "cifar100"]
    root: str = "data"
    """The folder that torchvision knows the set by (holding MNIST/raw, cifar-10-batches-py, ...)."""
    download: bool = False
    """Fetch the set if it is not there."""

    def open(self, part: Part) -> Samples:
        """The images of one part."""
        from torchvision import datasets

        name = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}[self.source]
        kind = getattr(datasets, name)
        try:
            found = kind(self.root, train=part == "train", download=self.download)
        except Exception as error:  # its readers assert, unpickle and index: damage may raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"data.root: no usable {name} in {self.root!r} ({reason}); put it there, or allow data.download: true"
            ) from None
        images = np.asarray(found.data)
        images = images[..., None] if images.ndim == 3 else images
        return in_memory(f"{self.source} {part}", images, np.asarray(found.targets, dtype=np.int64), found.classes)


class Folder(Packed):
    """Images in a folder a class: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg (torchvision's ImageFolder)."""

    source: Literal["folder"]
    root: str
    train_part: str = "train"
    test_part: str = "test"
    size: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Side of the square that every image becomes: shorter side resized to it, centre cut out. None: as they are."""
    grey: bool = False
    """One channel instead of RGB."""

    def open(self, part: Part) -> Samples:
        """The images of one part; files are read when asked for."""
        from torchvision.datasets import ImageFolder

        root = Path(self.root) / (self.train_part if part == "train" else self.test_part)
        if not root.is_dir():
            near = [entry.name for entry in os.scandir(self.root) if entry.is_dir()] if os.path.isdir(self.root) else []
            found = f"; in {self.root} there are {sorted(near)}" if near else ""
            raise DataError(
                f"data.root: there is no folder {root}{found}; set data.root, data.train_part, data.test_part"
            )
        try:
            tree = ImageFolder(str(root))
        except (FileNotFoundError, OSError) as error:
            raise DataError(f"data.root: {root} is no tree of class folders: {str(error).splitlines()[0]}") from None
        paths = [path for path, _ in tree.samples]
        labels = np.asarray([label for _, label in tree.samples], dtype=np.int64)
        read = partial(read_image, paths, self.size, self.grey)
        return Samples(f"{root}", tuple(tree.classes), labels, read, read(0).shape).checked()

    def fingerprint(self) -> str:
        """A hash of every file's path, size and time of change; empty where the folder is not on this machine."""
        seen = hashlib.sha256()
        for path in sorted(Path(self.root).rglob("*")):
            if path.is_file():
                entry = path.stat()
                seen.update(f"{path.relative_to(self.root)} {entry.st_size} {entry.st_mtime_ns}\n".encode())
        return seen.hexdigest() if Path(self.root).is_dir() else ""


DataSource = Annotated[Digits | Torchvision | Folder, Field(discriminator="source")]


def in_memory(name: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Samples:
    """Samples over arrays: ``images`` uint8 ``[N, H, W, C]``, ``labels`` int64 ``[N]``."""
    return Samples(name, tuple(classes), labels, images.__getitem__, images.shape[1:]).checked()


def read_image(paths: Sequence[str], size: int | None, grey: bool, i: int) -> Image:
    """The image file ``paths[i]``, resized and cut to ``size`` if that is given."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(paths[i]) as file:
            if file.mode.startswith(("I", "F")):  # Pillow would cut their values off at 255
                raise ValueError("more than 8 bits a channel")
            picture = file.convert("L" if grey else "RGB")
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise DataError(f"{paths[i]}: cannot be read as an image ({error}); mend or remove the file") from None
    if size is not None:
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.resize((width, height), Pillow.Resampling.BILINEAR)
        picture = picture.crop((left, top, left + size, top + size))
    pixels = np.asarray(picture)
    return pixels[..., None] if grey else pixels

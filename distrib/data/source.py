"""Named data sets, opened as samples.

A source is a frozen value; :meth:`open` gives one of its two official parts, ``train`` or ``test``. What training
may see is cut from ``train`` alone (:mod:`distrib.data.split`).
"""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from distrib.data.arrays import read_arrays
from distrib.data.mix import Mixed
from distrib.data.parquet import Tables, fetched, parquet_files
from distrib.data.pictures import Pictures, Tree
from distrib.data.samples import Samples, in_memory
from distrib.errors import DataError
from distrib.files import file_sha256, files_sha256
from distrib.values import Value

Part = Literal["train", "test"]

READ_BY_TORCHVISION = {
    "mnist": ("MNIST/raw/*-ubyte", "MNIST/processed/*.pt"),
    "cifar10": ("cifar-10-batches-py/*batch*",),
    "cifar100": ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
}
"""The files of each named set below its root."""


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
    def cut(self) -> int | None:
        """Side of the centre of each image that networks see; None: they see all that :meth:`open` gives."""
        return None

    def fingerprint(self) -> str:
        """Changes when a file of the data does; empty where some are not on this machine, or none can change."""
        own, mixed = self.of_files(), [one.fingerprint() for one in self.mix]
        if not mixed:
            return own
        here = all(mixed) and (own or isinstance(self, Digits))
        return hashlib.sha256(" ".join([own, *mixed]).encode()).hexdigest() if here else ""

    def of_files(self) -> str:
        """The fingerprint of the source's own files."""
        return ""

    def missing(self) -> str:
        """What of the data is not in its place, and the cure; empty where all is, or may be fetched."""
        gone = next((one.place for one in self.mix if not one.place.exists()), None)
        return f"data.mix: {gone} is not there; put the images there, or name others" if gone else ""


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


class TorchvisionData(Packed):
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

    def missing(self) -> str:
        """See :class:`Packed`."""
        if not self.download:
            cure = "put the data there, or name another one, or allow data.download: true"
            if not Path(self.root).is_dir():
                return f"data.root: there is no folder {self.root}; {cure}"
            files = READ_BY_TORCHVISION[self.source]
            if not any(found for one in files for found in Path(self.root).glob(one)):
                return f"data.root: {self.root} holds none of {', '.join(files)}; {cure}"
        return super().missing()

    def of_files(self) -> str:
        """See :class:`Packed`: of the content of the files that torchvision reads, wherever they lie."""
        paths = sorted(path for pattern in READ_BY_TORCHVISION[self.source] for path in Path(self.root).glob(pattern))
        seen = hashlib.sha256()
        try:
            for path in paths:
                seen.update(f"{path.relative_to(self.root)} {file_sha256(path)}\n".encode())
        except OSError as error:
            raise DataError(f"data.root: {error.filename} cannot be read ({error.strerror})") from None
        return seen.hexdigest() if paths else ""


class Pictured(Packed):
    """What every source of encoded images says about how they become pixels."""

    size: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Side of the square that every image becomes: shorter side resized to it, centre cut out. None: as they are."""
    resize: Annotated[int, Field(ge=4, le=1024)] | None = None
    """What the shorter side is resized to, where that shall be more than size (256 to 224 is ImageNet's custom). Images
    to train on are stored so large, and each epoch cuts its windows out of them; all others are the centre."""
    grey: bool = False
    """One channel instead of RGB."""

    @model_validator(mode="after")
    def _larger(self) -> Self:
        if self.resize is not None and (self.size is None or self.resize <= self.size):
            raise ValueError(
                f"resize: {self.resize} must be more than size, which is {self.size}; change one of the two"
            )
        return self

    @property
    def stored(self) -> int | None:
        """Side of the square that an image is read as."""
        return self.resize or self.size

    @property
    def cut(self) -> int | None:
        """See :class:`Packed`."""
        return self.size if self.resize else None


class Folder(Pictured):
    """Images in a folder a class: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg, of every kind that Pillow reads.

    Of several frames the first is taken, EXIF orientation is applied, and what is transparent is put on white. Hidden
    files and folders are left out.
    """

    source: Literal["folder"]
    root: str
    """The folder that holds both parts."""
    train_part: str = "train"
    """The folder below root whose images are trained on and validated with."""
    test_part: str = "test"
    """The folder below root whose images the end evaluation is made on."""

    @model_validator(mode="after")
    def _apart(self) -> "Folder":
        train, test = os.path.normpath(self.train_part), os.path.normpath(self.test_part)
        if _inside(train, test) or _inside(test, train):
            raise ValueError(
                f"test_part: {self.test_part!r} and train_part {self.train_part!r} hold the same images; a test on "
                "what was trained on says nothing; name another folder"
            )
        return self

    def open(self, part: Part) -> Samples:
        """The images of one part; files are read when asked for."""
        return self._tree(part).samples(self.stored, self.grey)

    def missing(self) -> str:
        """See :class:`Packed`."""
        if not Path(self.root).is_dir():
            return f"data.root: there is no folder {self.root}; put the data there, or name another one"
        return super().missing()

    def of_files(self) -> str:
        """See :class:`Packed`: of every image's path, size and time of change, through links."""
        if not os.path.isdir(self.root):
            return ""
        both = self._tree("train").fingerprint() + self._tree("test").fingerprint()
        return hashlib.sha256(both.encode()).hexdigest()

    def _tree(self, part: Part) -> Tree:
        """The files of one part. Raises :class:`DataError` where there are none, or both parts are one folder."""
        train, test = Path(self.root) / self.train_part, Path(self.root) / self.test_part
        root = train if part == "train" else test
        if not root.is_dir():
            near = [entry.name for entry in os.scandir(self.root) if entry.is_dir()] if os.path.isdir(self.root) else []
            found = f"; in {self.root} there are {sorted(near)}" if near else ""
            raise DataError(
                f"data.root: there is no folder {root}{found}; set data.root, data.train_part, data.test_part"
            )
        real = [os.path.realpath(path) for path in (train, test)]
        if _inside(*real) or _inside(*reversed(real)):
            raise DataError(
                f"data.test_part: {test} and {train} are the same images, through a link; a test on what was trained "
                "on says nothing; name another folder"
            )
        return Tree.of(root)


class Arrays(Packed):
    """Images in arrays: a file for each part, .npz or .safetensors, that holds ``images`` and ``labels``.

    Images are uint8 ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]`` of 1 or 3 channels, labels whole numbers from
    0. ``distrib.pack`` writes such a file.
    """

    source: Literal["arrays"]
    train: str
    """The file of the images that are trained on and validated with."""
    test: str
    """The file of the images that the end evaluation is made on."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """The classes' names; None: those in the train file, or the labels' numbers."""

    @model_validator(mode="after")
    def _apart(self) -> "Arrays":
        if os.path.realpath(self.train) == os.path.realpath(self.test):
            raise ValueError("test: is the file of the train part; a test on what was trained on says nothing")
        return self

    def open(self, part: Part) -> Samples:
        """The images of one part."""
        images, labels, names = read_arrays(Path(self.train), "data.train")
        classes = self.classes or names or tuple(str(number) for number in range(int(labels.max(initial=1)) + 1))
        if not (self.classes or names) and len(labels) and labels.min() > 0:
            raise DataError(
                f"data.train: {self.train}: labels lie in {labels.min()} .. {labels.max()}, and count from 0; subtract "
                f"{labels.min()}, or say in data.classes what 0 is"
            )
        if part == "test":
            images, labels, _ = read_arrays(Path(self.test), "data.test")
        return in_memory(self.train if part == "train" else self.test, images, labels, classes)

    def missing(self) -> str:
        """See :class:`Packed`."""
        for field in ("train", "test"):
            if not Path(getattr(self, field)).is_file():
                return f"data.{field}: there is no file {getattr(self, field)}"
        return super().missing()

    def of_files(self) -> str:
        """See :class:`Packed`: of the content of both files."""
        return files_sha256([Path(self.train), Path(self.test)])


def _inside(path: str, folder: str) -> bool:
    return folder == "." or path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


class HuggingFace(Pictured):
    """Parquet files, in a folder or from the Hugging Face hub (extra distrib[hub]), as the hub keeps sets of images.

    A column holds the encoded images, treated as those of ``source: folder``, another one the labels: numbers of
    classes, which the files may name, or the classes' names themselves.
    """

    source: Literal["huggingface"]
    path: str
    """A folder, or the name of a data set on the hub, such as uoft-cs/cifar10."""
    revision: str = "refs/convert/parquet"
    """Of a data set on the hub: a commit, a tag or a branch. The default one holds every set as parquet."""
    download: bool = False
    """Fetch the set if it is not in the hub's cache (HF_HOME)."""
    train_files: str = "*train*.parquet"
    """The files of the images that are trained on and validated with; * stands for anything, folders too."""
    test_files: str = "*test*.parquet"
    """The files of the images that the end evaluation is made on."""
    image: str = "image"
    """The column of the images."""
    label: str = "label"
    """The column of the labels."""

    def open(self, part: Part) -> Samples:
        """The images of one part; a group of rows is read when one of them is asked for."""
        tables = {one: Tables.of(self.files(one), self.image, self.label) for one in dict.fromkeys(("train", part))}
        classes = tables["train"].classes()
        read = Pictures(tables[part].file, self.stored, self.grey)
        name, labels = f"{self.path} ({part})", tables[part].numbers(classes)
        remark = lambda: f"{name}: {len(labels)} images{read.remark()}"  # noqa: E731
        return Samples(name, classes, labels, read, read(0).shape, remark).checked()

    def files(self, part: Part) -> list[Path]:
        """The parquet files of a part, sorted. Raises :class:`DataError` where there are none, or some are of both."""
        folder = fetched(self.path, self.revision, (self.train_files, self.test_files), self.download)
        found = {one: parquet_files(folder, pattern) for one, pattern in self._patterns().items()}
        if not found[part]:
            raise DataError(f"data.{part}_files: no file below {folder} is called {self._patterns()[part]}; change it")
        if both := set(found["train"]) & set(found["test"]):
            raise DataError(
                f"data.test_files: {min(both)} is also of the train part; a test on what was trained on says nothing"
            )
        return found[part]

    def missing(self) -> str:
        """See :class:`Packed`."""
        if not self.download:
            try:
                self.files("train")
            except DataError as error:
                return str(error)
        return super().missing()

    def of_files(self) -> str:
        """See :class:`Packed`: of every file's path, size and time of change."""
        try:
            files = self.files("train") + self.files("test")
        except DataError:
            return ""
        told = (f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in files)
        return hashlib.sha256("".join(told).encode()).hexdigest()

    def _patterns(self) -> dict[Part, str]:
        return {"train": self.train_files, "test": self.test_files}


DataSource = Annotated[Digits | TorchvisionData | Folder | Arrays | HuggingFace, Field(discriminator="source")]

"""Named data sets, opened as samples.

A source is a frozen value; :meth:`open` gives one of its two official parts, ``train`` or ``test``. What training
may see is cut from ``train`` alone (:mod:`distrib.data.split`).
"""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distrib.data.arrays import read_arrays
from distrib.data.labels import labelled
from distrib.data.named import Digits, TorchvisionData
from distrib.data.packed import Packed, Part
from distrib.data.parquet import Tables, fetched, parquet_files
from distrib.data.pictures import Pictures, Tree
from distrib.data.samples import Samples, in_memory
from distrib.errors import DataError
from distrib.files import file_sha256, files_sha256


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
    """Images in a folder a class: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg, of every kind that Pillow reads; or
    in one folder, with a CSV file of their labels.

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
    test_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Where the class folders lie in root itself, ROOT/CLASS/*.jpg: this share of every class is the test part, drawn
    by the files' names, whatever split_seed is: images that are added later leave nearly all of it as it was."""
    labels: str | None = None
    """A CSV file in root (or a path of its own) with a row for every image below root, where folders mean nothing. Its
    header is file,label,split: the image's path below root, its class, and train or test; without the column split,
    test_share draws the test part."""

    @model_validator(mode="after")
    def _apart(self) -> "Folder":
        if self.labels is not None and (self.train_part, self.test_part) != ("train", "test"):
            raise ValueError("labels: says which images are tested on; leave train_part and test_part out")
        if self.test_share is not None and (self.train_part, self.test_part) != ("train", "test"):
            raise ValueError("test_share: cuts the test part out of root itself; leave train_part and test_part out")
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
        """See :class:`Packed`: of every image's path, size and time of change, through links, and of what labels hold.

        Raises :class:`DataError` as :meth:`open` does.
        """
        if not os.path.isdir(self.root):
            return ""
        both = self._tree("train").fingerprint() + self._tree("test").fingerprint()
        labels = "" if self.labels is None else file_sha256(Path(self.root) / self.labels)
        return hashlib.sha256((both + labels).encode()).hexdigest()

    def _tree(self, part: Part) -> Tree:
        """The files of one part. Raises :class:`DataError` where there are none, or both parts are one folder."""
        if self.labels is not None:
            return self._labelled(self.labels)[part == "test"]
        if self.test_share is not None:
            whole = Tree.of(Path(self.root))
            if {"train", "test"} <= set(whole.classes):
                raise DataError(f"data.test_share: {self.root} holds train and test, so it is parted; leave it out")
            return whole.parted(whole.drawn(self.test_share))[part == "test"]
        train, test = Path(self.root) / self.train_part, Path(self.root) / self.test_part
        root = train if part == "train" else test
        if not root.is_dir():
            near = [entry.name for entry in os.scandir(self.root) if entry.is_dir()] if os.path.isdir(self.root) else []
            found = f"; in {self.root} there are {sorted(near)}" if near else ""
            raise DataError(
                f"data.root: there is no folder {root}{found}; set data.root, data.train_part, data.test_part, or, "
                "where these are the classes, data.test_share; of images without class folders, data.labels"
            )
        real = [os.path.realpath(path) for path in (train, test)]
        if _inside(*real) or _inside(*reversed(real)):
            raise DataError(
                f"data.test_part: {test} and {train} are the same images, through a link; a test on what was trained "
                "on says nothing; name another folder"
            )
        return Tree.of(root)

    def _labelled(self, labels: str) -> tuple[Tree, Tree]:
        """(train part, test part), by the CSV file of labels. Raises :class:`DataError`."""
        if not Path(self.root).is_dir():
            raise DataError(f"data.root: there is no folder {self.root}; name the one that holds the images")
        file = Path(self.root) / labels
        whole, test = labelled(Path(self.root), file)
        if test is not None and self.test_share is not None:
            raise DataError(
                f"data.test_share: {file} has a column split, which says the same; leave one of the two out"
            )
        if test is None:
            if self.test_share is None:
                raise DataError(
                    f"data.test_share: is missing, and {file} has no column split; set it (0.2 is a fifth of every "
                    "class), or add the column, with train or test in every row"
                )
            test = whole.drawn(self.test_share)
        return whole.parted(test)


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

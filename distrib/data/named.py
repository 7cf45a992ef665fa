"""Data sets that are known by name: scikit-learn's digits, and those that torchvision reads from a folder."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np

from distrib.data.packed import Packed, Part
from distrib.data.samples import Samples, in_memory
from distrib.errors import DataError
from distrib.files import file_sha256

THEIR_NAMES = {
    "mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN",
}  # fmt: skip
"""What torchvision calls each."""
READ_BY_TORCHVISION = {
    "mnist": ("MNIST/raw/*-ubyte", "MNIST/processed/*.pt"),
    "fashion_mnist": ("FashionMNIST/raw/*-ubyte",),
    "cifar10": ("cifar-10-batches-py/*batch*",),
    "cifar100": ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
}
"""The files of each named set below its root."""


class Digits(Packed):
    """The handwritten digits that come with scikit-learn: 1,797 real 8x8 grey images, no download.

    The set has no test part of its own: every class's images are shuffled once, with a fixed seed, and a quarter of
    them is the test part. Its 17 grey levels are spread over 0..255.
    """

    source: Literal["digits"]

    @property
    def has_files(self) -> bool:
        """It comes with scikit-learn."""
        return False

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

    source: Literal["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"]
    root: str = "data"
    """The folder that torchvision knows the set by (holding MNIST/raw, cifar-10-batches-py, ...)."""
    download: bool = False
    """Fetch the set if it is not there."""

    def open(self, part: Part) -> Samples:
        """The images of one part."""
        from torchvision import datasets

        name = THEIR_NAMES[self.source]
        which = {"split": part} if self.source == "svhn" else {"train": part == "train"}
        try:
            found = getattr(datasets, name)(self.root, download=self.download, **which)
        except Exception as error:  # its readers assert, unpickle and index: damage may raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"data.root: no usable {name} in {self.root!r} ({reason}); put it there, or allow data.download: true"
            ) from None
        if self.source == "svhn":
            images, labels, classes = found.data.transpose(0, 2, 3, 1), found.labels, list("0123456789")
        else:
            images, labels, classes = np.asarray(found.data), found.targets, found.classes
        images = images[..., None] if images.ndim == 3 else images
        return in_memory(f"{self.source} {part}", images, np.asarray(labels, dtype=np.int64), classes)

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

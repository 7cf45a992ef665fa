"""Images of elsewhere that training mixes with a set's own: the first thing that adversarial training lacks is data.

Synthetic images are worth points of robust accuracy (Gowal et al., arXiv 2110.09468; Wang et al., arXiv 2302.04638).
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from distrib.data.arrays import read_arrays
from distrib.data.pictures import Tree
from distrib.data.samples import Samples, in_memory
from distrib.errors import DataError
from distrib.files import files_sha256
from distrib.values import Value

Share = Annotated[float, Field(gt=0, lt=1)]


class MixedArrays(Value):
    """Images in an .npz or a .safetensors, as ``source: arrays`` takes them, of the set's own shape."""

    source: Literal["arrays"]
    path: str
    """The file, with ``images`` and ``labels``."""
    share: Share
    """Of every batch."""

    @property
    def place(self) -> Path:
        """Where they are."""
        return Path(self.path)

    def open(self, classes: tuple[str, ...], shape: tuple[int, int, int]) -> Samples:
        """Its images. Raises :class:`DataError` where they are not of these classes and this shape (H, W, C)."""
        images, labels, names = read_arrays(self.place, "data.mix")
        if names not in (None, classes):
            raise DataError(f"data.mix: {self.path} has the classes {', '.join(names)}, not {', '.join(classes)}")
        if images.shape[1:] != shape:
            raise DataError(f"data.mix: {self.path}: images {list(images.shape[1:])} (HxWxC), not {list(shape)}")
        return in_memory(self.path, images, labels, classes)

    def fingerprint(self) -> str:
        """Of the content of its file; empty where that is not on this machine."""
        return files_sha256([self.place])


class MixedFolder(Value):
    """Images in a folder a class, ROOT/CLASS/*.jpg; each becomes as large as the set's own."""

    source: Literal["folder"]
    root: str
    """The folder that holds the class folders."""
    share: Share
    """Of every batch."""

    @property
    def place(self) -> Path:
        """Where they are."""
        return Path(self.root)

    def open(self, classes: tuple[str, ...], shape: tuple[int, int, int]) -> Samples:
        """Its images. Raises :class:`DataError` where its classes are others."""
        if not self.place.is_dir():
            raise DataError(f"data.mix: there is no folder {self.root}")
        tree = Tree.of(self.place)
        if tree.classes != classes:
            raise DataError(
                f"data.mix: {self.root} has the classes {', '.join(tree.classes)}, not {', '.join(classes)}"
            )
        return replace(tree.samples(shape[0] if shape[0] == shape[1] else None, shape[2] == 1), shape=shape)

    def fingerprint(self) -> str:
        """Of every file's path, size and time of change; empty where the folder is not on this machine."""
        return Tree.of(self.place).fingerprint() if self.place.is_dir() else ""


Mixed = Annotated[MixedArrays | MixedFolder, Field(discriminator="source")]

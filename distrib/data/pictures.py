"""Image files in a folder a class: which are taken, and how each becomes pixels. What is done is counted and told."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import compress
from pathlib import Path
from typing import IO, Any

import numpy as np

from distrib.data.samples import Samples
from distrib.errors import DataError

READING = 2
"""Raised when the same files become other pixels, or when other files are taken."""
ONLY_KNOWN = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow knows, but reads by another program (Ghostscript), on Windows alone, or not at all."""
LONGEST = 16
"""Sides of a square; a longer strip is not resized whole: one of 1 x 9000 would be 224 x 2,016,000 at size 224."""
WHITE = (255, 255, 255, 255)


@cache
def formats() -> dict[str, str]:
    """What is read: the format of each file name's ending, in lower case, such as ``.jpg``."""
    from PIL import Image as Pillow

    endings = Pillow.registered_extensions().items()
    return {ending: name for ending, name in endings if name in Pillow.OPEN and name not in ONLY_KNOWN}


@cache
def _names() -> tuple[str, ...]:
    return tuple(dict.fromkeys(formats().values()))


@dataclass(frozen=True)
class Tree:
    """ROOT/CLASS/.../*.jpg, in torchvision's order: classes sorted, then folders, then files."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    """int64, one a path."""
    left_out: Counter[str]
    """How many files and folders were left out, by the reason."""

    @classmethod
    def of(cls, root: Path) -> "Tree":
        """The images below ``root``, also through links. Raises :class:`DataError` where it is no tree of classes."""
        left_out: Counter[str] = Counter()
        try:
            entries = _entries(str(root))
            shown = [entry for entry in entries if not entry.name.startswith(".")]
            classes = [entry for entry in shown if entry.is_dir()]
            left_out["hidden"] = len(entries) - len(shown)
            left_out["outside the class folders"] = len(shown) - len(classes)
            found = [sorted(_below(entry.path, (_place(str(root)),), left_out)) for entry in classes]
        except OSError as error:
            raise DataError(
                f"data.root: {printed(str(error.filename or root))} cannot be read ({error.strerror})"
            ) from None
        for entry, files in zip(classes, found, strict=True):
            if printed(entry.name) != entry.name:
                raise DataError(f"data.root: {printed(entry.path)}: the name is not UTF-8; give the class another one")
            if not files:
                raise DataError(
                    f"data.root: {root} is no tree of class folders: there is no image in {entry.path}{_told(left_out)}"
                )
        if not classes:
            raise DataError(
                f"data.root: {root} is no tree of class folders: there are none{_told(left_out)}; where the images lie "
                "in it without any, data.labels names a CSV file of their labels"
            )
        labels = np.repeat(np.arange(len(classes)), [len(files) for files in found])
        paths = tuple(os.path.join(*file) for files in found for file in files)
        return cls(root, tuple(entry.name for entry in classes), paths, labels.astype(np.int64), +left_out)

    def drawn(self, share: float) -> np.ndarray:
        """``share`` of every class, bool ``[N]``: those whose names' hashes are the smallest.

        Raises :class:`DataError` where a class has no image left on one side.
        """
        found = np.zeros(len(self.paths), dtype=bool)
        names = [os.fsencode(os.path.relpath(path, self.root)) for path in self.paths]
        hashes = np.array([hashlib.sha256(name).hexdigest() for name in names])
        for label, name in enumerate(self.classes):
            members = np.flatnonzero(self.labels == label)
            count = round(len(members) * share)
            if not 0 < count < len(members):
                raise DataError(
                    f"data.test_share: {share:g} of the {len(members)} images of {name} leaves none on one side; "
                    "choose another share, or leave the class out"
                )
            found[members[hashes[members].argsort()[:count]]] = True
        return found

    def parted(self, test: np.ndarray) -> tuple["Tree", "Tree"]:
        """(train part, test part); ``test``, bool ``[N]``, chooses the second. What was left out is told of the first
        alone: once."""
        train = replace(self, paths=tuple(compress(self.paths, ~test)), labels=self.labels[~test])
        return train, replace(
            self, paths=tuple(compress(self.paths, test)), labels=self.labels[test], left_out=Counter()
        )

    def file(self, i: int) -> tuple[str, str]:
        """(the path of image ``i``, as it can be printed)."""
        return self.paths[i], printed(self.paths[i])

    def samples(self, size: int | None, grey: bool) -> Samples:
        """The images, each resized and cut to ``size`` if that is given."""
        read = Pictures(self.file, size, grey)
        remark = lambda: f"{self.root}: {len(self.paths)} images{read.remark()}{_told(self.left_out)}"  # noqa: E731
        return Samples(f"{self.root}", self.classes, self.labels, read, read(0).shape, remark).checked()

    def fingerprint(self) -> str:
        """Changes when a file does: its name, its size, or the time of its change, of what a link leads to."""
        seen = hashlib.sha256(f"reading {READING}\n".encode())
        for path in self.paths:
            entry = os.stat(path)
            name = os.fsencode(os.path.relpath(path, self.root))
            seen.update(name + f"\0{entry.st_size} {entry.st_mtime_ns}\n".encode())
        return seen.hexdigest()


def _below(folder: str, above: Sequence[tuple[int, int]], left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    """(folder, name) of each image file; ``above`` are the folders on the way to it, against links in a circle."""
    above = (*above, _place(folder))
    for entry in _entries(folder):
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif entry.is_dir():
            if _place(entry.path) in above:
                left_out["links to a folder above them"] += 1
            else:
                yield from _below(entry.path, above, left_out)
        elif (ending := os.path.splitext(entry.name)[1].lower()) not in formats():
            left_out[f"of a kind that is not read ({printed(ending) or 'no ending'})"] += 1
        elif entry.is_symlink() and not os.path.exists(entry.path):
            raise DataError(f"{printed(entry.path)}: a link to nothing; mend or remove it")
        elif not entry.is_file():
            left_out["no regular files"] += 1
        else:
            yield folder, entry.name


def images_below(root: Path) -> tuple[list[str], Counter[str]]:
    """(the path of every image file below ``root``, how many files were left out, by the reason)."""
    left_out: Counter[str] = Counter()
    try:
        return [os.path.join(*file) for file in _below(str(root), (), left_out)], left_out
    except OSError as error:
        raise DataError(f"data.root: {printed(str(error.filename))} cannot be read ({error.strerror})") from None


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _place(folder: str) -> tuple[int, int]:
    entry = os.stat(folder)
    return entry.st_dev, entry.st_ino


def _told(left_out: Counter[str]) -> str:
    told = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common() if count)
    return f"; left out: {told}" if told else ""


def printed(path: str) -> str:
    """``path`` as it can be printed, also where it is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


@dataclass(frozen=True)
class Pictures:
    """Image files, read one by one: ``pictures(i)`` is uint8 ``[H, W, C]``."""

    file: Callable[[int], tuple[str | IO[bytes], str]]
    """Index -> (what Pillow opens: a path or the content, its name in messages)."""
    size: int | None
    grey: bool
    done: dict[str, set[int]] = field(default_factory=dict)
    """Which were treated how, of those that were read."""

    def __call__(self, i: int) -> np.ndarray:
        """Image ``i``: the first frame, turned upright, on white where it is transparent, resized and cut to ``size``.

        Raises :class:`DataError` where the file cannot be read.
        """
        from PIL import Image as Pillow

        opened, name = self.file(i)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Pillow.DecompressionBombWarning)  # its bound: 89 million pixels
                with Pillow.open(opened, formats=_names()) as file:
                    if file.mode.startswith(("I", "F")):  # Pillow would cut their values off at 255
                        raise ValueError("more than 8 bits a channel")
                    file.load()
                    picture = self._on_white(self._upright(file, i), i)
                    with suppress(
                        EOFError, OSError, SyntaxError, ValueError
                    ):  # what follows the first frame is not read
                        self._note("of several frames the first taken", i, getattr(file, "is_animated", False))
        except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError, Warning) as error:
            raise DataError(f"{name}: cannot be read as an image ({error}); mend or remove the file") from None
        if self.size is not None:
            picture = _square(picture, self.size)
        pixels = np.asarray(picture)
        return pixels[..., None] if self.grey else pixels

    def _upright(self, file: Any, i: int) -> Any:
        """The image as its camera was held (EXIF)."""
        from PIL.Image import Transpose

        turns = (
            Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
            Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90,
        )  # fmt: skip
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                orientation = int(file.getexif().get(0x0112, 1))
        except Exception:  # damaged EXIF raises anything, and says nothing of the image
            orientation = 1
        turned = 2 <= orientation <= 8
        self._note("turned upright", i, turned)
        return file.transpose(turns[orientation - 2]) if turned else file

    def _on_white(self, picture: Any, i: int) -> Any:
        """The image as RGB or grey: the colour under transparent pixels is not seen, and not learnt from."""
        from PIL import Image as Pillow

        if picture.has_transparency_data:
            whole = picture.convert("RGBA")
            seen_through = whole.getchannel("A").getextrema()[0] < 255
            self._note("with transparency put on white", i, seen_through)
            if seen_through:
                picture = Pillow.alpha_composite(Pillow.new("RGBA", whole.size, WHITE), whole)
        return picture.convert("L" if self.grey else "RGB")

    def _note(self, what: str, i: int, so: bool) -> None:
        if so:
            self.done.setdefault(what, set()).add(i)

    def remark(self) -> str:
        """What was done with how many files."""
        return "".join(f"; {len(which)} {what}" for what, which in sorted(self.done.items()))


def _square(picture: Any, size: int) -> Any:
    """The centre of the image: its shorter side resized to ``size``."""
    from PIL.Image import Resampling

    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    if max(width, height) <= LONGEST * size:
        picture = picture.resize((width, height), Resampling.BILINEAR)
        return picture.crop((left, top, left + size, top + size))
    x, y = picture.width / width, picture.height / height  # the same to one grey level, of the centre alone
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    return picture.resize((size, size), Resampling.BILINEAR, box=box)

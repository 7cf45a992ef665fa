"""Parquet files of images as the Hugging Face hub keeps them: the one door to its client and to pyarrow."""

import io
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from distrib.errors import DataError

EXTRA = "pip install 'distrib[hub]'"


def fetched(path: str, revision: str, patterns: Sequence[str], download: bool) -> Path:
    """The folder of a data set: ``path`` itself, or what the hub's cache keeps of it, fetched now if that is allowed.

    Raises :class:`DataError` where it is neither.
    """
    if Path(path).is_dir():
        return Path(path)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise DataError(
            f"data.path: {path} is no folder, and the hub's client is not here ({error}); {EXTRA}"
        ) from None
    what = {"repo_type": "dataset", "revision": revision, "allow_patterns": list(patterns)}
    try:
        return Path(snapshot_download(path, local_files_only=not download, **what))
    except (OSError, ValueError, LocalEntryNotFoundError, HFValidationError) as error:
        if download:
            raise DataError(f"data.path: {path} cannot be had from the hub ({_first_line(error)})") from None
        raise DataError(
            f"data.path: {path} is neither a folder nor in the hub's cache (HF_HOME), at revision {revision}; put it "
            "there, or allow data.download: true"
        ) from None


def parquet_files(folder: Path, pattern: str) -> list[Path]:
    """The files below ``folder`` whose path from there is like ``pattern``, sorted."""
    return [path for path in sorted(folder.rglob("*.parquet")) if fnmatch(path.relative_to(folder).as_posix(), pattern)]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@dataclass
class Tables:
    """Two columns of the rows of some parquet files, one behind the other; images are read by groups of rows."""

    files: list[Any]
    """Each opened by pyarrow."""
    names: list[str]
    image: str
    label: str
    raw_labels: list[Any]
    """Numbers or names, one a row."""
    groups: list[tuple[int, int]]
    """(file, group of its rows)."""
    starts: list[int]
    """The first row of each group, and how many rows there are in all."""
    held: dict[int, Any] = field(default_factory=dict)
    """The group that was read last."""

    @classmethod
    def of(cls, paths: Sequence[Path], image: str, label: str) -> "Tables":
        """The rows of ``paths``. Raises :class:`DataError` that names a file or a column which does not serve."""
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise DataError(f"data.source: parquet files need pyarrow ({error}); {EXTRA}") from None
        files, labels, groups, sizes = [], [], [], []
        for number, path in enumerate(paths):
            try:
                file = parquet.ParquetFile(path)
                there = file.schema_arrow.names
                for name, column in (("image", image), ("label", label)):
                    if column not in there:
                        raise DataError(f"data.{name}: {path} has no column {column}, but {', '.join(there)}")
                labels += file.read([label], use_threads=False).column(label).to_pylist()
            except (OSError, ValueError) as error:  # pyarrow's own are of these kinds
                if isinstance(error, DataError):
                    raise
                raise DataError(f"data.path: {path} cannot be read as parquet ({_first_line(error)})") from None
            files.append(file)
            groups += [(number, group) for group in range(file.metadata.num_row_groups)]
            sizes += [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        return cls(
            files, [str(path) for path in paths], image, label, labels, groups, list(accumulate(sizes, initial=0))
        )

    def classes(self) -> tuple[str, ...]:
        """The classes' names: those that the files' own schema gives, or the labels themselves, sorted."""
        told = json.loads((self.files[0].schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        names = told.get("info", {}).get("features", {}).get(self.label, {}).get("names")
        if names:
            return tuple(map(str, names))
        found = set(self.raw_labels)
        if all(isinstance(one, int) for one in found):
            return tuple(str(number) for number in range(max(found, default=-1) + 1))
        return tuple(sorted(map(str, found)))

    def numbers(self, classes: tuple[str, ...]) -> np.ndarray:
        """int64, each row's place among ``classes``. Raises :class:`DataError` for a row that has none."""
        places = {name: place for place, name in enumerate(classes)}
        numbers = [one if isinstance(one, int) else places.get(str(one), -1) for one in self.raw_labels]
        wrong = next((row for row, number in enumerate(numbers) if not 0 <= number < len(classes)), None)
        if wrong is not None:
            raise DataError(
                f"data.label: row {wrong} of {self.names[0]} and those behind it has {self.raw_labels[wrong]!r}, which "
                f"is none of the {len(classes)} classes of the train part"
            )
        return np.asarray(numbers, dtype=np.int64)

    def file(self, i: int) -> tuple[io.BytesIO, str]:
        """(the encoded image of row ``i``, its name). Raises :class:`DataError` where there is none."""
        place = bisect_right(self.starts, i) - 1
        if place not in self.held:
            number, group = self.groups[place]
            self.held.clear()
            self.held[place] = self.files[number].read_row_group(group, [self.image], use_threads=False)
        row = i - self.starts[place]
        found = self.held[place].column(self.image)[row].as_py()
        content = found.get("bytes") if isinstance(found, dict) else found
        name = f"{self.names[self.groups[place][0]]} (row {row} of group {self.groups[place][1]})"
        if not isinstance(content, bytes):
            raise DataError(f"data.image: {name}: column {self.image} holds no encoded image; name the one that does")
        return io.BytesIO(content), name

"""Images whose labels stand in a CSV file: which image is of which class, and of which part."""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distrib.data.pictures import Tree, formats, images_below, printed
from distrib.errors import DataError

HEADER = "file,label or file,label,split"
SPLIT_VALUES = ("train", "test")


@dataclass(frozen=True)
class LabelRow:
    """What the file says of one image."""

    line: int
    path: str
    """Below the folder of the images, normalised."""
    label: str
    split: str | None
    """None: the file has no such column."""


def labelled(root: Path, file: Path) -> tuple[Tree, np.ndarray | None]:
    """(the images below ``root`` with the labels of ``file``, which of them are the test part: bool ``[N]``).

    The second is None where the file does not say. They are in a tree's order, whatever that of the rows: classes
    sorted, then paths. Raises :class:`DataError` where a row is not sound, and where an image has none.
    """
    rows = sorted(_rows(file), key=lambda row: (row.label, row.path))
    found, left_out = images_below(root)
    names = {os.path.relpath(path, root) for path in found}
    for row in sorted(rows, key=lambda row: row.line):
        ending = os.path.splitext(row.path)[1].lower()
        if row.path not in names and not (root / row.path).is_file():
            raise _error(file, row.line, f"there is no file {row.path} below {root}; put it there, or delete the row")
        if ending not in formats():
            raise _error(file, row.line, f"{row.path} is of a kind that is not read; convert it, or delete the row")
    if without := sorted(names - {row.path for row in rows}):
        raise DataError(
            f"data.labels: {file} has no row for {len(without)} of the images below {root}, such as "
            f"{printed(without[0])}; give each one a row, or take it out of the folder"
        )
    own = os.path.relpath(file, root)
    if not own.startswith((".", os.sep)) and f"{os.sep}." not in own:  # else it was not counted
        left_out[f"of a kind that is not read ({file.suffix.lower() or 'no ending'})"] -= 1
    classes = tuple(dict.fromkeys(row.label for row in rows))
    places = {name: place for place, name in enumerate(classes)}
    tree = Tree(
        root, classes, tuple(os.path.join(root, row.path) for row in rows),
        np.array([places[row.label] for row in rows], dtype=np.int64), +left_out,
    )  # fmt: skip
    return tree, _test_part(file, rows)


def _test_part(file: Path, rows: list[LabelRow]) -> np.ndarray | None:
    if rows[0].split is None:
        return None
    splits: dict[str, set[str | None]] = {}
    for row in rows:
        splits.setdefault(row.label, set()).add(row.split)
    for name, there in splits.items():
        if lost := [part for part in SPLIT_VALUES if part not in there]:
            raise DataError(
                f"data.labels: {file}: no image of {name} has the split {lost[0]}; give it some, or leave the class out"
            )
    return np.array([row.split == "test" for row in rows])


def _rows(file: Path) -> Iterator[LabelRow]:
    """The rows, each checked by itself and against those before it."""
    lines = _lines(file)
    line, header = next(lines, (1, []))
    columns = [name.lower() for name in header]
    twice = sorted({name for name in columns if columns.count(name) > 1} & {"file", "label", "split"})
    if not {"file", "label"} <= set(columns) or twice:
        told = f"names the column {twice[0]} twice" if twice else f"is {','.join(header)!r}"
        raise _error(file, line, f"the header {told}; make the first line {HEADER}, with commas between")
    seen: dict[str, int] = {}
    for line, cells in lines:
        if len(cells) != len(columns):
            raise _error(
                file, line, f"{len(cells)} columns, where the header has {len(columns)}; put what holds a comma in "
                'double quotes, or mend the row'
            )  # fmt: skip
        said = dict(zip(columns, cells, strict=True))
        path = _path(file, line, said["file"])
        if path in seen:
            raise _error(file, line, f"{path} has a row already, line {seen[path]}; delete one of the two")
        if not said["label"]:
            raise _error(file, line, f"{path} has no label; fill it in, or delete the row")
        if not said["label"].isprintable():
            raise _error(file, line, f"the label {said['label']!r} has a line break or another sign that is not shown")
        if said.get("split", "train") not in SPLIT_VALUES:
            raise _error(
                file, line, f"the split {said['split']!r} is neither train nor test; write one of them (what validates "
                "is drawn from train, see data.validation)"
            )  # fmt: skip
        seen[path] = line
        yield LabelRow(line, path, said["label"], said.get("split"))
    if not seen:
        raise _error(file, line, "there are no rows below the header; add one for each image")


def _path(file: Path, line: int, text: str) -> str:
    """The path of an image as it lies below the folder of the images."""
    path = os.path.normpath(text) if text else ""
    if not text or path == os.curdir:
        raise _error(file, line, "the column file is empty; fill it in, or delete the row")
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise _error(file, line, f"{text} leads out of data.root; write the image's path below it")
    return path


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells without the blanks around them) of each row that is not empty, the header first."""
    try:
        content = file.read_bytes()
        text = content.decode("utf-8-sig")  # with the mark that Excel puts at the beginning, or without
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _error(file, line, "it is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"data.labels: {file} cannot be read ({error.strerror}); name a CSV file") from None
    table = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        for cells in table:
            if any(cell.strip() for cell in cells):
                yield table.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise _error(file, table.line_num, f"it is no CSV ({error}); mend the quotes") from None


def _error(file: Path, line: int, what: str) -> DataError:
    return DataError(f"data.labels: {file}, line {line}: {what}")

"""Images and labels in one file of arrays: read, laid out alike, and written from whatever is indexable."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from distrib.errors import DataError
from distrib.files import write_bytes

CHANNELS = (1, 3)
NAMES = "class_names"
"""The key of the classes' names, beside images and labels: UTF-8 bytes, a line each."""

SINGULAR = {"image": "images", "label": "labels"}
"""What published sets of synthetic images call them."""


def read_arrays(path: Path, field: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]:
    """(images uint8 ``[N, H, W, C]``, labels int64 ``[N]``, the classes' names if they are there) of a file.

    It is an .npz or a .safetensors with ``images``, uint8 ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]``, and
    ``labels``, whole numbers ``[N]``; the names ``image`` and ``label`` serve as well. Raises :class:`DataError` that
    names ``field`` and the cure.
    """
    content, there = _content(path, field)
    found = {SINGULAR.get(name, name): array for name, array in content.items()}
    missing = [name for name in ("images", "labels") if name not in found]
    if missing:
        held = ", ".join(sorted(there)) or "nothing"
        raise DataError(f"{field}: {path} has no {' and no '.join(missing)}, but {held}; rename what is meant")
    images, labels = found["images"], found["labels"]
    if images.dtype != np.uint8:
        raise DataError(f"{field}: {path}: images are {images.dtype}, not uint8; {_bytes_from(images)}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(images):
        raise DataError(
            f"{field}: {path}: labels are {labels.dtype} {list(labels.shape)} for {len(images)} images, not a whole "
            "number for each; of one-hot rows store labels.argmax(1)"
        )
    names = bytes(found[NAMES]).decode().split("\n") if NAMES in found else None
    return _channels_last(images, path, field), labels.astype(np.int64), tuple(names) if names else None


def _bytes_from(images: np.ndarray) -> str:
    """How such pixels become bytes."""
    if not np.issubdtype(images.dtype, np.number) and images.dtype != bool:
        return "store arrays of pixels"
    most = float(images.max(initial=0))
    if images.min(initial=0) < 0 or most > 255:
        return "bring them to 0 .. 255 first"
    return "store (images * 255).round().astype('uint8')" if most <= 1 else "store images.round().astype('uint8')"


def _content(path: Path, field: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """(the arrays that are asked for, the names of all that are there)."""
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
            return found, list(found)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is one array alone")
        with loaded as file:
            wanted = [name for name in file.files if name in ("images", "labels", NAMES, *SINGULAR)]
            return {name: file[name] for name in wanted}, file.files
    except FileNotFoundError:
        raise DataError(f"{field}: there is no file {path}") from None
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{field}: {path} cannot be read as .npz or .safetensors ({reason})") from None


def _channels_last(images: np.ndarray, path: Path, field: str) -> np.ndarray:
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in CHANNELS:
        return images
    if images.ndim == 4 and images.shape[1] in CHANNELS:
        return images.transpose(0, 2, 3, 1)
    raise DataError(
        f"{field}: {path}: images are {list(images.shape)}, not [N, H, W], [N, H, W, C] or [N, C, H, W], of 1 or 3 "
        "channels"
    )


def pack(
    path: str | Path,
    images: Any,
    labels: Sequence[int] | np.ndarray | None = None,
    classes: Sequence[str] | None = None,
) -> Path:
    """Writes a file for ``data: {source: arrays}`` from anything that has a length and is indexed by number.

    Each of ``images`` is uint8 ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` of 1 or 3 channels (an array, a tensor, a PIL
    image), all of one shape; ``labels`` are places in ``classes``. Without labels each of ``images`` is an image and
    its label, as a torch ``Dataset`` gives them. Without classes their names are those that the dataset has, or
    numbers. ``path`` ends in .safetensors. Returns it. Raises :class:`DataError`, and writes nothing, where one does
    not fit.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DataError(f"path: {path} must end in .safetensors")
    if not path.absolute().parent.is_dir():
        raise DataError(f"path: there is no folder {path.absolute().parent}")
    if labels is None:
        images, labels, classes = _pairs(images, classes)
    if len(images) != len(labels) or not len(images):
        raise DataError(f"images: {len(images)} for {len(labels)} labels; there must be one for each, and at least one")
    rows = [np.asarray(images[i]) for i in range(len(images))]
    odd = next((i for i, row in enumerate(rows) if row.dtype != np.uint8 or row.shape != rows[0].shape), None)
    if odd is not None:
        like = f"number {odd} is {rows[odd].dtype} {list(rows[odd].shape)}"
        cure = "resize them alike" if rows[odd].dtype == np.uint8 else _bytes_from(rows[odd]).replace("store", "give")
        raise DataError(f"images: {like}, not uint8 {list(rows[0].shape)} as all must be; {cure}")
    try:
        numbers = np.asarray([np.asarray(labels[i]) for i in range(len(labels))])
    except ValueError:  # of several lengths
        raise DataError("labels: are not all of one kind; give a whole number for each image") from None
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        each = f"{numbers.dtype} {list(numbers.shape[1:])}" if numbers.ndim > 1 else f"{numbers.dtype}"
        raise DataError(f"labels: each is {each}, not a whole number; of one-hot rows give labels.argmax(1)")
    names = [str(number) for number in range(int(numbers.max()) + 1)] if classes is None else classes
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise DataError(f"classes: {str(classes)[:60]} is no list of names")
    if numbers.min() < 0 or numbers.max() >= len(names):
        found = f"{numbers.min()} to {numbers.max()}"
        raise DataError(f"labels: must lie in 0 .. {len(names) - 1}, places in classes; these are {found}")
    if any("\n" in name for name in names):
        raise DataError("classes: a name has a line break in it")
    stacked = _channels_last(np.stack(rows), path, "images")
    told = np.frombuffer("\n".join(names).encode(), dtype=np.uint8)
    content = {"images": np.ascontiguousarray(stacked), "labels": numbers.astype(np.int64), NAMES: told}
    write_bytes(path, save(content))
    return path


def _pairs(dataset: Any, classes: Sequence[str] | None) -> tuple[list[Any], list[Any], Sequence[str] | None]:
    """(images, labels, the classes' names) of what gives an image and its label for each number."""
    pairs = [dataset[i] for i in range(len(dataset))]
    odd = next((i for i, pair in enumerate(pairs) if not isinstance(pair, tuple | list) or len(pair) != 2), None)
    if odd is not None:
        raise DataError(f"labels: are missing, and images[{odd}] is no pair of an image and its label")
    names = classes if classes is not None else getattr(dataset, "classes", None)
    return [image for image, _ in pairs], [label for _, label in pairs], names

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
    found = {SINGULAR.get(name, name): array for name, array in _content(path, field).items()}
    missing = [name for name in ("images", "labels") if name not in found]
    if missing:
        raise DataError(f"{field}: {path} has no {missing[0]}, but {', '.join(sorted(found)) or 'nothing'}; rename it")
    images, labels = found["images"], found["labels"]
    if images.dtype != np.uint8:
        raise DataError(
            f"{field}: {path}: images are {images.dtype}, not uint8; for pixels in [0, 1] store "
            "(images * 255).round().astype('uint8')"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(images):
        raise DataError(
            f"{field}: {path}: labels are {labels.dtype} {list(labels.shape)} for {len(images)} images, not a whole "
            "number for each; of one-hot rows store labels.argmax(1)"
        )
    names = bytes(found[NAMES]).decode().split("\n") if NAMES in found else None
    return _channels_last(images, path, field), labels.astype(np.int64), tuple(names) if names else None


def _content(path: Path, field: str) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is one array alone")
        with loaded as file:
            return {name: file[name] for name in file.files if name in ("images", "labels", NAMES, *SINGULAR)}
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


def pack(path: str | Path, images: Sequence[Any] | np.ndarray, labels: Sequence[int], classes: Sequence[str]) -> Path:
    """Writes a file for ``data: {source: arrays}`` from anything that has a length and is indexed by number.

    Each of ``images`` is uint8 ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` of 1 or 3 channels (an array, a tensor, a PIL
    image), all of one shape; ``labels`` are places in ``classes``. ``path`` ends in .safetensors. Returns it. Raises
    :class:`DataError`, and writes nothing, where one does not fit.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DataError(f"path: {path} must end in .safetensors")
    if len(images) != len(labels) or not len(images):
        raise DataError(f"images: {len(images)} for {len(labels)} labels; there must be one for each, and at least one")
    rows = [np.asarray(images[i]) for i in range(len(images))]
    odd = next((i for i, row in enumerate(rows) if row.dtype != np.uint8 or row.shape != rows[0].shape), None)
    if odd is not None:
        raise DataError(
            f"images: number {odd} is {rows[odd].dtype} {list(rows[odd].shape)}, not uint8 {list(rows[0].shape)} as "
            "all must be; for pixels in [0, 1] give (images * 255).round().astype('uint8')"
        )
    numbers = np.asarray([int(labels[i]) for i in range(len(labels))], dtype=np.int64)
    if numbers.min() < 0 or numbers.max() >= len(classes):
        raise DataError(f"labels: must lie in 0 .. {len(classes) - 1}, places in classes")
    if any("\n" in name for name in classes):
        raise DataError("classes: a name has a line break in it")
    stacked = _channels_last(np.stack(rows), path, "images")
    names = np.frombuffer("\n".join(classes).encode(), dtype=np.uint8)
    write_bytes(path, save({"images": np.ascontiguousarray(stacked), "labels": numbers, NAMES: names}))
    return path

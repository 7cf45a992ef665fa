"""Frozen adversarial test sets: the worst images of an evaluation, for other teams to judge their models on.

DIR/
    adversarial.safetensors   x_adv float32 [N, C, H, W] in [0, 1]; index, label int64 [N]; clean, broken uint8 [N]
    attack.json               what was attacked, how, and how the images can be checked
    README.md                 the same for a reader
    validate.py               checks the images and scores a model; needs torch and safetensors, not distrib
    program.py                loads the model for it, and runs no code that lies in it

The same folder, made by anyone by any means, is judged by the attack ``stored`` of an evaluation: it checks that every
image lies in the threat around its own test image, and scores it.
"""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from distrib.errors import DataError
from distrib.files import file_sha256, write_bytes

SET = "adversarial.safetensors"
SPEC = "attack.json"


def write_set(folder: Path, x_adv: Tensor, columns: dict[str, Tensor], spec: dict, texts: dict[str, str]) -> None:
    """Writes a set, and ``texts`` by their names, to the new or empty ``folder``.

    The file of images comes last, so a set that has it is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC).write_text(json.dumps(spec, indent=2) + "\n")
    for name, text in texts.items():
        (folder / name).write_text(text)
    write_bytes(folder / SET, save({"x_adv": x_adv.contiguous(), **columns}))


def stored_images(folder: Path, index: Tensor) -> Tensor:
    """The set's images of the test images ``index``: float32 ``[b, C, H, W]``.

    ``index`` int64 ``[b]`` are places in the test split. Raises :class:`DataError` where they are not all there.
    """
    file = folder / SET if folder.is_dir() else folder
    rows, (count, kind, shape) = _rows(file)
    missing = [one for one in index.tolist() if one not in rows]
    if missing:
        raise DataError(
            f"{file}: holds {count} images, but not that of test image {missing[0]} (index); evaluate with the n and "
            "the seed that it was made with, or bring the images that are missing"
        )
    if kind != "F32" or len(shape) != 4:
        raise DataError(f"{file}: x_adv is {kind} {shape}; it must be float32 [N, C, H, W]")
    with safe_open(file, framework="pt") as stored:
        return stored.get_tensor("x_adv")[torch.tensor([rows[one] for one in index.tolist()], dtype=torch.long)]


def identity(folder: Path) -> str:
    """The sha256 of a set's file. Raises :class:`DataError` where there is none."""
    file = folder / SET if folder.is_dir() else folder
    _rows(file)
    return file_sha256(file)


@cache
def _rows(file: Path) -> tuple[dict[int, int], tuple[int, str, list[int]]]:
    try:
        with safe_open(file, framework="pt") as stored:
            stored_images, index = stored.get_slice("x_adv"), stored.get_tensor("index").tolist()
            shape = stored_images.get_shape()
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file; name a folder that distrib export wrote") from None
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: not a set of images ({error}); it needs the tensors x_adv and index") from None
    if len(index) != shape[0] or len(set(index)) != len(index):
        raise DataError(f"{file}: {shape[0]} images, but {len(set(index))} different indices of {len(index)}")
    return {one: row for row, one in enumerate(index)}, (shape[0], stored_images.get_dtype(), shape)

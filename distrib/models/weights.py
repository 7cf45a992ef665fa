"""A network's weights as a safetensors file."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distrib.errors import CheckpointError


def finite(tensors: dict[str, Tensor]) -> bool:
    """Whether all numbers of all tensors are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors of any device to a safetensors file."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the model's parameters and buffers to a safetensors file."""
    save_tensors(model.state_dict(), path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Puts the tensors of a safetensors file into ``model``, all of them or none. Raises :class:`CheckpointError`."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error})") from None
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys()) or sorted(
        name for name, tensor in expected.items() if tensor.shape != tensors[name].shape
    )
    if wrong:
        raise CheckpointError(f"{path}: these weights are of another model ({', '.join(wrong[:3])} differ)")
    model.load_state_dict(tensors)

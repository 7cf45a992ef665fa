"""Files of tensors that others wrote: state dicts, read without running what may be in them."""

import pickle
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distrib.errors import CheckpointError


def read_tensors(path: Path, field: str) -> dict[str, Tensor]:
    """The tensors of a file by their names; of a pickle only where it holds nothing that runs code.

    What training scripts save around a state dict is taken off. Raises :class:`CheckpointError` that names ``field``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that torch did not write
            found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{field}: {path}: holds more than tensors, and what it holds might run code; in Python, save the "
            "state dict alone: torch.save(network.state_dict(), 'weights.pt')"
        ) from None
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{field}: {path}: cannot be read ({reason})") from None
    for key in ("state_dict", "model_state_dict", "model"):  # what training scripts save around it
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(one, Tensor) for one in found.values()):
        raise CheckpointError(f"{field}: {path}: is no state dict: names with a tensor each")
    return found

"""distrib.models.weights: a network's tensors go to a file and come back, all of them or none."""

from pathlib import Path

import pytest
import torch
from states import small_cnn, with_norms

from distrib.errors import CheckpointError
from distrib.models.weights import finite, load_weights, save_weights


def test_parameters_and_buffers_come_back(tmp_path: Path):
    torch.manual_seed(0)
    model = with_norms().to(memory_format=torch.channels_last)
    model(torch.rand(4, 1, 8, 8))  # moves the running statistics
    save_weights(model, tmp_path / "weights.safetensors")
    again = with_norms()
    load_weights(again, tmp_path / "weights.safetensors")
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_found(wrong: float):
    tensors = {"a": torch.zeros(3), "b": torch.zeros(2, 2), "count": torch.tensor(1)}
    assert finite(tensors)
    tensors["b"][1, 1] = wrong
    assert not finite(tensors)


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path):
    for content in (b"", b"PK\x03\x04 a zip", b"\xff" * 64):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
            load_weights(small_cnn(), path)
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        load_weights(small_cnn(), tmp_path / "gone.safetensors")

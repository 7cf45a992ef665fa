"""State dicts of others: what training scripts save around them is taken off, and nothing in them is run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distrib.commands.tensors import read_tensors
from distrib.errors import CheckpointError

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("around", [None, "state_dict", "model_state_dict", "model"])
def test_a_state_dict_is_read_with_whatever_is_around_it(tmp_path: Path, around: str | None):
    torch.save(TENSORS if around is None else {around: TENSORS, "epoch": 3}, tmp_path / "w.pt")
    found = read_tensors(tmp_path / "w.pt", "model")
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_safetensors_are_read_as_they_are(tmp_path: Path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    assert torch.equal(read_tensors(tmp_path / "w.safetensors", "model")["weight"], TENSORS["weight"])


def test_what_is_none_is_refused_by_the_field_that_names_it(tmp_path: Path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save({"weight": 1}, tmp_path / "numbers.pt")
    (tmp_path / "damaged.safetensors").write_bytes(b"none")
    for name, words in (
        ("module.pt", "holds more than tensors"), ("numbers.pt", "is no state dict"),
        ("damaged.safetensors", "cannot be read"), ("gone.pt", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=rf"^model: .*{name}: {words}"):
            read_tensors(tmp_path / name, "model")

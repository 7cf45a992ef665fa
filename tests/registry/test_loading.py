"""A stored model as a module: an ordinary one where the network can be built without code that came with it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from cards import claim, register

from distrib.errors import CheckpointError, RegistryError
from distrib.evaluation.models import Weights
from distrib.registry import versions
from distrib.registry.loading import load

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pulled(weights: Weights, uri: str, tmp_path: Path) -> Path:
    register(weights, uri, claim(0.5), name="loaded", same=True)
    versions.pull("models:/loaded/1", tmp_path / "pulled", uri)
    return tmp_path / "pulled"


def expected(weights: Weights) -> torch.Tensor:
    return weights.load(torch.device("cpu"))(X)


@pytest.mark.parametrize("address", ["models:/loaded/1", "models:/loaded@champion", "pulled"])
def test_a_network_of_ours_comes_as_an_ordinary_module(weights: Weights, uri: str, pulled: Path, address: str):
    net = load(address.replace("pulled", str(pulled)), uri)
    torch.testing.assert_close(net(X), expected(weights))
    assert not net.training and net.train().training
    net(X).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("lost", ["job.json", "weights.safetensors", "card.json"])
def test_without_its_parts_it_comes_as_the_program(weights: Weights, uri: str, pulled: Path, lost: str):
    (pulled / lost).unlink()
    for address in (pulled, pulled / "model" / "data" / "model.pt2"):
        net = load(str(address), uri)
        torch.testing.assert_close(net(X), expected(weights))
        assert net.eval() is net and net.train() is net  # torch's own raise NotImplementedError
        assert torch.nn.Sequential(net).eval()(X).shape == (3, 10)


def test_code_that_came_with_a_model_is_not_run(weights: Weights, uri: str, pulled: Path):
    source = "raise SystemExit('run')\ndef build(image, num_classes): ..."
    job = json.loads((pulled / "job.json").read_text())
    job["model"] = {"arch": "custom", "factory": "mine:build", "source": source}
    (pulled / "job.json").write_text(json.dumps(job))
    (pulled / "model.py").write_text(source)
    torch.testing.assert_close(load(str(pulled))(X), expected(weights))
    assert "model" not in sys.modules


def test_what_is_not_there_is_told(uri: str, pulled: Path):
    with pytest.raises(RegistryError, match=r"models:/nowhere/1: not in .*; registered there: .*loaded"):
        load("models:/nowhere/1", uri)
    with pytest.raises(CheckpointError, match="there is no such model; name models:/NAME/VERSION, a folder"):
        load(str(pulled / "nowhere"))
    shutil.rmtree(pulled / "model")
    with pytest.raises(CheckpointError, match="holds no model"):
        load(str(pulled))

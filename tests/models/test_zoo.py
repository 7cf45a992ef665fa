"""torchvision behind its door: what fits is adapted, what does not is refused with a cure."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import distrib.models
from distrib.errors import JobError
from distrib.models import TorchvisionNet
from distrib.models.layers import Normalise

GREY = ((1, 16, 16), 5, (0.5,), (0.25,))
COLOUR = ((3, 16, 16), 5, (0.5,) * 3, (0.25,) * 3)


def test_torchvision_is_imported_on_use_and_behind_one_door():
    """Its import takes seconds and is not needed for our own models."""
    for path in Path(distrib.models.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        at_import = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any("torchvision" in line for line in at_import), path
        assert "from torchvision" not in path.read_text() or path.name == "zoo.py"


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValidationError, match="no classifier 'resnet81'; the nearest names are resnet18"):
        TorchvisionNet(name="resnet81")
    with pytest.raises(ValidationError, match="no classifier 'fcn_resnet50'"):  # in torchvision, but no classifier
        TorchvisionNet(name="fcn_resnet50")


def test_grey_images_are_repeated_and_resized():
    torch.manual_seed(0)
    net = TorchvisionNet(name="squeezenet1_1", resize=32).build(*GREY)
    assert net.training
    net.eval()
    x = torch.rand(2, 1, 16, 16, requires_grad=True)
    logits = net(x)
    assert logits.shape == (2, 5) and logits.dtype == torch.float32
    colour = ((x - 0.5) / 0.25).repeat(1, 3, 1, 1)
    large = torch.nn.functional.interpolate(colour, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, net.get_submodule("net")(large))
    logits.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_colour_images_and_normalisation_first():
    net = TorchvisionNet(name="mobilenet_v3_small").build(*COLOUR).eval()
    first = next(net.children())
    assert isinstance(first, Normalise) and first.std.flatten().tolist() == [0.25] * 3
    assert net(torch.rand(2, 3, 16, 16)).shape == (2, 5)


def test_same_seed_same_weights():
    def draw() -> torch.Tensor:
        torch.manual_seed(3)
        net = TorchvisionNet(name="squeezenet1_1", resize=32).build(*GREY)
        return torch.cat([p.flatten() for p in net.parameters()])

    assert torch.equal(draw(), draw())


def test_auxiliary_outputs_are_off():
    net = TorchvisionNet(name="googlenet").build(*COLOUR)
    assert isinstance(net(torch.rand(2, 3, 16, 16)), torch.Tensor)  # in training mode, where they would appear


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(JobError, match="1 or 3 channels, not 4"):
        TorchvisionNet(name="resnet18").build((4, 16, 16), 5, (0.5,) * 4, (0.25,) * 4)
    with pytest.raises(JobError, match=r"model\.resize: squeezenet1_1 does not take images of 8x8 pixels.*set resize"):
        TorchvisionNet(name="squeezenet1_1").build((1, 8, 8), 5, (0.5,), (0.25,))


def test_missing_torchvision_is_an_error_with_a_cure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ValidationError, match=r"torchvision cannot be imported.*install it"):
        TorchvisionNet(name="resnet18")

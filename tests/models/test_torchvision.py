"""torchvision behind its door: what fits is adapted, what does not is refused with a cure."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from distrib.errors import JobError
from distrib.files import file_sha256
from distrib.models import TorchvisionNet
from distrib.models.layers import Normalise
from distrib.models.start import Init, begin_from
from distrib.models.torchvision import zoo

GREY = ((1, 16, 16), 5, (0.5,), (0.25,))
COLOUR = ((3, 16, 16), 5, (0.5,) * 3, (0.25,) * 3)


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


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``cached(name)`` puts random weights of that network where torchvision keeps what it fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def put(name: str) -> Path:
        models = zoo()
        net = models.get_model(name, weights=None, **({"init_weights": False} if name == "googlenet" else {}))
        file = tmp_path / "hub" / "checkpoints" / Path(models.get_model_weights(name).DEFAULT.url).name
        file.parent.mkdir(parents=True)
        torch.save(net.state_dict(), file)
        return file

    return put


@pytest.mark.parametrize(
    ("name", "image", "mean"),
    [
        ("resnet18", COLOUR, [0.485, 0.456, 0.406]),
        ("resnet18", GREY, [(0.485 + 0.456 + 0.406) / 3]),
        ("googlenet", COLOUR, [0.5] * 3),  # whose weights want pixels in [-1, 1]
    ],
)
def test_pretrained_weights_come_with_their_normalisation(cached: Callable, name: str, image: tuple, mean: list):
    file = cached(name)
    tensors, sha256 = TorchvisionNet(name=name).pretrained(image[0], download=False)
    assert sha256 == file_sha256(file)
    net = TorchvisionNet(name=name, resize=32).build(*image)
    begin_from(net, tensors, Init(weights="pretrained", head="new"))
    assert net.get_submodule("normalise").mean.flatten().tolist() == pytest.approx(mean)
    state = net.get_submodule("net").state_dict()
    stored = torch.load(file, weights_only=True)
    same = {key for key in state if stored[key].shape == state[key].shape and torch.equal(stored[key], state[key])}
    assert {key for key in state if not key.startswith("fc.")} <= same


def test_pretrained_weights_that_are_not_here_are_fetched_only_if_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *given, **named: pytest.fail("fetched"))
    with pytest.raises(JobError, match=r"init\.weights: .*resnet18-.*\.pth is not there; .*init\.download: true"):
        TorchvisionNet(name="resnet18").pretrained((3, 16, 16), download=False)

    def no_network(*given: object, **named: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(JobError, match=r"init\.weights: https.* cannot be had \(no network\); put it at .*resnet18-"):
        TorchvisionNet(name="resnet18").pretrained((3, 16, 16), download=True)

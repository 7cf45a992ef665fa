"""What every model of our own promises, one table through each property."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from distrib.errors import JobError
from distrib.models import Model, PaperCNN, PreActResNet, SmallCNN, TorchvisionNet, WideResNet
from distrib.models.layers import Normalise

CASES = {
    "paper_cnn": (PaperCNN(width=1 / 16), 4),
    "small_cnn": (SmallCNN(width=1 / 8), 4),
    "preact_resnet": (PreActResNet(width=1 / 16), 8),
    "wide_resnet": (WideResNet(depth=10, width=0.125), 4),
    "wide_resnet_paper": (
        WideResNet(depth=10, width=0.125, activation="leaky_relu", normalisation="per_image"),
        4,
    ),
}
own = pytest.mark.parametrize(("model", "least"), CASES.values(), ids=CASES.keys())
OwnModel = PaperCNN | SmallCNN | PreActResNet | WideResNet


def build(model: OwnModel, image: tuple[int, int, int], num_classes: int = 10, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return model.build(image, num_classes, [0.4] * image[0], [0.3] * image[0])


@own
@pytest.mark.parametrize("image", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 14)])
def test_pixels_in_logits_out(model: OwnModel, least: int, image: tuple[int, int, int]):
    net = build(model, image, num_classes=7)
    assert net.training
    x = torch.rand(2, *image)
    before = x.clone()
    logits = net(x)
    assert logits.shape == (2, 7) and logits.dtype == torch.float32 and logits.isfinite().all()
    assert torch.equal(x, before)


@own
def test_smallest_images(model: OwnModel, least: int):
    assert build(model, (1, least, least)).eval()(torch.rand(1, 1, least, least)).shape == (1, 10)
    with pytest.raises(
        JobError, match=f"model.arch: {model.arch} needs .*{least}x{least} pixels.*1x{least}x{least - 1}"
    ):
        build(model, (1, least, least - 1))


@own
def test_too_few_channels_or_classes_are_refused(model: OwnModel, least: int):
    with pytest.raises(JobError, match="at least 1 channel"):
        build(model, (0, 8, 8))
    with pytest.raises(JobError, match="at least 2 classes, and num_classes is 1"):
        build(model, (1, 8, 8), num_classes=1)


@own
def test_gradient_reaches_every_pixel_and_parameter(model: OwnModel, least: int):
    net = build(model, (3, 8, 8))
    x = torch.rand(16, 3, 8, 8, requires_grad=True)
    torch.nn.functional.cross_entropy(net(x), torch.arange(16) % 10).backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.flatten(1).abs().sum(dim=1).all()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@own
def test_two_forwards_then_two_backwards(model: OwnModel, least: int):
    """No layer writes over what another still needs: as in TRADES, where two batches meet in one loss."""
    net = build(model, (1, 8, 8)).eval()
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    first, second = net(x), net(x)
    (gradient,) = torch.autograd.grad((first - 2 * second).sum(), x)
    (single,) = torch.autograd.grad(net(x).sum(), x)
    torch.testing.assert_close(gradient, -single)


@own
def test_normalisation_is_inside_and_first(model: OwnModel, least: int):
    net = build(model, (3, 8, 8))
    if isinstance(model, WideResNet) and model.normalisation == "per_image":
        net.eval()
        x = torch.rand(2, 3, 8, 8)
        torch.testing.assert_close(net(x), net(0.5 * x + 0.25), atol=1e-4, rtol=1e-4)  # blind to affine changes
        return
    first = next(net.children())
    assert isinstance(first, Normalise)
    buffers = dict(net.named_buffers())
    torch.testing.assert_close(buffers["normalise.mean"].flatten(), torch.full((3,), 0.4))
    torch.testing.assert_close(buffers["normalise.std"].flatten(), torch.full((3,), 0.3))
    assert {"normalise.mean", "normalise.std"} <= net.state_dict().keys()  # so a checkpoint is complete
    assert not {"normalise.mean", "normalise.std"} & dict(net.named_parameters()).keys()
    with pytest.raises(JobError, match="std: channel 2"):
        model.build((3, 8, 8), 10, [0.4] * 3, [0.3, 0.3, 0.0])


@own
def test_weights_depend_on_the_seed_only(model: OwnModel, least: int):
    first, again, other = (build(model, (1, 8, 8), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@own
def test_export_with_any_batch(model: OwnModel, least: int):
    net = build(model, (1, 8, 8)).eval()
    example: tuple[Tensor, ...] = (torch.rand(4, 1, 8, 8),)
    exported = torch.export.export(net, example, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)).module()
    for batch in (1, 7):
        x = torch.rand(batch, 1, 8, 8)
        torch.testing.assert_close(exported(x), net(x))


adapter: TypeAdapter[Model] = TypeAdapter(Model)


@pytest.mark.parametrize(
    "value", [*(model for model, _ in CASES.values()), TorchvisionNet(name="resnet18", resize=64)], ids=lambda v: v.arch
)
def test_union_round_trip(value: Model):
    assert adapter.validate_python(value.model_dump()) == value
    assert adapter.validate_json(adapter.dump_json(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        {"arch": "resnet"},
        {"width": 1.0},
        {"arch": "paper_cnn", "width": 0.0},
        {"arch": "paper_cnn", "width": -1.0},
        {"arch": "paper_cnn", "width": float("inf")},
        {"arch": "small_cnn", "depth": 18},
        {"arch": "preact_resnet", "depth": 50},
        {"arch": "wide_resnet", "depth": 30},
        {"arch": "wide_resnet", "activation": "gelu"},
        {"arch": "torchvision"},
        {"arch": "torchvision", "name": "resnet18", "resize": 0},
    ],
)
def test_union_refuses(value: dict[str, object]):
    with pytest.raises(ValidationError):
        adapter.validate_python(value)


def test_values_are_frozen():
    with pytest.raises(ValidationError):
        PaperCNN().width = 2.0  # pyright: ignore[reportAttributeAccessIssue]

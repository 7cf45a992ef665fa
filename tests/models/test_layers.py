"""Layers against closed forms."""

import math

import pytest
import torch

from distrib.errors import JobError
from distrib.models.layers import GlobalMean, PerImage, channels, normalise_by


@pytest.mark.parametrize(("base", "width", "count"), [(32, 1.0, 32), (32, 1 / 16, 2), (16, 0.01, 1), (16, 0.72, 12)])
def test_channels_are_rounded_and_never_none(base: int, width: float, count: int):
    assert channels(base, width) == count


def test_normalise_is_affine_by_channel():
    x = torch.rand(3, 2, 4, 5)
    layer = normalise_by(2, [0.25, 0.5], [0.5, 2.0])
    expected = torch.stack([(x[:, 0] - 0.25) / 0.5, (x[:, 1] - 0.5) / 2], dim=1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0.5], [0.2, 0.2], "mean: expected 2"),
        ([0.5, 0.5], [0.2], "std: expected 2"),
        ([0.5, math.nan], [0.2, 0.2], "mean: expected 2 finite"),
        ([0.5, 0.5], [0.2, math.inf], "std: expected 2 finite"),
        ([0.5, 0.5], [0.2, 0.0], "std: channel 1 has std 0.0"),
        ([0.5, 0.5], [-0.2, 0.1], "std: channel 0"),
    ],
)
def test_normalise_refuses_what_would_give_nan(mean: list[float], std: list[float], words: str):
    with pytest.raises(JobError, match=words):
        normalise_by(2, mean, std)


def test_per_image_gives_mean_0_and_std_1_to_each_image():
    x = torch.rand(5, 3, 8, 8) * torch.linspace(0.3, 1, 5).view(-1, 1, 1, 1) + 0.1
    out = PerImage()(x).flatten(1)
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(dim=1, correction=0), torch.ones(5))


def test_per_image_divides_flat_images_by_the_least_std():
    """``max(stddev, 1 / sqrt(number of elements))``, as TensorFlow documents it; and no nan in the gradient."""
    x = torch.full((1, 3, 4, 4), 0.5)
    x[0, 0, 0, 0] += 0.01
    x.requires_grad_()
    out = PerImage()(x)
    torch.testing.assert_close(out, (x - x.mean()) * math.sqrt(48))
    constant = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    PerImage()(constant)[0, 0, 0, 0].backward()
    assert constant.grad is not None and constant.grad.isfinite().all()


def test_global_mean():
    x = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(GlobalMean()(x), x.flatten(2).mean(dim=2))

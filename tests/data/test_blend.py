"""MixUp and CutMix: what remains of each image is its share of the label, and is drawn as the papers draw it."""

import pytest
import torch
from torch import Tensor

from distrib.data.blend import QUANTILES, Blend
from distrib.noise import Noise

K = 5


def pictures(count: int, height: int = 8, width: int = 12) -> tuple[Tensor, Tensor]:
    """Images whose numbers all differ, and labels of which neighbours differ."""
    x = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(count) % K


def streams(count: int, epoch: int = 0) -> Noise:
    return Noise.of(torch.arange(count), 0, "blend", epoch)


def test_mixup_fades_images_and_labels_alike():
    x, y = pictures(301)
    mixed, shares = Blend(0.5, 0.0, K)(x, y, streams(300))
    assert mixed.shape == (300, 3, 8, 12) and shares.shape == (300, K) and mixed.dtype == shares.dtype == torch.float32
    own = shares.gather(1, y[1:, None])[:, 0]
    torch.testing.assert_close(shares.sum(1), torch.ones(300))
    torch.testing.assert_close(shares.gather(1, y[:-1, None])[:, 0], 1 - own)
    weight = own.view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed, weight * x[1:] + (1 - weight) * x[:-1])
    assert own.min() < 0.02 and own.max() > 0.98 and 0.4 < own.mean() < 0.6


def test_cutmix_puts_a_rectangle_of_the_neighbour_in_and_counts_its_pixels():
    x, y = pictures(301)
    mixed, shares = Blend(0.0, 1.0, K)(x, y, streams(300))
    from_own, from_other = (mixed == x[1:]).all(1), (mixed == x[:-1]).all(1)
    assert (from_own ^ from_other).all(), "each pixel is one of both, whole"
    own = shares.gather(1, y[1:, None])[:, 0]
    torch.testing.assert_close(own, from_own.float().mean((1, 2)))
    for hole in from_other:
        rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
        if len(rows):
            box = hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all() and hole.sum() == box.numel(), "it is a rectangle"
    sizes = from_other.float().mean((1, 2))
    assert sizes.min() < 0.05 and sizes.max() > 0.8 and len(sizes.unique()) > 30


def test_with_both_each_image_meets_one_of_them():
    x, y = pictures(2001)
    mixed, _ = Blend(1.0, 1.0, K)(x, y, streams(2000))
    cut = ((mixed == x[1:]).all(1) | (mixed == x[:-1]).all(1)).all(-1).all(-1)
    assert 900 < cut.sum() < 1100


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_what_remains_has_the_beta_distribution(alpha: float):
    """Its mean is a half, its variance 1 / (4 (2 alpha + 1))."""
    blend = Blend(alpha, 0.0, K)
    assert len(blend.shares[alpha]) == QUANTILES and (blend.shares[alpha].diff() >= 0).all()
    drawn = blend._remains(alpha, streams(20_000))
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_an_image_is_blended_alike_in_any_company_and_otherwise_in_each_epoch():
    x, y = pictures(9)
    blend = Blend(1.0, 1.0, K)
    whole = blend(x, y, streams(8))
    alone = [blend(x[i : i + 2], y[i : i + 2], streams(8)[torch.tensor([i])]) for i in range(8)]
    for part, ones in zip(whole, zip(*alone, strict=True), strict=True):
        assert torch.equal(part, torch.cat(ones))
    assert not torch.equal(whole[0], blend(x, y, streams(8, epoch=1))[0])

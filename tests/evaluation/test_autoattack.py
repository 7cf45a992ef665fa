"""distrib.evaluation.autoattack: the authors' attacks as they are, and on images of any size."""

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from distrib.data.loader import Batch
from distrib.evaluation import autoattack
from distrib.threat import L2

OTHERS = [(12, 20), (20, 12), (14, 3), (29, 50), (29, 52), (4, 64), (64, 4), (1, 9)]


class Far(nn.Module):
    """Says class 1 of images that are further than ``reach`` from grey."""

    def __init__(self, reach: float):
        super().__init__()
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        assert x.stride() == torch.empty(x.shape).stride()
        distance = (x - 0.5).flatten(1).norm(dim=1)
        return torch.stack([torch.full_like(distance, self.reach), distance], dim=1)


@pytest.mark.parametrize("sizes", [[(side, side) for side in range(1, 65)], OTHERS], ids=["every side", "not square"])
def test_square_under_l2_takes_images_of_any_size(sizes: list[tuple[int, int]]):
    """And spends all of epsilon within them."""
    threat, y = L2(epsilon=0.2), torch.zeros(2, dtype=torch.long)
    for height, width in sizes:
        x = torch.full((2, 1 + 2 * (width % 2), height, width), 0.5)
        x_adv = autoattack.square(Far(0.19), Batch(x, y, y), threat, 0, 10)
        torch.testing.assert_close(threat.size(x_adv - x), torch.full((2,), 0.2), rtol=1e-4, atol=0)


def test_so_does_autoattack():
    x, y = torch.full((2, 3, 12, 12), 0.5), torch.zeros(2, dtype=torch.long)
    x_adv, stage = autoattack.autoattack(Far(0.19), Batch(x, y, y), L2(epsilon=0.2), 0, ("square",))
    assert stage == ["square", "square"] and x_adv.shape == x.shape


@pytest.mark.parametrize("size", [(5, 5), (8, 8), (13, 13), (28, 28), (32, 32), (6, 10), (10, 6)], ids=str)
def test_where_the_package_takes_a_size_its_images_are_the_same_to_the_bit(size: tuple[int, int]):
    x = torch.rand(20, 1, *size, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 5))
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    package = SquareAttack(
        model, norm="L2", n_queries=50, eps=0.3, p_init=0.8, seed=7, resc_schedule=False, device=x.device
    )
    found = autoattack.square(model, Batch(x, y, y), L2(epsilon=0.3), 7, 50)
    assert torch.equal(found, package.perturb(x, y)) and (found != x).flatten(1).any(dim=1).sum() > 0

"""BatchNorm over several workers: what torch's own gives for the whole batch in one place."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.models.batch_norm import over_all, unrecorded
from distrib.world import World


class Twin(World):
    """One of two ranks, whose images are the same: every sum over both is twice its own."""

    asked: list[int]

    def sum(self, values: Tensor) -> Tensor:
        self.asked.append(values.numel())
        return 2 * values


def twin() -> Twin:
    world = Twin(0, 2)
    object.__setattr__(world, "asked", [])  # a frozen dataclass
    return world


def images(shape: tuple[int, ...], mean: float = 0.0) -> Tensor:
    return mean + torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))


LAYERS: dict[str, Any] = {
    "plain": lambda: nn.BatchNorm2d(3),
    "moved": lambda: nn.BatchNorm2d(3, momentum=0.4, eps=1e-2),
    "without weights": lambda: nn.BatchNorm2d(3, affine=False),
    "without statistics": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "of vectors": lambda: nn.BatchNorm1d(3),
}


@pytest.mark.parametrize("mean", [0.0, 50.0])
@pytest.mark.parametrize("name", LAYERS)
def test_two_ranks_are_one_batch(name: str, mean: float):
    """Forward, backward and running statistics are those of torch's layer on both halves together."""
    x, layer = images((3,) if name == "of vectors" else (3, 4, 5), mean), LAYERS[name]()
    if layer.affine:
        with torch.no_grad():
            layer.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
            layer.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    weigh = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    whole, ours, theirs = copy.deepcopy(layer), x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()
    for _ in range(3):
        ours.grad = theirs.grad = None
        layer.zero_grad()
        whole.zero_grad()
        out = over_all(layer, twin())(ours)
        expected = whole(theirs)
        (out.square() * weigh).sum().backward()
        (expected.square() * torch.cat([weigh, weigh])).sum().backward()
    torch.testing.assert_close(out, expected[:6], rtol=1e-4, atol=1e-4)
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad[:6], rtol=1e-3, atol=1e-3)
    for own, other in zip(layer.parameters(), whole.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None
        torch.testing.assert_close(2 * own.grad, other.grad, rtol=1e-3, atol=1e-3)  # DDP sums over the ranks
    for own, other in zip(layer.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_half_the_digits_are_kept_in_half_and_the_layout_is_kept():
    x = images((3, 4, 5)).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    out = over_all(nn.BatchNorm2d(3), twin())(x)
    assert out.dtype == torch.bfloat16 and out.is_contiguous(memory_format=torch.channels_last)
    out.float().square().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    expected = F.batch_norm(x.detach().float(), None, None, training=True)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)


def test_each_layer_asks_once_on_the_way_there_and_once_on_the_way_back():
    world = twin()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    out = over_all(net, world)(images((3, 6, 6)))
    assert world.asked == [9, 11]
    out.sum().backward()
    assert world.asked == [9, 11, 10, 8]


def test_in_evaluation_nobody_is_asked():
    world, net = twin(), nn.BatchNorm2d(3).eval()
    x = images((3, 4, 5))
    assert torch.equal(over_all(net, world)(x), net(x)) and world.asked == []


def test_outside_the_forward_a_layer_is_as_ever():
    world, net = twin(), nn.BatchNorm2d(3)
    over_all(net, world)(images((3, 4, 5)))
    before = len(world.asked)
    net(images((3, 4, 5)))
    assert len(world.asked) == before == 1


def test_unrecorded_leaves_the_running_statistics_alone():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3).eval())
    before = {name: one.clone() for name, one in net.state_dict().items()}
    with unrecorded(net):
        net(images((3, 4, 5), 2.0))
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    net(images((3, 4, 5), 2.0))
    assert net[0].num_batches_tracked == 1 and not torch.equal(net.state_dict()["0.running_mean"], torch.zeros(3))
    assert [one.track_running_stats for one in net] == [True, False, True]

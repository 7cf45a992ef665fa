"""The small networks against the sizes that their papers give."""

import pytest
import torch
from torch import nn

from distrib.models import PaperCNN, SmallCNN

MNIST = ((1, 28, 28), 10, (0.1307,), (0.3081,))


def num_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts():
    """3,274,634 = 832 + 51,264 + 3,212,288 + 10,250 (the paper's net); 166,406 (Wong et al.'s)."""
    assert num_parameters(PaperCNN().build(*MNIST)) == 3_274_634
    assert num_parameters(SmallCNN().build(*MNIST)) == 166_406


@pytest.mark.parametrize("doublings", range(5))
def test_capacity_series_of_the_paper(doublings: int):
    """2 and 4 channels and a layer of 64, doubled up to 16 times (section 4)."""
    net = PaperCNN(width=2.0**doublings / 16).build(*MNIST)
    sizes = [module.weight.shape[0] for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert sizes == [2 * 2**doublings, 4 * 2**doublings, 64 * 2**doublings, 10]


def test_paper_cnn_layer_by_layer():
    """Padding keeps the size under the convolutions; pooling halves it: 28 -> 14 -> 7."""
    net = PaperCNN(width=1 / 16).build(*MNIST)
    x, shapes = torch.rand(2, 1, 28, 28), {}
    for name, layer in net.named_children():
        x = layer(x)
        shapes[name] = tuple(x.shape[1:])
    assert shapes["conv1"] == (2, 28, 28) and shapes["pool1"] == (2, 14, 14)
    assert shapes["conv2"] == (4, 14, 14) and shapes["pool2"] == (4, 7, 7)
    assert shapes["fc1"] == (64,)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_pooling_first_gives_what_the_papers_order_gives(precision: torch.dtype):
    """relu, then pooling: the same logits and the same gradient, to the bit."""
    torch.manual_seed(0)
    net = PaperCNN(width=1 / 4).build(*MNIST)
    papers = [net.get_submodule(name) for name in ["normalise", "conv1", "relu1", "pool1", "conv2", "relu2", "pool2"]]
    x = torch.rand(16, 1, 28, 28, requires_grad=True)
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        ours, theirs = net[:7](x), nn.Sequential(*papers)(x)
    weights = torch.randn_like(ours)
    assert torch.equal(ours, theirs) and ours.abs().sum() > 0
    assert torch.equal(*(torch.autograd.grad(one, x, weights)[0] for one in (ours, theirs)))

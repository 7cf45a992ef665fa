"""Our images made fit for somebody else's network, and the attempt that says whether they do fit."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distrib.errors import JobError
from distrib.models.adapt import Repeat, Resize, WithoutWeights, attempt, normalisation


def test_grey_is_repeated_and_its_gradient_summed():
    x = torch.rand(2, 1, 4, 5, requires_grad=True)
    colours = Repeat()(x)
    assert torch.equal(colours, torch.cat([x, x, x], 1))
    colours.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full_like(x, 3.0))


def test_images_of_any_shape_become_square():
    x = torch.rand(2, 3, 4, 6)
    expected = functional.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(Resize(8)(x), expected)


def test_a_module_without_weights_takes_no_memory_and_no_random_numbers():
    before = torch.get_rng_state()
    with WithoutWeights():
        layer = nn.Linear(10**6, 10**6)
    assert layer.weight.is_meta and torch.equal(before, torch.get_rng_state())


def test_a_network_that_fits_is_left_in_training_mode():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    assert attempt("mine", net.eval(), (3, 2, 2), 5, None) is net and net.training


def test_one_that_does_not_is_refused_with_the_size_that_it_saw():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(JobError, match=r"model\.resize: mine does not take images of 9x9 pixels .*set resize to 224"):
        attempt("mine", net, (3, 4, 4), 5, 9)
    with pytest.raises(JobError, match=r"model\.name: mine does not return logits \[B, 6\]"):
        attempt("mine", net, (3, 2, 2), 6, None)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_more_than_logits_is_refused():
    with pytest.raises(JobError, match="does not return logits"):
        attempt("pair", Pair(), (3, 2, 2), 5, None)


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [(3, [0.5, 0.25, 0.0], [1.0, 2.0, 3.0]), (1, [0.25], [2.0]), (2, [0.25] * 2, [2.0] * 2)],
)
def test_the_normalisation_of_published_weights(channels: int, mean: list, std: list):
    """One for all colours is repeated; grey, and what has other channels, has that of the mean colour."""
    colours = [0.5, 0.25, 0.0], [1.0, 2.0, 3.0]
    found = normalisation(channels, *colours)
    assert {name: tensor.flatten().tolist() for name, tensor in found.items()} == {
        "normalise.mean": mean, "normalise.std": std,
    }  # fmt: skip
    assert found["normalise.mean"].shape == (len(mean), 1, 1)
    assert normalisation(3, [0.5], [0.5])["normalise.std"].flatten().tolist() == [0.5] * 3

"""Sums over ranks, without ranks."""

import pytest
import torch

from distrib.world import World


@pytest.mark.parametrize(
    ("numbers", "agree"), [([0, 0], True), ([7, 7, 7], True), ([7, 8], False), ([1, 2, 3], False), ([0, 5], False)]
)
def test_ranks_agree_only_where_all_have_the_same_number(
    numbers: list[int], agree: bool, monkeypatch: pytest.MonkeyPatch
):
    """Also the rank whose own number is the mean of all must see it."""
    pairs = torch.tensor([[number, number**2] for number in numbers], dtype=torch.float64)
    monkeypatch.setattr(World, "sum", lambda self, values: pairs.sum(dim=0))
    for rank, number in enumerate(numbers):
        assert World(rank, len(numbers)).agree(number) is agree


def test_one_process_agrees_with_itself():
    assert World().agree(3)

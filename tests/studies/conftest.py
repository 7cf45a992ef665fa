"""A model that the studies' tests share."""

from pathlib import Path

import pytest
import torch
from studies import Linear, task
from torch import nn


@pytest.fixture(scope="session")
def fitted(digits: Path) -> Linear:
    """A linear model that knows the digits."""
    torch.manual_seed(0)
    model = Linear()
    one = task(digits, m=model).batch(300, 1, 0, 300)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(one.x), one.y).backward()
        optimiser.step()
    return model

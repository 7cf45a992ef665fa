"""The way of a batch from its reader to a GPU."""

import numpy as np
import pytest
import torch
from gpu import GPU, Late, Overwriting
from torch import Tensor

from distrib.data import loader as loader_module
from distrib.data.loader import shard
from distrib.world import World


def test_what_ffcv_has_pinned_already_is_not_overwritten_before_it_is_copied(monkeypatch: pytest.MonkeyPatch):
    """The whole way to the device, with a GPU that does not exist: pin_memory gives a pinned tensor itself back."""
    late, to = Late(), Tensor.to

    class Event:
        def record(self, stream: object) -> None:
            self.copies = list(late.waiting)

        def synchronize(self) -> None:
            late.made(self.copies)

    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "to", lambda tensor, *a, **k: late.copy(tensor) if GPU in a else to(tensor, *a, **k))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(loader_module, "unit", lambda image: image)  # what the GPU would compute after the copy
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    batches = list(shard(Overwriting(), order, 2, World(device=GPU)))
    late.made(list(late.waiting))
    assert torch.cat([batch.x for batch in batches])[:, 0, 0, 0].tolist() == [one + 1 for one in order]

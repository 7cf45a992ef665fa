"""Batches are staged so that each reaches the device as it was read, however late the copy is made."""

import numpy as np
import pytest
import torch
from gpu import GPU, IMAGES, LABELS, Late, Overwriting
from torch import Tensor

from distrib.data.staging import SLOTS, Staging


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_a_batch_is_right_however_late_it_is_copied(batch_size: int):
    late = Late()
    staging = Staging(GPU, late.start, torch.empty_like)
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    found = [staging(raw) for raw in Overwriting().read(order, batch_size)]
    assert late.waiting, "the last copies are still to be made"
    late.made(list(late.waiting))
    assert torch.equal(torch.cat([image for image, _, _ in found]), IMAGES[order])
    assert torch.equal(torch.cat([label for _, label, _ in found]), LABELS[order])
    assert torch.cat([index for _, _, index in found]).tolist() == order.tolist()


def test_the_buffers_are_used_again_and_on_the_cpu_there_are_none():
    made = []

    def buffer(part: Tensor) -> Tensor:
        made.append(part.shape)
        return torch.empty_like(part)

    staging = Staging(GPU, Late().start, buffer)
    for _ in range(3):
        for raw in Overwriting().read(np.arange(7), 2):  # the last batch is smaller
            staging(raw)
    assert len(made) == SLOTS * 3, "an image, a label and an index each"
    raw = next(Overwriting().read(np.arange(7), 2))
    assert all(one is other for one, other in zip(Staging(torch.device("cpu"))(raw), raw, strict=True))

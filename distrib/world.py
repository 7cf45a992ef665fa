"""Who computes: rank, number of ranks, device, and sums over the ranks. The only use of torch.distributed.

Outside a process group the world is one process, and every function here is the identity.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """This process's place among the ranks."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over the ranks; every rank gets it. ``values`` is left as it was."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def agree(self, number: int) -> bool:
        """Whether every rank has the same ``number``; every rank gets the same answer."""
        total, squares = self.sum(torch.tensor([number, number**2], dtype=torch.float64, device=self.device)).tolist()
        return self.size * squares == total**2

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces float ``tensors`` by their mean over the ranks, in place, with one collective."""
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def barrier(self) -> None:
        """Waits until every rank is here (bounded by the process group's timeout)."""
        if self.size > 1:
            dist.barrier()

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model as DDP trains it: gradients averaged over the ranks. Buffers are the caller's (see State)."""
        if self.size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )


def current(device: torch.device) -> World:
    """The world of this process, as the process group (if there is one) says."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), device)
    return World(device=device)

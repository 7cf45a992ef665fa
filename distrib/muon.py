"""Muon: SGD whose steps of the convolutions are orthogonalised (Jordan 2024, kellerjordan.github.io/posts/muon).

    momentum   M <- momentum * M + G,   step direction G + momentum * M (Nesterov)
    update     W <- sqrt(out) * W / |W| - lr * orthogonal(direction),   as matrices (out, rest)

``torch.optim.Muon`` takes matrices only (pytorch#180561). Equal shapes are orthogonalised together.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz step: they lift small singular values fastest; where steps suffice, all end near 0.7 to 1.2."""


def orthogonal(matrices: Tensor, steps: int) -> Tensor:
    """The nearest matrices ``[N, m, n]`` with singular values near 1, in bfloat16: ``steps`` of a quintic iteration."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.float().flatten(1).norm(dim=1).view(-1, 1, 1).clamp_min(1e-7)).bfloat16()
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def flat(kernel: Tensor) -> Tensor:
    """A convolution's weights as a matrix ``[out, rest]``, as they lie in memory where they lie channels last."""
    return kernel.movedim(1, -1).flatten(1)


class OrthogonalSGD(torch.optim.SGD):
    """SGD; in groups with ``inertia`` and ``steps`` each step is that of Muon, and weights keep the norm sqrt(out)."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float):
        super().__init__(groups, lr=lr)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step along the gradients in the parameters, which it replaces."""
        for group in self.param_groups:
            if "inertia" in group:
                self._orthogonalise([one for one in group["params"] if one.grad is not None], group)
        super().step()

    def _orthogonalise(self, kernels: list[Tensor], group: dict[str, Any]) -> None:
        """Makes each gradient the orthogonalised direction, and each kernel sqrt(out) long."""
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for kernel in kernels:
            gradient, state = kernel.grad, self.state[kernel]
            assert gradient is not None
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(kernel)
            momentum = state["momentum_buffer"].mul_(group["inertia"]).add_(gradient)
            gradient.add_(momentum, alpha=group["inertia"])
            kernel.mul_(len(kernel) ** 0.5 / kernel.norm().clamp_min(1e-7))
            alike[flat(kernel).shape].append((kernel, gradient))
        for same in alike.values():
            directions = orthogonal(torch.stack([flat(gradient) for _, gradient in same]), group["steps"])
            for (kernel, gradient), direction in zip(same, directions, strict=True):
                out, into, *window = kernel.shape
                gradient.copy_(direction.view(out, *window, into).movedim(-1, 1))

"""Steps that distrib does not take yet, small, so that their figures say which of them to build in.

All climb a whole copy of the network in bfloat16, channels last, refreshed once a step; the update runs under autocast.

    eager               as it is written
    CUDA graph          the whole step, attack and update, recorded once and replayed
    compiled            one step of the attack, and the network of the update, by torch.compile
    compiled, graph     the compiled parts, recorded
    whole compiled      all steps of the attack as one compiled function
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.data.loader import Batch
from distrib.noise import Noise
from distrib.threat import Linf

LOW = torch.bfloat16


@dataclass(frozen=True)
class Kind:
    """An attack: how many steps, how long, over which threat."""

    name: str
    num_steps: int
    length: float
    epsilon: float = 8 / 255

    @property
    def threat(self) -> Linf:
        """The ball."""
        return Linf(epsilon=self.epsilon)


def ascend(x: Tensor, x_adv: Tensor, gradient: Tensor, length: Tensor, epsilon: float) -> Tensor:
    """One step along the gradient's sign, drawn back into the ball and the box."""
    return (x_adv + length * gradient.sign()).clamp((x - epsilon).clamp_min(0), (x + epsilon).clamp_max(1))


def gradient_by_autograd(network: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    """Of the loss at the images, as eager code computes it."""
    with torch.enable_grad():
        x_adv = x_adv.detach().requires_grad_()
        loss = F.cross_entropy(network(x_adv.to(LOW)).float(), y, reduction="sum")
        return torch.autograd.grad(loss, x_adv)[0]


def gradient_by_function(network: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    """The same in a form that torch.compile takes whole."""
    return torch.func.grad(lambda image: F.cross_entropy(network(image.to(LOW)).float(), y, reduction="sum"))(x_adv)


class Copied:
    """One way to take the step, with a network, an optimiser and fixed places for the batch."""

    def __init__(self, model: nn.Module, compiled: str, backend: str):
        self.graph = False
        self.device = next(model.parameters()).device
        self.model: nn.Module = model.to(memory_format=torch.channels_last).train()  # pyright: ignore
        self.low = copy.deepcopy(self.model).to(LOW).eval().requires_grad_(False)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.originals = _floats(self.model)
        self.copies = _floats(self.low)
        options: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
        self.compiled = compiled
        self.forward = torch.compile(self.model, **options) if compiled else self.model
        self.one = torch.compile(self._one, **options) if compiled == "step" else self._one
        self.all = torch.compile(self._all, **options) if compiled == "whole" else self._all
        self.held: tuple[Tensor, Tensor, Tensor] | None = None
        self.replay: dict[str, tuple[Callable[[], object], Tensor]] = {}
        self.lengths: dict[str, Tensor] = {}

    @torch.no_grad()
    def refresh(self) -> None:
        """Rounds the weights and statistics as they are now into the copy."""
        torch._foreach_copy_(self.copies, self.originals)  # pyright: ignore[reportPrivateImportUsage]

    def _length(self, kind: Kind) -> Tensor:
        """The step size as a tensor: a number would be compiled into the code, once for each kind."""
        if kind.name not in self.lengths:
            self.lengths[kind.name] = torch.tensor(kind.length, device=self.device)
        return self.lengths[kind.name]

    def _one(self, x: Tensor, x_adv: Tensor, y: Tensor, length: Tensor, epsilon: float) -> Tensor:
        gradient = gradient_by_function if self.compiled else gradient_by_autograd
        return ascend(x, x_adv, gradient(self.low, x_adv, y), length, epsilon)

    def _all(self, x: Tensor, x_adv: Tensor, y: Tensor, length: Tensor, epsilon: float, num_steps: int) -> Tensor:
        for _ in range(num_steps):
            x_adv = self.one(x, x_adv, y, length, epsilon)
        return x_adv

    def attack(self, x: Tensor, start: Tensor, y: Tensor, kind: Kind) -> Tensor:
        """The images where ``kind`` ends."""
        return self.all(x, start, y, self._length(kind), kind.epsilon, kind.num_steps).detach()

    def plain_attack(self, x: Tensor, start: Tensor, y: Tensor, kind: Kind) -> Tensor:
        """The same images by eager code, to compare with."""
        length = self._length(kind)
        for _ in range(kind.num_steps):
            start = ascend(x, start, gradient_by_autograd(self.low, start, y), length, kind.epsilon)
        return start

    def _work(self, kind: Kind) -> Tensor:
        """One whole step on what is held; the images that it trained on."""
        assert self.held is not None
        x, start, y = self.held
        self.refresh()
        x_adv = self.attack(x, start, y, kind)
        with torch.autocast(self.device.type, LOW, cache_enabled=False):
            logits = self.forward(x_adv)
        loss = F.cross_entropy(logits.float(), y)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return x_adv

    def hold(self, batch: Batch, kind: Kind) -> None:
        """Puts a batch and its random start in their places, as each step must."""
        x = batch.x.contiguous(memory_format=torch.channels_last)
        start = kind.threat.sample(x, Noise.of(batch.index, 0, "attack", 0))
        if self.held is None:
            self.held = x.clone(), start.clone(), batch.y.clone()
        for place, tensor in zip(self.held, (x, start, batch.y), strict=True):
            place.copy_(tensor)

    def step(self, batch: Batch, kind: Kind) -> Tensor:
        """Perturbs and descends; the images that were trained on (overwritten by the next replay)."""
        self.hold(batch, kind)
        if not (self.graph and self.device.type == "cuda"):
            return self._work(kind)
        if kind.name not in self.replay:
            self.replay[kind.name] = self._recorded(kind)
        replay, x_adv = self.replay[kind.name]
        replay()
        return x_adv

    def _recorded(self, kind: Kind) -> tuple[Callable[[], object], Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._work(kind)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x_adv = self._work(kind)
        return graph.replay, x_adv

    def against_eager(self, batch: Batch, kind: Kind) -> tuple[float, float]:
        """Of the images that the step makes and those of eager code, from the same weights: the share of pixels that
        differ (fused code rounds less often, and a sign may turn), and the ratio of their losses, which must be near 1.
        """
        self.hold(batch, kind)
        assert self.held is not None
        _, _, y = self.held
        self.refresh()
        before = copy.deepcopy(self.low)
        expected = self.plain_attack(*self.held, kind).clone()
        x_adv = self.step(batch, kind)
        with torch.no_grad():
            made, meant = (F.cross_entropy(before(x.to(LOW)).float(), y) for x in (x_adv, expected))
        return (x_adv != expected).float().mean().item(), (made / meant).item()


def _floats(model: nn.Module) -> list[Tensor]:
    tensors = [parameter.detach() for parameter in model.parameters()]
    return tensors + [buffer for buffer in model.buffers() if buffer.is_floating_point()]

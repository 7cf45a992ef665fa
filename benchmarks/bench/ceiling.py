"""How near a step comes to the rate at which this machine computes the network's own convolutions.

    share = (FLOPs of a step / rate of its convolutions) / seconds of a step

The FLOPs are torch's own count of distrib's step in float32, by torch's convolutions (``FlopCounterMode``: matrix
products and convolutions, two for each multiplication with its addition; num_steps passes forward and back to the
images, and one that goes on to the weights). The rate is measured in the same rounds and the same precision: every
convolution of the network by itself, forward and its gradient by the input, of tensors that are there already, each in
the fastest layout of images and weights (contiguous or channels_last). It is what a step of nothing else would run at.

Three things it does not say. Fully connected layers and the gradients of the weights are counted as if they ran at
the rate of the convolutions. A library that lays weights out once for many calls could exceed the rate (here each call
does it anew, as in training). Where a network's convolutions are slow by nature, as with one input channel, so is its
ceiling; and distrib may exceed it, for it has another way to their gradient (:mod:`distrib.convolution`).
"""

import itertools
import statistics
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench.cases import CASES, TOY, Case, precisions, take_step
from benchmarks.bench.report import Options, Table, spread
from benchmarks.bench.rounds import Work, alternate, seconds
from distrib import convolution
from distrib.precision import Format

LAYOUTS = tuple(itertools.product((torch.contiguous_format, torch.channels_last), repeat=2))
"""Of the images and of the weights."""
LOOKS = 3
"""Calls by which the fastest layout is chosen."""


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network, with the shape of what it is given."""

    layer: nn.Conv2d
    shape: torch.Size

    def works(self, precision: Format, images: torch.memory_format, weights: torch.memory_format) -> tuple[Work, ...]:
        """Its forward, and its gradient by the input; ready to be called."""
        layer, kind = self.layer, getattr(torch, precision)

        def tensor(of: torch.Size, layout: torch.memory_format) -> Tensor:
            return torch.rand(of, device=layer.weight.device).to(kind).contiguous(memory_format=layout)

        x, weight = tensor(self.shape, images), tensor(layer.weight.shape, weights)
        settings: Any = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)

        def forward() -> Tensor:
            return torch.ops.aten.convolution(x, weight, None, *settings)

        gradient = torch.rand_like(forward())

        def backward() -> object:
            mask = (True, False, False)
            return torch.ops.aten.convolution_backward(gradient, x, weight, None, *settings, mask)

        return forward, backward


def measure(options: Options) -> list[Table]:
    """One table: seconds and FLOPs of a step, the rate of its convolutions, and the share of that rate."""
    rows = []
    for case in TOY if options.quick else CASES:
        flops = flops_of_step(case)
        found = convolutions(case)
        for name, precision in precisions().items():
            rows.append(_row(case, name, flops, _measured(case, found, precision, options.rounds or case.rounds)))
    header = ("network", "step", "GFLOP a step", "seconds, median", "GFLOP/s", "of its convolutions", "share")
    how = "The median of the rounds (smallest to largest); the definition stands in benchmarks/bench/ceiling.py."
    return [Table("Share of the ceiling", how, header, rows)]


def convolutions(case: Case) -> list[Convolution]:
    """The convolutions of the network in their order, each with the shape that it meets in this case."""
    found: list[Convolution] = []

    def kept(layer: nn.Module, given: tuple[Tensor]) -> None:
        assert isinstance(layer, nn.Conv2d)
        found.append(Convolution(layer, given[0].shape))

    model = case.model().eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(kept)
    with torch.no_grad():
        model(case.batch().x)
    return found


class _Untracked(nullcontext):
    """Which module an operation belongs to is not asked: torch 2.15 cannot say it in ``torch.autograd.grad``."""

    parents = ("Global",)


def flops_of(work: Work) -> int:
    """What torch counts in one call."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Untracked()  # pyright: ignore[reportAttributeAccessIssue]
    with counter:
        work()
    return counter.get_total_flops()


def flops_of_step(case: Case) -> int:
    """The FLOPs of a step whose convolutions are all torch's: fewer than it takes where that is quicker."""
    with patch.object(convolution, "FILLED", 0):
        return flops_of(_step(case, "float32"))


def _step(case: Case, precision: Format) -> Work:
    state, batch, objective = case.state(precision), case.batch(), case.objective()
    return lambda: take_step(state, batch, objective)


def _fastest(found: list[Convolution], precision: Format) -> list[Work]:
    """The forward and the gradient of every convolution, each in the layout that is fastest here."""
    chosen = []
    for one in found:
        for works in zip(*(one.works(precision, *layouts) for layouts in LAYOUTS), strict=True):
            for work in works:
                work()
            chosen.append(min(works, key=lambda work: min(seconds(work) for _ in range(LOOKS))))
    return chosen


def _measured(case: Case, found: list[Convolution], precision: Format, rounds: int) -> tuple[list[float], list[float]]:
    """(seconds of a step, FLOPs a second of the convolutions), each by round."""
    works = _fastest(found, precision)

    def sweep() -> None:
        for work in works:
            work()

    times = alternate({"step": _step(case, precision), "convolutions": sweep}, rounds)
    count = flops_of(sweep)
    return times["step"], [count / one for one in times["convolutions"]]


def _row(case: Case, name: str, flops: int, measured: tuple[list[float], list[float]]) -> tuple[str, ...]:
    times, rates = measured
    shares = [100 * flops / rate / one for one, rate in zip(times, rates, strict=True)]
    middle = statistics.median(times)
    return (
        case.title, name, f"{flops / 1e9:,.2f}", f"{middle:.3f}", f"{flops / middle / 1e9:,.0f}",
        f"{statistics.median(rates) / 1e9:,.0f}", f"{spread(shares, '{:.0f}')} %",
    )  # fmt: skip

"""Convolutions of few channels, whose gradient by the image CPU libraries compute far slower than it need be.

Attacks ask for that gradient in every step, of the convolution that meets the image. oneDNN fills its 1 or 3 channels
up to 16 and computes them all. But each pixel of a block of ``b x b`` has a gradient that is a convolution of the
output's gradient; together they are one convolution, of stride ``b / stride``, with ``b * b`` channels for each of the
image's, which ``pixel_shuffle`` lays out. The same products are summed, in another order.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

FILLED = 16
"""Channels that the libraries compute at once, so the most that a block may have."""

Axes = int | str | tuple[int, ...] | list[int]
"""One number for both axes, or one for each; a padding may be a word."""


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *settings: Axes) -> Tensor:
    """What :func:`torch.nn.functional.conv2d` gives; its gradient by ``x`` is the same up to rounding, but quick.

    ``settings`` are stride, padding, dilation and groups, as there. It is quick on the CPU, for few channels and frozen
    weights, where both axes have the same stride and padding.
    """
    given = [one[0] if isinstance(one, tuple | list) and len(set(one)) == 1 else one for one in settings]
    stride, padding, *rest = *given, *(1, 0, 1, 1)[len(given) :]
    few = (
        x.requires_grad
        and torch.is_grad_enabled()
        and x.is_cpu
        and x.ndim == 4
        and not weight.requires_grad
        and not (bias is not None and bias.requires_grad)
        and isinstance(stride, int)
        and isinstance(padding, int)
        and rest == [1, 1]
        and block_side(weight.shape[1], stride) > 1
    )
    if few:
        return _FewChannels.apply(x, weight, bias, (stride, padding))
    return torch.conv2d(x, weight, bias, *settings)  # pyright: ignore[reportCallIssue, reportArgumentType]


def quickened(model: nn.Module) -> nn.Module:
    """``model`` itself, whose convolutions are :func:`conv2d` from now on; its weights and names are as they were."""
    if isinstance(model, GraphModule):  # a program of torch.export has operations where others have modules
        for node in model.graph.nodes:
            if node.target is torch.ops.aten.conv2d.default:
                node.target = conv2d
        model.recompile()
    for module in model.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            module.__class__ = _Conv2d
    return model


class _Conv2d(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class _FewChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, moves: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.settings = tuple(x.shape[2:]), x.dtype, moves
        return torch.conv2d(x, weight, bias, *moves)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,), ((height, width), dtype, (stride, padding)) = ctx.saved_tensors, ctx.settings
        side = block_side(weight.shape[1], stride)
        places, first = _blocks(tuple(weight.shape), stride, padding, side)
        kernel = torch.cat([weight.flatten(), weight.new_zeros(1)])[places].to(gradient.dtype)
        step, window = side // stride, kernel.shape[-1]
        # Windows reach beyond the outputs, mostly as far on all sides: the convolution itself pads them that far
        margin, margins = max(0, -first), []
        for size, have in ((width, gradient.shape[3]), (height, gradient.shape[2])):
            margins += [-first - margin, (math.ceil(size / side) - 1) * step + window + first - have - margin]
        if any(margins):
            gradient = functional.pad(gradient, margins)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        blocks = torch.conv2d(gradient, kernel, stride=step, padding=margin)
        by_image = functional.pixel_shuffle(blocks, side)[:, :, :height, :width]
        return by_image.to(dtype), None, None, None


def block_side(channels: int, stride: int) -> int:
    """The side of the blocks, in pixels: a multiple of the stride; 1 where there is nothing to win."""
    most = math.isqrt(FILLED // channels) if channels <= FILLED else 0
    return max(1, most // stride * stride)


@cache
def _blocks(shape: tuple[int, ...], stride: int, padding: int, side: int) -> tuple[Tensor, int]:
    """The kernel ``[C * side * side, O, n, n]`` from the output's gradient to blocks, and where its windows begin.

    The kernel is given as places in the flat weights of this shape ``(O, C, h, w)``; the one after their end holds 0.
    Output ``o`` reads pixel ``o * stride - padding + tap``. So pixel ``i`` of a block that begins at output 0 gets tap
    ``i + padding - o * stride`` of output ``o``, for the ``n`` outputs from ``first`` on.
    """
    out, channels, height, width = shape
    first = math.ceil((padding - max(height, width) + 1) / stride)
    outputs = torch.arange(first, (side - 1 + padding) // stride + 1)
    taps = torch.arange(side)[:, None] + padding - outputs * stride
    rows, columns = taps[:, None, :, None], taps[None, :, None, :]  # [side, side, n, n]
    there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    kernels = torch.arange(out * channels).view(out, channels).T[:, None, None, :, None, None]
    places = kernels * height * width + (rows * width + columns)[:, :, None]  # [C, side, side, O, n, n]
    places = torch.where(there[:, :, None], places, math.prod(shape))
    return places.flatten(0, 2), first

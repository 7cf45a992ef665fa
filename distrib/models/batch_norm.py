"""BatchNorm over several workers: normalised by the statistics of the whole batch, wherever its images are.

torch's own SyncBatchNorm takes GPUs alone, and must be put in the place of each layer; here the operation itself is
another one while training goes forward, so any network will do, as it is.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from distrib.world import World

Statistics = Literal["synchronised", "local"]
"""Over whose images BatchNorm takes mean and variance: those of all workers, or each worker its own."""


GIVEN = inspect.signature(functional.batch_norm)


def over_all(forward: Callable[[Tensor], Tensor], world: World) -> Callable[[Tensor], Tensor]:
    """``forward``, whose BatchNorm layers see the images of all ranks. Every rank must call it, and go back as well."""

    def whole(x: Tensor) -> Tensor:
        with _WholeBatch(world):
            return forward(x)

    return whole


@contextmanager
def unrecorded(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in training leaves its running statistics alone."""
    norms = [(one, one.track_running_stats) for one in model.modules() if isinstance(one, _BatchNorm) and one.training]
    try:
        for norm, _ in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm, tracked in norms:
            norm.track_running_stats = tracked


class _WholeBatch(TorchFunctionMode):
    """Inside, BatchNorm in training is that of the batch of all ranks together."""

    def __init__(self, world: World):
        super().__init__()
        self.world = world

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: dict | None = None) -> Any:
        operation = self._batch_norm if func is functional.batch_norm else func
        return operation(*args, **(kwargs or {}))

    def _batch_norm(self, *args: Any, **kwargs: Any) -> Tensor:
        """See :func:`torch.nn.functional.batch_norm`."""
        given = GIVEN.bind(*args, **kwargs)
        given.apply_defaults()
        x, running_mean, running_var, weight, bias, training, momentum, eps = given.args
        if not training:
            return functional.batch_norm(*given.args)
        near = running_mean.clone() if running_mean is not None else x.new_zeros(x.shape[1], dtype=torch.float32)
        y, mean, var, count = _Normalised.apply(x, weight, bias, (near, eps, self.world))
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean, momentum)
            if running_var is not None:
                running_var.lerp_(var * count / (count - 1), momentum)  # unbiased, as torch keeps it
        return y


class _Normalised(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps) * weight + bias``, by channel; mean and variance are those over all ranks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, terms: tuple[Tensor, float, World]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the terms the first is near the mean, and the same on all ranks: squares around it lose no digits."""
        near, eps, world = terms
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)  # over this rank's images; nothing is updated
        count = mean.new_full((1,), x.numel() / x.shape[1])
        off = mean - near
        sums = world.sum(torch.cat([count * off, count * (var + off.square()), count]))
        (off, square), count = (sums[:-1] / sums[-1]).chunk(2), sums[-1]
        mean, var = near + off, (square - off.square()).clamp_min(0)
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.world, ctx.has_bias = eps, world, bias is not None
        ctx.mark_non_differentiable(mean, var, count)
        return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, var, count = ctx.saved_tensors
        by_x, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        # Each image moves the mean and the variance of every other one, also of those on other ranks
        by_mean, by_scale = (ctx.world.sum(torch.cat([by_bias, by_weight]).float()) / count).chunk(2)
        inverse = (var + ctx.eps).rsqrt()
        scale = inverse if weight is None else inverse * weight.float()
        slope, one = -scale * inverse * by_scale, torch.ones_like(var)
        by_x += functional.batch_norm(x, mean, one, slope, -scale * by_mean, False, 0.0, 0.0)  # a line for each channel
        return by_x, None if weight is None else by_weight, by_bias if ctx.has_bias else None, None

"""The number format of the forward pass. Weights, delta and x_adv are float32 always.

On GPUs float32 may mean TF32, which keeps 10 of the 23 bits of a factor. What is measured never uses it; training does,
in convolutions. (torch's newer settings ``fp32_precision`` say the same, but whoever touches one of them breaks
torch.export, which still reads ``allow_tf32``: torch 2.15.)
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from distrib.processor import computes
from distrib.world import World

Format = Literal["float32", "bfloat16", "float16"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""A format, or auto: see :func:`format_of`."""


def format_of(precision: Precision, world: World) -> Format:
    """What ``precision`` stands for on these ranks, all of which ask.

    auto is bfloat16 where every rank computes it in hardware, else float32.
    """
    if precision != "auto":
        return precision
    if world.device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = world.device.type == "cpu" and computes("bfloat16") is True
    return "bfloat16" if world.sum(torch.tensor([float(able)], device=world.device)).item() == world.size else "float32"


def forward_in(precision: Format, device: torch.device) -> AbstractContextManager:
    """Inside, convolutions and matrix products run in ``precision`` on ``device``.

    bfloat16 pays on GPUs and on CPUs with AVX512-BF16 or AMX; on other CPUs it is ten times slower than float32. It
    also rounds the image at the network's door (by up to half a grey level), so evaluation is always float32.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


class Rounded:
    """A network beside another one, its convolutions and linear layers rounded to ``precision`` once for many passes.

    Autocast rounds them again in every pass of an attack: it keeps what it rounded only where weights take gradients.
    All else (BatchNorm, other parameters, buffers) is the other network's own, so it gives what that one gives under
    :func:`forward_in`, to the last bit.
    """

    def __init__(self, model: nn.Module, precision: Format):
        kind = getattr(torch, precision)
        self.originals: list[Tensor] = [
            parameter
            for module in model.modules()
            if isinstance(module, _ConvNd | nn.Linear)
            for parameter in (module._parameters.get("weight"), module._parameters.get("bias"))
            if parameter is not None
        ]
        self.rounded: list[Tensor] = [
            nn.Parameter(one.detach().to(kind), requires_grad=False) for one in self.originals
        ]
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        shared |= {id(one): low for one, low in zip(self.originals, self.rounded, strict=True)}
        self.model = copy.deepcopy(model, memo=shared)

    @torch.no_grad()
    def now(self) -> nn.Module:
        """The network beside, rounded from the weights as they are now."""
        torch._foreach_copy_(self.rounded, self.originals)  # pyright: ignore[reportPrivateImportUsage]
        return self.model


def emulated(precision: Format, device: torch.device) -> bool:
    """Whether ``device`` is a CPU that is known to compute ``precision`` in software only: many times slower."""
    return device.type == "cpu" and precision != "float32" and computes(precision) is False


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inside (or in the function that it decorates), float32 means float32 on every device; afterwards as before."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def begin_training(precision: Format, device: torch.device) -> str:
    """Sets what float32 means while this process trains, and says in what numbers it computes.

    Convolutions may use TF32, matrix products may not: torch's defaults, set here so that they cannot become others.
    """
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    if precision == "float32" and device.type == "cuda" and torch.cuda.is_tf32_supported():
        return "float32, convolutions in TF32"
    return precision

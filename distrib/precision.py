"""The number format of the forward pass. Weights, delta and x_adv are float32 always."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from distrib.processor import computes

Precision = Literal["float32", "bfloat16", "float16"]


def forward_in(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Inside, convolutions and matrix products run in ``precision`` on ``device``.

    bfloat16 pays on GPUs and on CPUs with AVX512-BF16 or AMX; on other CPUs it is ten times slower than float32. It
    also rounds the image at the network's door (by up to half a grey level), so evaluation is always float32.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def emulated(precision: Precision, device: torch.device) -> bool:
    """Whether ``device`` is a CPU that is known to compute ``precision`` in software only: many times slower."""
    return device.type == "cpu" and precision != "float32" and computes(precision) is False

"""Random numbers that depend on what they are for, never on who draws them.

Every number is a hash of (seed, purpose, time, sample, position): one worker or eight, today or after a restart, on
the CPU or the GPU, the same sample meets the same noise. The hash is the finaliser of splitmix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), in int64 arithmetic that wraps alike everywhere.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def shift_right(x: Tensor, bits: int) -> Tensor:
    """The logical right shift (torch's own repeats the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64: any int64 to a well-scrambled int64."""
    x = (x ^ shift_right(x, 30)) * MIX_1
    x = (x ^ shift_right(x, 27)) * MIX_2
    return x ^ shift_right(x, 31)


def key(*parts: int | str) -> int:
    """A signed 64-bit key for these parts (seed, purpose, epoch, ...)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@dataclass
class Noise:
    """A stream of random numbers for each sample of a batch; each call moves to fresh numbers.

    ``keys`` is ``[B]`` int64: one key a sample. Numbers are float32 on the device of the keys.
    """

    keys: Tensor
    calls: int = 0

    @classmethod
    def of(cls, index: Tensor, *parts: int | str) -> "Noise":
        """The stream of the samples ``index`` (``[B]`` int64, their place in the split) for this purpose and time."""
        return cls(mix(index * GAMMA + key(*parts)))

    def __getitem__(self, rows: Tensor | slice) -> "Noise":
        """The streams of some of the samples, where they are now."""
        return Noise(self.keys[rows], self.calls)

    def fork(self, number: int) -> "Noise":
        """Further streams for the same samples, independent of this one and of those of other numbers."""
        return Noise(mix(self.keys ^ key("fork", number)))

    def bits(self, shape: Sequence[int]) -> Tensor:
        """Fresh int64 ``[B, *shape]``, all 64 bits random."""
        self.calls += 1
        position = torch.arange(1, math.prod(shape) + 1, device=self.keys.device) * GAMMA
        start = mix(self.keys + torch.full_like(self.keys, self.calls) * MIX_1)
        return mix(start[:, None] + position).view(-1, *shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Fresh float32 ``[B, *shape]``, uniform on [0, 1)."""
        return shift_right(self.bits(shape), 40).float() * 2.0**-24

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Fresh float32 ``[B, *shape]``, standard normal (Box and Muller)."""
        radius = (-2 * torch.log1p(-self.uniform(shape))).sqrt()
        return radius * torch.cos(2 * math.pi * self.uniform(shape))

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Fresh int64 ``[B, *shape]``, uniform on 0 .. high - 1."""
        return (self.uniform(shape) * high).long()

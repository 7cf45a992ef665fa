"""What the processor computes in hardware."""

from pathlib import Path
from typing import Literal

FLAGS = {"bfloat16": {"avx512_bf16", "amx_bf16", "bf16"}, "float16": {"avx512_fp16", "amx_fp16", "asimdhp"}}
"""As Linux writes them: AVX-512 or AMX on x86, or ARM's own."""


def computes(number: Literal["bfloat16", "float16"], cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether the CPU has arithmetic of this kind; None where the system does not say."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return None
    return not FLAGS[number].isdisjoint(words)

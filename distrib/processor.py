"""What the processor computes in hardware, how much of it this process may use, and how it is used well."""

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

FLAGS = {"bfloat16": {"avx512_bf16", "amx_bf16", "bf16"}, "float16": {"avx512_fp16", "amx_fp16", "asimdhp"}}
"""As Linux writes them: AVX-512 or AMX on x86, or ARM's own."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""As glibc's malloc.h numbers them."""


def computes(number: Literal["bfloat16", "float16"], cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether the CPU has arithmetic of this kind; None where the system does not say."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return None
    return not FLAGS[number].isdisjoint(words)


def compute_with(threads: int) -> None:
    """From here on torch computes with ``threads`` threads, and the process keeps the memory that it frees.

    glibc gives large blocks back to the system as soon as they are free. A step of training asks for hundreds of them
    (activations, gradients), which the system clears anew each time, a page at a time.
    """
    import torch

    torch.set_num_threads(threads)
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; nothing is lost where there is none
    if set_option:
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            set_option(option, 2**31 - 1)
        set_option(M_TOP_PAD, 2**26)  # as large as a thread's heap: none of them is given back


def usable_cpus(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of CPUs that this process may use: those it is bound to, and no more than its cgroup's quota.

    ``os.cpu_count()`` is the host's number, also in a container that may use two of 128.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in _quotas(groups, mount))]))


def _quotas(groups: Path, mount: Path) -> Iterator[float]:
    """The CPUs that the quota of each of the process's groups is worth: of its own group and of those above it."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for number, controllers, name in (line.split(":", 2) for line in lines):
        if number == "0":
            rooms = [mount]  # cgroup v2
        elif "cpu" in controllers.split(","):
            rooms = [mount / "cpu", mount / controllers]
        else:
            continue
        own = PurePosixPath(name.lstrip("/"))
        for folder in (room / group for room in rooms for group in (own, *own.parents)):
            with suppress(OSError, ValueError):  # no such group here, or no quota ("max")
                if number == "0":
                    quota, period = map(int, (folder / "cpu.max").read_text().split())
                else:
                    quota, period = (int((folder / f"cpu.cfs_{part}_us").read_text()) for part in ("quota", "period"))
                if quota > 0 and period > 0:  # -1: no quota
                    yield quota / period

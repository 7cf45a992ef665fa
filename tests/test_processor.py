"""How much of the processor a process may use: what it is bound to, and its container's quota."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distrib.processor import usable_cpus

GROUPS = {
    "none": ("0::/a/b\n", {}, 8),
    "v2, of its own": ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n"}, 2),
    "v2, of a group above": ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 2),
    "v2, of the container, seen as the root": ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
    "v2, the least": ("0::/a/b\n", {"a/b/cpu.max": "700000 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
    "v2, part of one": ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
    "v2, more than there are": ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
    "v1": (
        "4:memory:/x\n3:cpuacct,cpu:/a\n",
        {"cpuacct,cpu/a/cpu.cfs_quota_us": "200000\n", "cpuacct,cpu/a/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "v1, the host's name for the container's root": (
        "3:cpu,cpuacct:/docker/0af3\n", {"cpu/cpu.cfs_quota_us": "500000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 5,
    ),
    "v1, no quota": ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    "unreadable": ("0::/\n", {"cpu.max": "many\n"}, 8),
}  # fmt: skip


@pytest.mark.parametrize(("groups", "files", "count"), GROUPS.values(), ids=GROUPS)
def test_no_more_than_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], count: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    (tmp_path / "cgroup").write_text(groups)
    for name, content in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(content)
    assert usable_cpus(tmp_path / "cgroup", tmp_path / "sys") == count


def test_without_groups_what_the_process_is_bound_to(tmp_path: Path):
    assert usable_cpus(tmp_path / "nowhere", tmp_path) == len(os.sched_getaffinity(0))


AGAIN = """
import resource, threading, torch
from distrib.processor import compute_with

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [torch.ones(1_000_000) for _ in range(40)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    compute_with(1)
    faults()
    print(torch.get_num_threads(), faults())

one = threading.Thread(target=work)  # as Ray Train runs a worker; in the main thread glibc keeps more by itself
one.start()
one.join()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another allocator than glibc's")
def test_memory_that_was_freed_is_used_again_without_asking_the_system():
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    threads, faults = map(int, done.stdout.split())
    assert threads == 1 and faults < 10_000, "ten times 160 MB have 390,000 pages"

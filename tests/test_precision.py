"""What a CPU computes in hardware, and what it only imitates."""

from pathlib import Path

import pytest
import torch

from distrib import precision
from distrib.processor import computes


@pytest.mark.parametrize(
    ("flags", "number", "has"),
    [
        ("flags : fpu avx512f avx512_bf16", "bfloat16", True),
        ("flags : fpu avx512f", "bfloat16", False),
        ("flags : fpu avx512f avx512_bf16", "float16", False),
        ("flags : amx_bf16 amx_fp16", "float16", True),
        ("Features : fp asimd asimdhp bf16", "bfloat16", True),
    ],
)
def test_the_flags_of_linux(tmp_path: Path, flags: str, number, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert computes(number, tmp_path / "cpuinfo") is has


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert computes("bfloat16", tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("number", "device", "has", "slow"),
    [
        ("bfloat16", "cpu", False, True),
        ("bfloat16", "cpu", True, False),
        ("bfloat16", "cpu", None, False),
        ("bfloat16", "cuda", False, False),
        ("float32", "cpu", False, False),
    ],
)
def test_emulated(monkeypatch: pytest.MonkeyPatch, number, device: str, has: bool | None, slow: bool) -> None:
    monkeypatch.setattr(precision, "computes", lambda asked: has)
    assert precision.emulated(number, torch.device(device)) is slow

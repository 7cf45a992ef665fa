"""What a section of the benchmarks finds, as a Markdown table, and the machine that it was found on."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from distrib.processor import usable_cpus
from distrib.tracking import provenance


@dataclass(frozen=True)
class Options:
    """How a section is run."""

    quick: bool = False
    """Toy sizes: seconds, to see that it works. The figures mean nothing."""
    rounds: int | None = None
    """How often each thing is measured; None: as the section has it."""


@dataclass(frozen=True)
class Table:
    """Figures with their heading, and how they came about."""

    title: str
    how: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def markdown(self) -> str:
        """The table as it can stand in a document."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        assert all(len(line) == len(self.header) for line in lines), self.title
        return "\n".join([f"**{self.title}** {self.how}\n", *(f"| {' | '.join(line)} |" for line in lines), ""])


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """The median, with the smallest and the largest of several."""
    middle, low, high = (form.format(one) for one in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def machine() -> str:
    """Processor, threads, torch, date and commit, in one line."""
    made = provenance.code()
    commit = made.get("mlflow.source.git.commit", "no commit")[:7]
    changed = " with changes" if made.get("distrib.code_changed") == "True" else ""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{_processor()}, {usable_cpus()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{date.today():%d %B %Y}, commit {commit}{changed}, load {os.getloadavg()[0]:.1f} when it began"
    )


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, and whether it has bfloat16 arithmetic of its own."""
    try:
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    known = {name.strip(): value.strip() for name, value in fields.items()}
    flags = {"avx512_bf16", "amx_bf16", "bf16"} & set(known.get("flags", known.get("Features", "")).split())
    family = f" family {known['cpu family']} model {known['model']}" if "cpu family" in known else ""
    return f"{known.get('model name', platform.machine())}{family} ({', '.join(sorted(flags)) or 'no bfloat16'})"

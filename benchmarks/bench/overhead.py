"""What Ray Train, MLflow and checkpoints cost an epoch in steady state: ``distrib run`` against the bare loop.

The bare loop is the trainer's own in this process: the same state, loader, objective, validation and number of threads,
with nobody to report to. It runs before and after the command, once each, so that a change of the machine's mood shows.
The first epoch of each is left out. An epoch of the command is counted from checkpoint to checkpoint.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.bench.loops import built
from benchmarks.bench.report import Options, Table, spread
from benchmarks.bench.runs import run, training
from distrib import trainer
from distrib.commands.prepare import prepared
from distrib.config.file import parse
from distrib.config.job import Train
from distrib.processor import compute_with, usable_cpus
from distrib.tracking.display import Display


@dataclass
class Times:
    """Seconds of each epoch but the first."""

    steps: list[float] = field(default_factory=list)
    """Of its steps alone."""
    whole: list[float] = field(default_factory=list)
    """With validation, and whatever comes before the next one begins."""


def measure(options: Options) -> list[Table]:
    """One table: seconds an epoch of both, and by how much they differ."""
    cpus = usable_cpus()
    with tempfile.TemporaryDirectory(prefix="distrib-bench-") as room:
        folder = Path(room)
        job = training(folder, "overhead", options.quick) | {"cluster": {"num_workers": 1, "cpus_per_worker": cpus}}
        parsed = parse(job, [], "the benchmark's job")
        assert isinstance(parsed, Train)
        data, threads = prepared(parsed, Display()), torch.get_num_threads()
        try:
            compute_with(cpus)
            before = bare(parsed.resolved(), data)
            ran = run(job, folder)
            after = bare(parsed.resolved(), data)
        finally:
            torch.set_num_threads(threads)
    command = Times([epoch["train_seconds"] for epoch in ran.history[1:]], ran.epoch_seconds)
    rows: list[tuple[str, ...]] = [
        (name, spread(times.steps), spread(times.whole))
        for name, times in (("bare loop, before", before), ("distrib run", command), ("bare loop, after", after))
    ]
    rows.append(("overhead", *(_over(command, (before, after), part) for part in ("steps", "whole"))))
    first = ran.history[0]
    how = (
        f"small_cnn, {parsed.optim.epochs} epochs of {first['train_seconds'] * first['images_per_second']:,.0f} "
        f"images, one worker of {cpus} threads; seconds an epoch: the median (smallest to largest). The overhead: over "
        "both loops (over each)."
    )
    return [Table("Ray Train, MLflow and checkpoints.", how, ("loop", "steps", "with validation and records"), rows)]


def bare(job: Train, data: Path) -> Times:
    """The seconds of the job's epochs in this process, as its worker takes them."""
    state, loader, validation = built(job, data)
    times, last = Times(), None
    for report in trainer.epochs(state, loader, job.objective, job.seed, validation):
        if isinstance(report, trainer.EpochEnd):
            now = time.perf_counter()
            if last is not None:
                times.steps.append(report.metrics["train_seconds"])
                times.whole.append(now - last)
            last = now
    return times


def _over(command: Times, loops: tuple[Times, Times], part: str) -> str:
    """By how much an epoch of the command is longer, in per cent."""
    own = statistics.median(getattr(command, part))
    both = statistics.median([one for loop in loops for one in getattr(loop, part)])
    low, high = sorted(100 * (own / statistics.median(getattr(loop, part)) - 1) for loop in loops)
    return f"{100 * (own / both - 1):+.1f} % ({low:+.1f} to {high:+.1f})"

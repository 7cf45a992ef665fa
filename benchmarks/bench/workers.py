"""One worker against two, at one thread each: images a second, as two runs of ``distrib run`` put it on record.

The global batch is the same; both train the same job. The first epoch of each is left out.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks.bench.report import Options, Table, spread
from benchmarks.bench.runs import run, training
from distrib.processor import usable_cpus


def measure(options: Options) -> list[Table]:
    """One table: the rate of both, and how many times the one is the other."""
    rates = {}
    with tempfile.TemporaryDirectory(prefix="distrib-bench-") as room:
        for number in (1, 2):
            job = training(Path(room), f"workers-{number}", options.quick) | {"cluster": {"num_workers": number}}
            ran = run(job, Path(room))
            rates[number] = [epoch["images_per_second"] for epoch in ran.history[1:]]
    one, two = rates.values()
    middle = statistics.median(two) / statistics.median(one)
    ratio = f"{middle:.2f} ({min(two) / max(one):.2f} to {max(two) / min(one):.2f})"
    rows = [("1", spread(one, "{:,.0f}"), "1"), ("2", spread(two, "{:,.0f}"), ratio)]
    how = (
        f"small_cnn, PGD, batch 256, one thread a worker, {usable_cpus()} cores; over epochs: the median (smallest to "
        "largest)."
    )
    return [Table("Workers.", how, ("workers", "images/s", "times one worker"), rows)]

"""Where the time of ``make train`` goes, from the command to its result, and what the imports cost.

The run's own clock tells its parts; what the whole command took beside it are the imports and the end of the process.
Of the training, ``workers start`` is until rank 0 has its state; ``first step`` until the first news of an epoch, which
comes half a second after its begin, or at its end.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.bench.report import Options, Table
from benchmarks.bench.runs import ROOT, run

JOB = ROOT / "jobs" / "digits.yaml"
MODULES = (
    "torch", "numpy", "ray", "ray.train.torch", "mlflow", "ffcv.loader", "torchvision", "sklearn.datasets",
    "distrib.cli.main", "distrib.step", "distrib.commands.train", "distrib.cluster.train",
)  # fmt: skip


def measure(options: Options) -> list[Table]:
    """Two tables: the parts of the default run, and the imports."""
    with tempfile.TemporaryDirectory(prefix="distrib-bench-") as room:
        sets = [f"storage={room}/runs", f"data.store={room}/betons"]
        if options.quick:
            sets += ["optim.epochs=2", "objective.epsilon_warmup_epochs=1", "objective.attack.num_steps=1",
                     "compare_natural=false", "evaluation.attacks=[{attack: fgsm}]"]  # fmt: skip
        ran = run(JOB, Path(room), *sets)
    return [_parts(ran.result, ran.seconds), _imports(("distrib.cli.main",) if options.quick else MODULES)]


def _parts(result: dict, seconds: float) -> Table:
    """The parts of a run, in their order; those of the training are indented."""
    marks = dict(result["timings"])
    inner = {name: marks.pop(name) for name in ("workers_start", "first_step")}
    imports = seconds - result["seconds"]
    before = imports + sum(marks.get(name, 0.0) for name in ("prepare", "ray_start", "mlflow_start"))
    rows = [("imports, and the end of the process", imports)]
    for name, value in marks.items():
        rows.append((name, value))
        rows += [(f"- {part}", time) for part, time in inner.items()] if name == "train" else []
    rows.append(("none of these", result["seconds"] - sum(marks.values())))
    rows.append(("**to the first step**", before + inner["first_step"]))
    rows.append(("**the whole command**", seconds))
    written = [(name.replace("_", " "), f"{value:.1f}") for name, value in rows]
    return Table(f"{JOB.name}, from the command to its result.", "", ("part", "seconds"), written)


def _imports(modules: tuple[str, ...]) -> Table:
    rows = []
    for module in modules:
        total, own = min((_imported(module) for _ in range(2)), key=lambda one: one[0])  # the first reads from the disk
        most = ", ".join(f"{name} {us / 1e6:.1f}" for name, us in own.most_common(4) if us >= 50_000)
        rows.append((module, f"{total:.2f}", most))
    how = "Each in a new process, by `python -X importtime`, the better of two; packages by the time of their modules."
    return Table("Imports.", how, ("module", "seconds", "of which"), rows)


def _imported(module: str) -> tuple[float, Counter[str]]:
    """(seconds of an import, microseconds of each package's own modules in it)."""
    words = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"import {module} failed: {done.stderr[-500:]}")
    own: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        if line.startswith("import time:") and "|" in line and "cumulative" not in line:
            alone, _, name = line.removeprefix("import time:").split("|")
            own[name.strip().split(".")[0]] += int(alone)
    return sum(own.values()) / 1e6, own

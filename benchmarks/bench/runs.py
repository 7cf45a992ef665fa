"""Real runs of ``distrib run``, each in a process of its own, and what they leave on record."""

import json
import os
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from distrib import checkpoints
from distrib.tracking.folder import ROBUST

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS")
"""Variables that would lead a run to other machines."""


@dataclass(frozen=True)
class Ran:
    """A run that is complete."""

    result: dict
    seconds: float
    """Of the whole command."""
    history: list[dict]
    """The metrics of every epoch; none for a job that does not train."""
    ends: list[float]
    """When the checkpoint of every epoch was written."""

    @property
    def epoch_seconds(self) -> list[float]:
        """From checkpoint to checkpoint: training, validation, checkpoint and report. One fewer than epochs."""
        return [late - early for early, late in zip(self.ends, self.ends[1:], strict=False)]


def run(job: dict | Path, folder: Path, *sets: str) -> Ran:
    """Carries out ``job`` below ``folder``, where MLflow's files go too. Raises :class:`RuntimeError` if it fails."""
    file = job if isinstance(job, Path) else folder / f"{job['name']}.yaml"
    if isinstance(job, dict):
        file.write_text(yaml.safe_dump(job))
    words = [sys.executable, "-m", "distrib.cli", "run", str(file), "--json"]
    words += [word for one in sets for word in ("--set", one)]
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
    began = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=folder, env=environment | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        out, errors = process.communicate()
    except BaseException:  # it is told to end: killed, it would leave its cluster behind
        process.terminate()
        process.communicate(timeout=60)
        raise
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {errors[-2000:]}")
    result = json.loads(out.splitlines()[-1])
    return Ran(result, seconds, *epochs(folder / "runs" / result["name"] / ROBUST))


def epochs(trained: Path) -> tuple[list[dict], list[float]]:
    """(the metrics of every epoch, when each checkpoint was written) of a folder that keeps every checkpoint."""
    history = checkpoints.history(trained, print)
    states = [checkpoints.folder_for(trained, epoch) / "state.json" for epoch in checkpoints.stored_epochs(trained)]
    return history, [state.stat().st_mtime for state in sorted(states)]


def noise_like_mnist(root: Path, count: int) -> None:
    """Writes MNIST's four files below ``root``, with images of noise: ``count`` to train on, 100 to test."""
    draw, folder = np.random.default_rng(0), root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, number in (("train", count), ("t10k", 100)):
        images = draw.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        labels = np.arange(number, dtype=np.uint8) % 10
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, number, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, number) + labels.tobytes())


def training(folder: Path, name: str, quick: bool) -> dict:
    """The job that is timed: small_cnn on images like MNIST's, in batches like those of jobs/mnist.yaml.

    Every checkpoint is kept. A hundred steps an epoch are few: what an epoch costs beside them weighs more here than in
    MNIST's 210.
    """
    root = folder / "data"
    if not root.exists():
        noise_like_mnist(root, 600 if quick else 28_600)
    return {
        "kind": "train", "name": name, "storage": str(folder / "runs"), "model": {"arch": "small_cnn"},
        "data": {"source": "mnist", "root": str(root), "store": str(folder / "betons")},
        "objective": {
            "method": "madry", "threat": {"norm": "linf", "epsilon": 0.3},
            "attack": {"num_steps": 1 if quick else 10, "step_size": {"of_epsilon": 0.25}},
        },
        "optim": {"name": "sgd", "lr": 0.01, "epochs": 3 if quick else 5, "batch_size": 256},
        "validation": {"max_examples": 50 if quick else 500},
        "evaluation": {"n": 10, "attacks": [{"attack": "fgsm"}]},
        "keep_checkpoints": 100, "loader": "memory" if quick else "auto",
    }  # fmt: skip

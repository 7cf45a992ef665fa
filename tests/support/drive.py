"""The command line as a person drives it: started, awaited, interrupted; or called in this process."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import psutil

from distrib.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "jobs" / "digits.yaml"
INHERITED = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS")
"""Variables that tests before, or whoever started them, may have left; MLflow sets its own in the process."""
SHORT = [
    "optim.epochs=6", "objective.epsilon_warmup_epochs=2", "model.width=0.5", "compare_natural=false",
    "evaluation.attacks=[{attack: fgsm}, {attack: pgd, num_steps: 20}, {attack: autoattack, n: 60}]",
    "evaluation.shard_size=120",
]  # fmt: skip


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "distrib.cli", *map(str, words)]


def train_command(*overrides: str) -> list[str]:
    sets = [word for override in [*SHORT, *overrides] for word in ("--set", override)]
    return command("run", JOB, "--json", *sets)


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in INHERITED}
    return kept | {"PYTHONWARNINGS": "default"}


def call(words: list[str], folder: Path, timeout: int = 280) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout)


def call_here(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    """What :func:`call` gives, without a process of its own: it spares the seconds in which torch and MLflow start.

    For commands that start no Ray, where it is not the start itself that is proved.
    """
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = main(words[3:])
    finally:
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def result_of(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def wait_for(what: Callable[[], object], process: subprocess.Popen, seconds: float = 200) -> object:
    """What ``what()`` gives once it gives something; fails if the process ends or time runs out first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        assert process.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain")


def workers(driver: subprocess.Popen) -> list[int]:
    """The pids of the training workers below a driver."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "TrainWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]

"""Runs on a cluster of hosts, as a person submits them from a machine that is none of its nodes."""

import json
import subprocess

from drive import JOB, SHORT, command, wait_for
from hosts import Hosts


def call(cluster: Hosts, *words: object, timeout: int = 600, **environment: str) -> subprocess.CompletedProcess:
    """distrib, on this machine, which is on the cluster's network but none of its nodes."""
    return subprocess.run(
        command(*words), cwd=cluster.folder, env=cluster.environment() | environment, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip


def submission(cluster: Hosts, name: str, *more: str, address: str | None = None) -> list[str]:
    sets = [f"name={name}", "cluster.num_workers=2", *SHORT]
    return [
        "submit", str(JOB), "--address", address or cluster.dashboard, "--directory", str(cluster.folder),
        *(word for one in sets for word in ("--set", one)), *more,
    ]  # fmt: skip


def epochs(cluster: Hosts, name: str) -> list[int]:
    return sorted(int(path.name[-5:]) for path in (cluster.folder / "runs" / name / "robust").glob("epoch-*"))


def record_of(cluster: Hosts, name: str) -> dict:
    return json.loads((cluster.folder / "runs" / name / "result.json").read_text())


def lose_a_machine(cluster: Hosts, name: str) -> None:
    """Submits a run; everything on machine 2 dies in the midst of training, a new machine joins; the run ends well."""
    process = subprocess.Popen(
        command(*submission(cluster, name, "--follow", "--json")), cwd=cluster.folder, env=cluster.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: epochs(cluster, name), process, 400)
        reached = epochs(cluster, name)[-1]
        cluster.kill(2)
        assert reached < 6, "it was to die in the midst of training"
        cluster.ray(2, cpus=1)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, out[-3000:] + err[-2000:]
    assert out.count("robust training: 2 workers on cpu") == 2, "the workers started twice"

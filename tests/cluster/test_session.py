"""What a session waits for, says and takes where a run was begun before; and where a local cluster listens."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from distrib.cluster import session
from distrib.cluster.resources import Resources
from distrib.config.cluster import Cluster
from distrib.errors import JobError


def enough(
    monkeypatch: pytest.MonkeyPatch, looks: list[list[dict]], fields: dict, record: dict | None, local: bool = False
) -> tuple[Resources, list[str]]:
    """What a session finds where Ray's nodes are those of ``looks``, one after the other, and what it says."""
    seen, told = iter(looks), []
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in next(seen)])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return session._enough(Cluster(wait_seconds=60, **fields), local, told.append, record), told


def test_machines_of_a_run_that_was_begun_are_waited_for(monkeypatch: pytest.MonkeyPatch):
    """A head that was replaced has no workers yet; a new run is refused at once."""
    head, worker = {"CPU": 0}, {"CPU": 2}
    found, (line,) = enough(monkeypatch, [[head], [head], [head, worker]], {"num_workers": 2}, {})
    assert found.cpus == 2
    assert line.startswith("waiting for machines, at most 60 s: cluster.num_workers: 2 workers x 1 CPUs = 2 CPUs, but")
    for local, record in ((False, None), (True, {})):
        with pytest.raises(JobError, match="the cluster has 0"):
            enough(monkeypatch, [[head]], {"num_workers": 2}, record, local)


EIGHT, SIX = [{"CPU": 8, "GPU": 8}], [{"CPU": 8, "GPU": 6}]
ON_GPUS = {"device": "cuda"}


def test_a_run_that_was_begun_on_gpus_waits_for_them(monkeypatch: pytest.MonkeyPatch):
    """Eight workers were begun on eight GPUs, two are lost: not CPUs, silently, at the next start."""
    found, (line,) = enough(monkeypatch, [SIX, EIGHT], {"num_workers": 8}, ON_GPUS)
    assert found.use_gpu(Cluster(num_workers=8))
    assert re.search(r"waiting for machines, .* begun on GPUs and needs 8 GPUs, but the cluster has 6", line)
    with pytest.raises(JobError, match=r"begun on GPUs .* has 6; bring them back, or .*--set cluster\.device=cpu"):
        enough(monkeypatch, [SIX], {"num_workers": 8}, ON_GPUS, local=True)


def test_a_device_that_the_job_names_now_is_taken_with_a_line(monkeypatch: pytest.MonkeyPatch):
    found, told = enough(monkeypatch, [SIX], {"num_workers": 8, "device": "cpu"}, ON_GPUS)
    assert found.device == "cpu"
    assert told == ["cluster.device: this run was begun on cuda; it goes on on cpu, as the job says now"]
    assert enough(monkeypatch, [EIGHT], {"device": "cuda"}, ON_GPUS)[1] == []


def test_a_run_that_was_begun_on_cpus_stays_there(monkeypatch: pytest.MonkeyPatch):
    found, told = enough(monkeypatch, [EIGHT], {}, {"device": "cpu"})
    assert (found.device, told) == ("cpu", [])
    assert found.unused(Cluster()) == (
        "cluster.device: 8 GPUs stay unused, for this run was begun on CPUs; --set cluster.device=cuda changes that"
    )
    assert enough(monkeypatch, [EIGHT], {}, {})[0].device == "cuda", "records of earlier versions name no device"


def test_cpus_do_not_bind_a_run_whose_cluster_adds_gpus(monkeypatch: pytest.MonkeyPatch):
    """There was no GPU machine yet when it was begun; GPUs do bind it, for the cluster adds them."""
    grows = {"autoscaling": True}
    found, told = enough(monkeypatch, [EIGHT], grows, {"device": "cpu"})
    assert found.device == "cuda"
    assert told == ["cluster.device: this run was begun on cpu; it goes on on cuda, which the cluster has now"]
    found, told = enough(monkeypatch, [[{"CPU": 8}]], grows, ON_GPUS)
    assert (found.device, told) == ("cuda", [])


LISTENERS = """
import os, psutil, ray  # as in a process that used Ray before: what it read from its environment is read
from distrib.cluster import session
from distrib.config.cluster import Cluster
with session.session(Cluster(num_workers=1), print, dashboard=True):
    assert ray.get(ray.remote(num_cpus=1)(lambda: 1).remote()) == 1  # a worker listens as well
    trouble = {"lines": ["85 lines of Ray"], "pid": "raylet", "is_err": False}
    ray._private.worker.print_to_stdstream(trouble, ignore_prefix=False)  # as Ray does; stdout is the result's
    here = ray.get_runtime_context()
    session._reachable(here.gcs_address, "RAY_ADDRESS")  # it answers as Ray does
    folder = here.worker.node.get_session_dir_path()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        for one in process.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                print(one.laddr.ip.removeprefix("::ffff:"), process.name())
print("after", os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"), os.environ.get("RAY_API_SERVER_ADDRESS"))
latest = os.path.join(os.path.dirname(folder), "session_latest")
print("left", os.path.exists(folder), os.path.islink(latest) and not os.path.exists(latest))
"""


def test_a_local_cluster_listens_on_the_loopback_interface_only(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", LISTENERS], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *listeners, after, left = done.stdout.splitlines()
    assert {"raylet", "gcs_server"} <= {line.split(maxsplit=1)[1] for line in listeners}
    assert [line for line in listeners if not line.startswith(("127.0.0.1 ", "::1 "))] == []
    assert after == "after None None"
    assert left == "left False False", "every run left the folder of its session"

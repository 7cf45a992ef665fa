"""What a cluster can hold, and how it is said what it cannot."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from distrib.cluster import session
from distrib.cluster.session import Node, Resources
from distrib.errors import JobError
from distrib.job import Cluster

TWO = Resources((Node(0), Node(2), Node(2)), local=False)
GPUS = Resources((Node(16), Node(16, 2), Node(4, 4)), local=False)


@pytest.mark.parametrize(
    ("resources", "cpus", "use_gpu", "room"),
    [
        (TWO, 1, False, 4), (TWO, 2, False, 2), (TWO, 3, False, 0),
        (GPUS, 4, True, 3), (GPUS, 4, False, 9), (GPUS, 8, True, 2),
    ],
)  # fmt: skip
def test_no_worker_is_spread_over_two_nodes(resources: Resources, cpus: int, use_gpu: bool, room: int):
    assert resources.room(cpus, use_gpu) == room


REFUSED = [
    ({"num_workers": 5}, r"cluster\.num_workers: 5 workers x 1 CPUs = 5 CPUs, but the cluster has 4; ask for fewer"),
    ({"num_workers": 1, "cpus_per_worker": 3},
     r"cpus_per_worker: 1 workers of 3 CPUs each, but the nodes \(0 CPUs, 2 CPUs, 2 CPUs\) hold 0; ask for less"),
    ({"num_workers": 2, "device": "cuda"}, r"device: cuda needs 2 GPUs, but the cluster has 0; use auto or cpu"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "told"), REFUSED)
def test_what_never_fits_is_refused_with_the_arithmetic_unless_the_cluster_grows(fields: dict, told: str):
    with pytest.raises(JobError, match=told):
        TWO.check(Cluster(**fields))
    TWO.check(Cluster(**fields, autoscaling=True))


def test_gpus_and_cpus_are_counted_on_the_same_node():
    with pytest.raises(JobError, match=r"3 workers of 8 CPUs and a GPU each, .*4 CPUs 4 GPUs\) hold 2"):
        GPUS.check(Cluster(num_workers=3, cpus_per_worker=8, device="cuda"))
    GPUS.check(Cluster(num_workers=3, cpus_per_worker=4, device="cuda"))


@pytest.mark.parametrize(("device", "workers", "gpu"), [("auto", 6, True), ("auto", 7, False), ("cpu", 2, False)])
def test_auto_takes_gpus_only_where_every_worker_gets_one(device: str, workers: int, gpu: bool):
    cluster = Cluster.model_validate({"device": device, "num_workers": workers})
    assert GPUS.use_gpu(cluster) is gpu


def test_machines_of_a_run_that_was_begun_are_waited_for(monkeypatch: pytest.MonkeyPatch):
    """A head that was replaced has no workers yet; a new run is refused at once."""
    head, worker = ({"Alive": True, "Resources": {"CPU": cpus}} for cpus in (0, 2))
    seen = iter([[head], [head], [head, worker]])
    monkeypatch.setattr(ray, "nodes", lambda: next(seen))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    told: list[str] = []
    cluster = Cluster(num_workers=2, wait_seconds=60)
    assert session._enough(cluster, False, told.append).cpus == 2
    (line,) = told
    assert line.startswith("waiting for machines, at most 60 s: cluster.num_workers: 2 workers x 1 CPUs = 2 CPUs, but")
    for local, lost in ((False, None), (True, told.append)):
        seen = iter([[head]])
        with pytest.raises(JobError, match="the cluster has 0"):
            session._enough(cluster, local, lost)


LISTENERS = """
import os, psutil, ray  # as in a process that used Ray before: what it read from its environment is read
from distrib.cluster.session import session
from distrib.job import Cluster
with session(Cluster(num_workers=1), dashboard=True):
    assert ray.get(ray.remote(num_cpus=1)(lambda: 1).remote()) == 1  # a worker listens as well
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        for one in process.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                print(one.laddr.ip.removeprefix("::ffff:"), process.name())
print("after", os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"), os.environ.get("RAY_API_SERVER_ADDRESS"))
"""


def test_a_local_cluster_listens_on_the_loopback_interface_only(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", LISTENERS], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *listeners, after = done.stdout.splitlines()
    assert {"raylet", "gcs_server"} <= {line.split(maxsplit=1)[1] for line in listeners}
    assert [line for line in listeners if not line.startswith(("127.0.0.1 ", "::1 "))] == []
    assert after == "after None None"

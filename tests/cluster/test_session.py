"""What a cluster can hold, and how it is said what it cannot."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from distrib.cluster import session
from distrib.cluster.session import Node, Resources
from distrib.config.job import Cluster
from distrib.errors import JobError

TWO = Resources((Node(0), Node(2), Node(2)), local=False)
GPUS = Resources((Node(16), Node(16, 2), Node(4, 4)), local=False)
SEVEN = Resources((Node(8, 7),), local=True)
ONE = Resources((Node(16, 1),), local=True)


@pytest.mark.parametrize(
    ("resources", "cpus", "use_gpu", "room"),
    [
        (TWO, 1, False, 4), (TWO, 2, False, 2), (TWO, 3, False, 0),
        (GPUS, 4, True, 3), (GPUS, 4, False, 9), (GPUS, 8, True, 2),
    ],
)  # fmt: skip
def test_no_worker_is_spread_over_two_nodes(resources: Resources, cpus: int, use_gpu: bool, room: int):
    assert resources.room(Cluster(cpus_per_worker=cpus), use_gpu) == room


@pytest.mark.parametrize(
    ("fields", "at_a_time"),
    [
        ({"num_workers": 3}, 3),
        ({"num_workers": {"min": 1, "max": 8}}, 4),
        ({"num_workers": {"min": 1, "max": 3}}, 3),
        ({"num_workers": {"min": 2, "max": 8}, "cpus_per_worker": 2}, 2),
        ({"num_workers": {"min": 2, "max": 8}, "autoscaling": True}, 8),
    ],
)
def test_as_many_workers_run_at_a_time_as_there_is_room_for(fields: dict, at_a_time: int):
    assert TWO.workers(Cluster.model_validate(fields)) == at_a_time


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


@pytest.mark.parametrize(
    ("resources", "fields", "gpu"),
    [
        (GPUS, {"num_workers": 6}, True), (GPUS, {"num_workers": 7}, False),
        (GPUS, {"num_workers": 2, "device": "cpu"}, False),
        (SEVEN, {"num_workers": {"min": 4, "max": 8}}, True), (SEVEN, {"num_workers": {"min": 8, "max": 9}}, False),
        (ONE, {"num_workers": 1}, True), (ONE, {"num_workers": 2}, False),
        (ONE, {"num_workers": 2, "workers_per_gpu": 2}, True), (ONE, {"num_workers": 3, "workers_per_gpu": 2}, False),
        (GPUS, {"num_workers": 3, "cpus_per_worker": 8}, False), (TWO, {"num_workers": 2}, False),
    ],
)  # fmt: skip
def test_auto_takes_gpus_where_the_least_number_of_workers_has_room_on_them(
    resources: Resources, fields: dict, gpu: bool
):
    cluster = Cluster.model_validate(fields)
    assert resources.use_gpu(cluster) is gpu
    assert resources.decided(cluster).device == ("cuda" if gpu else "cpu")


def test_ray_s_rounding_leaves_room_for_every_worker_that_shares_a_gpu():
    for sharing in range(1, 65):
        share = Cluster(workers_per_gpu=sharing).gpus_per_worker
        assert share == round(share, 4) > 0 and share * sharing <= 1 < share * sharing + 1 / sharing


@pytest.mark.parametrize(
    ("resources", "fields", "told"),
    [
        (ONE, {"num_workers": 2}, r"1 GPU stays unused: 2 workers of 1 CPUs and a GPU each do not fit, so they compute "
         r"on CPUs; --set cluster\.num_workers=1 or --set cluster\.workers_per_gpu=2 changes that"),
        (ONE, {"num_workers": 5, "workers_per_gpu": 2}, r"1/2 of a GPU each do not.*workers=2 or .*per_gpu=5 changes"),
        (GPUS, {"num_workers": 1, "cpus_per_worker": 17, "autoscaling": True}, r"6 GPUs stay unused.*; lower cluster"),
        (ONE, {"num_workers": 2, "autoscaling": True}, r"1 GPU stays unused.*; or --set cluster\.device=cuda, where"),
        (ONE, {"num_workers": 1}, None), (TWO, {"num_workers": 9, "autoscaling": True, "device": "cuda"}, None),
        (TWO, {"num_workers": 9, "autoscaling": True}, r"auto found no GPUs.*--set cluster\.device=cuda asks for them"),
        (ONE, {"num_workers": 2, "device": "cpu"}, None),
        (SEVEN, {"num_workers": 2}, r"num_workers: 5 of 7 GPUs stay unused; --set cluster\.num_workers=7 would take"),
        (SEVEN, {"num_workers": {"min": 2, "max": 8}}, None), (GPUS, {"num_workers": 2}, None),
    ],
)  # fmt: skip
def test_gpus_never_stay_unused_without_a_word(resources: Resources, fields: dict, told: str | None):
    cluster = Cluster.model_validate(fields)
    line = resources.decided(cluster).unused(cluster)
    assert line is None if told is None else line is not None and re.search(told, line), line


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
from distrib.config.job import Cluster
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

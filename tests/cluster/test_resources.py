"""What a cluster can hold, and how it is said what it cannot."""

import re

import pytest

from distrib.cluster.resources import Node, Resources
from distrib.config.cluster import Cluster
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

"""What a cluster can hold, and how it is said what it cannot."""

import pytest

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

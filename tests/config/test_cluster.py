"""How many workers a job may have, and how they share what there is."""

import pytest

from distrib.config.cluster import Cluster, Elastic


@pytest.mark.parametrize(
    ("workers", "least", "most"), [(3, 3, 3), (Elastic(min=1, max=4), 1, 4)], ids=["fixed", "elastic"]
)
def test_the_bounds_of_the_number_of_workers(workers: int | Elastic, least: int, most: int):
    cluster = Cluster(num_workers=workers)
    assert (cluster.min_workers, cluster.max_workers) == (least, most)


def test_ray_s_rounding_leaves_room_for_every_worker_that_shares_a_gpu():
    for sharing in range(1, 65):
        share = Cluster(workers_per_gpu=sharing).gpus_per_worker
        assert share == round(share, 4) > 0 and share * sharing <= 1 < share * sharing + 1 / sharing

"""The notice board outlives every node but the driver's."""

from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from distrib.cluster.board import listening


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    """Two nodes on this machine; the driver is on the first, which has nothing free for an actor."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
    )
    try:
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def where(board) -> str:
    return ray.get(board.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()), timeout=60)


def test_the_board_is_on_the_drivers_node(two_nodes: Cluster):
    heard: list = []
    for turn in range(3):  # Ray would put one here, the next there
        with listening(lambda phase, notice: heard.append((phase, notice))) as board:
            assert where(board) == ray.get_runtime_context().get_node_id()
            ray.get(board.post.remote("robust", turn), timeout=60)
    assert heard == [("robust", turn) for turn in range(3)]


def test_a_lost_node_does_not_take_what_was_posted_along(two_nodes: Cluster):
    heard: list = []
    with listening(lambda phase, notice: heard.append(notice)) as board:
        ray.get(board.post.remote("robust", "before"), timeout=60)
        two_nodes.remove_node(two_nodes.worker_nodes.copy().pop(), allow_graceful=False)
        ray.get(board.post.remote("robust", "after"), timeout=60)
    assert heard == ["before", "after"]

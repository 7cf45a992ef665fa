"""The process group talks over the interface that Ray uses, on every worker, before it is set up."""

import os

import pytest
import ray
from ray.train.torch.config import _TorchBackend

from distrib.cluster.network import PinnedTorchConfig, pin_interface

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray uses the loopback interface, as on a cluster of this machine alone."""
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")


def test_the_interface_of_ray_s_address_is_pinned():
    pin_interface()
    assert [os.environ[name] for name in VARIABLES] == ["lo", "lo"]


def test_an_interface_that_is_set_already_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    pin_interface()
    assert [os.environ[name] for name in VARIABLES] == ["eth7", "lo"]


def test_an_address_of_no_interface_pins_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    pin_interface()
    assert not set(VARIABLES) & set(os.environ)


def test_every_worker_is_pinned_before_the_process_group_starts(monkeypatch: pytest.MonkeyPatch):
    done: list[object] = []
    group = type("Group", (), {"execute": lambda self, function: done.append(function)})()
    monkeypatch.setattr(_TorchBackend, "on_start", lambda self, worker_group, config: done.append("process group"))
    config = PinnedTorchConfig(backend="gloo")
    config.backend_cls().on_start(group, config)
    assert done == [pin_interface, "process group"]

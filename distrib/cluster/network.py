"""The process group's network interface, pinned on every node to the one that Ray uses.

Gloo binds to whatever address the host's own name resolves to. On Debian that is the loopback interface, so training on
several machines ends in "connectFullMesh failed ... Connection refused" (ray issue 37461 and many others; seen with
Ray 2.60). Ray offers no hook for it, so its backend is wrapped; remove this when TorchConfig can set the interface.
"""

import os
from dataclasses import dataclass

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


@dataclass
class PinnedTorchConfig(TorchConfig):
    """Ray's TorchConfig, whose process group talks over the interface that holds the node's Ray address."""

    @property
    def backend_cls(self):
        """The backend that Ray starts on the workers."""
        return _PinnedBackend


class _PinnedBackend(_TorchBackend):
    def on_start(self, worker_group, backend_config):
        worker_group.execute(pin_interface)
        super().on_start(worker_group, backend_config)


def pin_interface() -> None:
    """Sets GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in this worker, unless they are set already."""
    own = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
            return

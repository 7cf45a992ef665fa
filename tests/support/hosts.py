"""Machines of the test's own: network namespaces with an address each, joined by a bridge, and real Ray nodes in them.

They share this machine's disks, as the nodes of a cluster share a network file system. It takes root and Debian's
iproute2. Everything started is stopped by its namespace: ``ray stop`` would stop all Ray on the machine.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from drive import INHERITED

POSSIBLE = os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("unshare") is not None
WHY_NOT = "hosts in network namespaces take root and iproute2"
PORT, DASHBOARD = 6399, 8265


@dataclass
class Hosts:
    """Some hosts on a network of their own; the first is the head."""

    mark: str
    folder: Path
    """That all of them share."""
    room: str
    """Ray's own; a socket's path has at most 107 letters, and pytest's folders are long."""
    token: str
    hosts: list[int] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    """Variables of every process on them."""

    @property
    def dashboard(self) -> str:
        return f"http://{self.address(1)}:{DASHBOARD}"

    def address(self, number: int) -> str:
        return f"10.77.{int(self.mark, 16) % 200}.{number}"

    def name(self, number: int) -> str:
        return f"d{self.mark}-{number}"

    def add(self, number: int) -> None:
        """A new host; the machine itself is on the bridge too, as number 250."""
        name, bridge = self.name(number), f"d{self.mark}"
        ip("netns", "add", name)
        self.hosts.append(number)
        ip("link", "add", f"{bridge}v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", f"{bridge}v{number}", "master", bridge, "up")
        ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", "eth0", "up")

    def environment(self) -> dict[str, str]:
        """What every process of the cluster, and everyone who speaks to it, has."""
        kept = {key: value for key, value in os.environ.items() if key not in INHERITED}
        return kept | {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "PYTHONWARNINGS": "default",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0",
        } | self.given  # fmt: skip

    def ray(self, number: int, cpus: int, hidden: Path | None = None) -> None:
        """Starts a Ray node on a host: the head on host 1, else one that joins it. It does not see ``hidden``."""
        own, head = self.address(number), self.address(1)
        words = ["ray", "start", f"--node-ip-address={own}", f"--num-cpus={cpus}"]
        if number == 1:
            words += ["--head", f"--port={PORT}", f"--dashboard-host={own}", f"--dashboard-port={DASHBOARD}"]
            words += [f"--temp-dir={self.room}"]
        else:
            words += [f"--address={head}:{PORT}"]
        if hidden is not None:
            mount = 'mount -t tmpfs none "$0" && exec "$@"'
            words = ["unshare", "--mount", "sh", "-c", mount, str(hidden), *words]
        done = self.run(number, words)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def run(self, number: int, words: list[str], timeout: int = 180) -> subprocess.CompletedProcess:
        """A command on a host."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name(number), *words], cwd=self.folder, env=self.environment(),
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    def kill(self, number: int) -> None:
        """SIGKILL to every process of a host, until none is left."""
        for _ in range(50):
            pids = ip("netns", "pids", self.name(number)).split()
            if not pids:
                return
            for pid in pids:
                try:
                    psutil.Process(int(pid)).kill()
                except psutil.Error:
                    continue
            time.sleep(0.1)
        raise AssertionError(f"host {number} has processes that do not die")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30).stdout


@contextmanager
def network(folder: Path) -> Iterator[Hosts]:
    """A bridge without hosts yet; afterwards all that was started on it is gone."""
    found = Hosts(secrets.token_hex(2), folder, tempfile.mkdtemp(prefix="hosts-"), secrets.token_hex(32))
    bridge = f"d{found.mark}"
    ip("link", "add", bridge, "type", "bridge")
    try:
        ip("addr", "add", f"{found.address(250)}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        yield found
    finally:
        for number in found.hosts:
            found.kill(number)
            ip("netns", "del", found.name(number))
        ip("link", "del", bridge)
        shutil.rmtree(found.room, ignore_errors=True)

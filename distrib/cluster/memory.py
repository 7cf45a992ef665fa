"""What Ray's memory monitor did, out of the 85 lines that it says of it (Ray 2.60).

It ends processes of a machine whose memory is nearly full, before the system does: the newest first, the driver's own
helpers among them.
"""

import re
from dataclasses import dataclass

NODE = re.compile(
    r"(?P<count>\d+) worker\(s\) were killed due to the node running low on memory.*?\(IP: (?P<node>[^,]+),.*?"
    r"was (?P<used>[\d.]+)GB used / (?P<limit>[\d.]+)GB",
    re.DOTALL,
)
KILLED = re.compile(r"Selected to kill:.*?task name=(\S+?), .*?pid=(\d+), actual memory used=([\d.]+)GB")


@dataclass(frozen=True)
class Shortage:
    """A machine whose memory was full."""

    node: str
    count: int
    """The processes that were ended."""
    used: float
    limit: float
    """Gigabytes, of the machine (or its container)."""
    name: str
    """Of the largest of those processes, as Ray calls it, such as RayTrainWorker or judge."""
    pid: int
    size: float
    """Gigabytes, of the largest."""

    def __str__(self) -> str:
        largest = f" ({'the largest ' if self.count > 1 else ''}{self.name}, pid {self.pid}, with {self.size:g} GB)"
        return (
            f"node {self.node} ran out of memory ({self.used:g} of {self.limit:g} GB in use), so Ray ended "
            f"{self.count} process{'es' * (self.count > 1)} there{largest if self.name else ''}"
        )


def shortage(text: str) -> Shortage | None:
    """The one that an error of Ray tells of, if it does."""
    found = NODE.search(text)
    if found is None:
        return None
    killed = [(float(size), int(pid), name.removesuffix(".__init__")) for name, pid, size in KILLED.findall(text)]
    size, pid, name = max(killed, default=(0.0, 0, ""))
    return Shortage(
        found["node"],
        int(found["count"]),
        float(found["used"]),
        float(found["limit"]),
        name.rpartition(":")[2],
        pid,
        size,
    )

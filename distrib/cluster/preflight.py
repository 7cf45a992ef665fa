"""What every machine of a cluster must be able to do, proved on each before anything is trained.

It sees the run's folder, and what it writes there is seen by the driver: checkpoints live in it. It sees the packed
data, and they are those that the driver packed. MLflow is not among it: the driver alone speaks to it.
"""

import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distrib import __version__
from distrib.cluster.resources import Resources
from distrib.config.cluster import Cluster
from distrib.data.beton import open_split
from distrib.data.split import SPLITS, Split
from distrib.data.stage import staged
from distrib.errors import DistribError, InputError, JobError, RunError


def check_nodes(resources: Resources, run: Path, data: Path, cluster: Cluster) -> None:
    """Returns when every node with a CPU has passed; on a cluster of this machine alone there is nothing to prove.

    Raises :class:`InputError` as a node raised it, or :class:`RunError` where one does not answer in time.
    """
    if resources.local:
        return
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    probe, word = run / f".probe-{uuid.uuid4().hex}", uuid.uuid4().hex
    probe.mkdir()
    try:
        (probe / "driver").write_text(word)
        hashes: dict[Split, str] = {split: open_split(data, split, "evaluation").card.sha256 for split in SPLITS}
        sights = Sights(probe, word, data, hashes, cluster.stage)
        task: Any = ray.remote(num_cpus=0, max_retries=1)(check_node)
        answers = {
            node["NodeID"]: task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(node["NodeManagerAddress"], sights)
            for node in nodes
        }
        for node in nodes:
            _heard(answers[node["NodeID"]], node["NodeManagerAddress"], cluster)
            if not (probe / node["NodeManagerAddress"]).is_file():
                raise _unshared(node["NodeManagerAddress"], run)
    finally:
        for file in probe.glob("*"):
            with suppress(OSError):
                file.unlink()
        with suppress(OSError):
            probe.rmdir()


@dataclass(frozen=True)
class Sights:
    """What every machine must see as the driver does."""

    probe: Path
    """A folder in that of the run, which holds what the driver wrote, and gets a file of each machine."""
    word: str
    """What the driver wrote into it."""
    data: Path
    """The folder of the betons."""
    sha256: dict[Split, str]
    """Of each beton."""
    stage: str | None
    """The folder of a machine's own disk that the data are copied into."""


def check_node(node: str, sights: Sights) -> None:
    """Runs on ``node`` (its address). Raises :class:`InputError` for what it does not see."""
    try:
        seen = (sights.probe / "driver").read_text()
        (sights.probe / node).write_text(sights.word)
    except OSError:
        seen = ""
    if seen != sights.word:
        raise _unshared(node, sights.probe.parent)
    try:
        for split, sha256 in sights.sha256.items():
            beton = open_split(sights.data, split, "evaluation")
            if beton.card.sha256 != sha256 or beton.path.stat().st_size != beton.card.size_bytes:
                raise InputError("other data than the driver packed")
        staged(sights.data, sights.stage)
    except (OSError, InputError) as error:
        raise InputError(
            f"data.store: on node {node} the packed data in {sights.data} cannot be used ({error}); name a folder "
            "that every machine sees"
        ) from None


def _heard(answer, address: str, cluster: Cluster) -> None:
    seconds = cluster.timeout_seconds if cluster.stage is None else cluster.wait_seconds  # to copy may take long
    try:
        ray.get(answer, timeout=seconds)
    except GetTimeoutError:
        raise RunError(f"node {address} has not answered for {seconds} s; look at it, or drop it") from None
    except RayTaskError as error:
        if isinstance(error.cause, DistribError):
            raise error.cause from None
        reason = str(error.cause or error).strip().splitlines()[-1]
        raise JobError(
            f"node {address} cannot run distrib {__version__} ({reason}); install it there, or submit with --with-code"
        ) from None
    except RayError as error:
        raise RunError(f"node {address} was lost ({str(error).strip().splitlines()[0]})") from None


def _unshared(node: str, run: Path) -> InputError:
    return InputError(
        f"storage: {run} on node {node} is not the folder that the driver has; name one that every machine sees (NFS, "
        "a ReadWriteMany volume), such as --set storage=/shared/runs"
    )

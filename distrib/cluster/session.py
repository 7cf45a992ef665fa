"""A connection to a Ray cluster for the length of one job: a given one, or a local one that ends with the job."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distrib.cluster.resources import Device, Node, Resources
from distrib.errors import JobError, RunError
from distrib.job import Cluster

SERVER = "RAY_API_SERVER_ADDRESS"


QUIET = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
REFUSALS = (ConnectionError, ValueError, RuntimeError, OSError)


@contextmanager
def session(
    cluster: Cluster, say: Callable[[str], None], record: dict | None = None, dashboard: bool = False
) -> Iterator[Resources]:
    """Connects to Ray, checks that the job fits, and disconnects. A local cluster is stopped with all its processes.

    A local cluster listens on the loopback interface only, and who joins it must show the token of
    ``~/.ray/auth_token``, unless RAY_AUTH_MODE is "disabled". It offers as many CPUs as the job asks for, even if the
    machine has fewer: two workers on one core are slow, not wrong. With ``dashboard`` it also answers questions about
    its actors, without which Ray does not give back what an early-stopped trial held (ray#54305), as a search needs it.
    ``record`` is what job.json says of a run that was begun, and so had room: machines that a given cluster lacks now
    are waited for, its device among them. ``say`` is told of that, and of GPUs that stay unused.
    Raises :class:`JobError`, :class:`RunError`.
    """
    settings = {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(cluster.timeout_seconds),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the default of 2 s delays every end and every failure
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a job are relative to where it was started
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the command says how to go on
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    if not address:
        settings["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # nobody takes this machine away; a process less
        settings["RAY_worker_maximum_startup_concurrency"] = str(max(os.cpu_count() or 1, 16))  # else few cores warn
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    from ray._private import worker  # it sets up its logging

    logging.getLogger("ray").setLevel(logging.ERROR)
    # What goes wrong on any node would come to stdout, in full, although log_to_driver is off (2.60)
    worker._worker_logs_enabled = False
    os.environ.pop(SERVER, None)
    wanted = cluster.max_workers * cluster.cpus_per_worker
    terminated = signal.getsignal(signal.SIGTERM)
    with _joined(address) if address else _local(max(wanted, os.cpu_count() or 1), dashboard):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)  # Ray's own, set just now, leaves without closing what is open
        resources = _enough(cluster, not address, say, record)
        unused = resources.unused(cluster)
        if unused is not None and not (dashboard and resources.use_gpu(cluster)):  # other trials take them
            say(unused)
        yield resources


def _enough(cluster: Cluster, local: bool, say: Callable[[str], None], record: dict | None) -> Resources:
    """What the cluster has, when that is enough. Raises :class:`JobError` where it is not, or not in time."""
    import ray

    begun_on = _begun_on(record)
    if begun_on is not None and cluster.device not in ("auto", begun_on):
        say(f"cluster.device: this run was begun on {begun_on}; it goes on on {cluster.device}, as the job says now")
    deadline, told = time.monotonic() + cluster.wait_seconds, False
    while True:
        totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = (Node(total.get("CPU", 0), total.get("GPU", 0), total.get("memory", 0)) for total in totals)
        found = Resources(tuple(nodes), local)
        try:
            return found.decided(cluster, begun_on)
        except JobError as error:
            if local or record is None or time.monotonic() > deadline:
                raise
            if not told:
                say(f"waiting for machines, at most {cluster.wait_seconds} s: {error}")
            told = True
        time.sleep(2)


def _begun_on(record: dict | None) -> Device | None:
    """Records of earlier versions do not say."""
    device = (record or {}).get("device")
    return device if device in ("cpu", "cuda") else None


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """A cluster that is there already, and stays."""
    import ray

    _reachable(address)
    try:
        ray.init(address=address, **QUIET)
    except REFUSALS as error:
        raise JobError(f"cluster.address: no Ray cluster at {address!r} ({str(error).splitlines()[0]})") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _local(cpus: int, dashboard: bool) -> Iterator[None]:
    """A cluster of this machine, for this job."""
    import ray

    where = {"_node_ip_address": "127.0.0.1", "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    if dashboard:
        # Its processes would look for the dashboard, and give up where the machine runs a second cluster
        where["dashboard_port"] = _free_port()
        os.environ[SERVER] = f"http://127.0.0.1:{where['dashboard_port']}"
    with _on_loopback():
        try:
            try:
                ray.init("local", num_cpus=cpus, **where, **QUIET)
            except REFUSALS as error:
                raise RunError(f"a local Ray cluster could not be started: {error}; run distrib doctor") from None
            _private_token()
            yield
        finally:
            ray.shutdown()
            os.environ.pop(SERVER, None)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray's way on macOS and Windows: a cluster of one machine, its addresses 127.0.0.1. On Linux, where clusters may
    have many, it takes another address even where it is told this one, and listens on every interface (2.60)."""
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR  # for the processes that Ray starts; the constant for this one
    before = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        os.environ.pop(name)
        if before[0] is not None:
            os.environ[name] = before[0]
        ray_constants.ENABLE_RAY_CLUSTER = before[1]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _reachable(address: str) -> None:
    """Raises :class:`JobError` where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local") or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise JobError(
            f"cluster.address: no Ray cluster at {address!r} ({reason}); start one, or leave it out"
        ) from None


def _private_token() -> None:
    """Ray writes the token that opens its clusters for everyone to read (2.60); only its owner shall."""
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.chmod(0o600)

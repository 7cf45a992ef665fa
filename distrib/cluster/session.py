"""A connection to a Ray cluster for the length of one job: a given one, or a local one that ends with the job."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distrib.cluster.local import QUIET, SERVER, started
from distrib.cluster.resources import Node, Resources, address_of, begun_on
from distrib.config.cluster import Cluster
from distrib.errors import JobError

ANSWER_SECONDS = 10
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What opens HTTP/2, which Ray's services speak: whoever does answers at once with a frame of this kind, 4."""


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
    address = address_of(cluster)
    if not address:
        # Ray would look for new log files ten times a second, to show here what QUIET does not show (2.60)
        settings |= {"RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0", "LOG_NAME_UPDATE_INTERVAL_S": "60"}
        settings["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # nobody takes this machine away; a process less
        settings["RAY_worker_maximum_startup_concurrency"] = str(max(os.cpu_count() or 1, 16))  # else few cores warn
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    from ray._private import worker  # it sets up its logging

    logging.getLogger("ray").setLevel(logging.ERROR)
    # What goes wrong on any node would come to stdout, in full, although log_to_driver is off (2.60)
    worker._worker_logs_enabled = False
    os.environ.pop(SERVER, None)
    where = "cluster.address" if cluster.address else "RAY_ADDRESS"
    wanted = cluster.max_workers * cluster.cpus_per_worker
    terminated = signal.getsignal(signal.SIGTERM)
    with joined(address, where, say) if address else started(max(wanted, os.cpu_count() or 1), dashboard):
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

    begun = begun_on(record)
    deadline, told = time.monotonic() + cluster.wait_seconds, False
    while True:
        totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = (Node(total.get("CPU", 0), total.get("GPU", 0), total.get("memory", 0)) for total in totals)
        found = Resources(tuple(nodes), local)
        try:
            decided = found.decided(cluster, begun)
            if begun not in (None, decided.device):
                why = "which the cluster has now" if cluster.device == "auto" else "as the job says now"
                say(f"cluster.device: this run was begun on {begun}; it goes on on {decided.device}, {why}")
            return decided
        except JobError as error:
            if local or record is None or time.monotonic() > deadline:
                raise
            if not told:
                say(f"waiting for machines, at most {cluster.wait_seconds} s: {error}")
            told = True
        time.sleep(2)


@contextmanager
def joined(address: str, where: str, say: Callable[[str], None]) -> Iterator[None]:
    """A cluster that is there already, and stays; ``where`` is the field or variable that names it."""
    import ray
    from ray.exceptions import AuthenticationError

    found = _resolved(address, where)
    _reachable(found, where)
    try:
        ray.init(address=address, **QUIET)
    except AuthenticationError as error:
        raise JobError(
            f"{where}: the Ray cluster at {found} wants a token ({_first(error)}); set RAY_AUTH_TOKEN, or "
            "RAY_AUTH_TOKEN_PATH to a file with it"
        ) from None
    except Exception as error:  # Ray raises bare ones too (2.60)
        raise JobError(f"{where}: no Ray cluster at {found} ({_first(error)})") from None
    try:
        if address == "auto":
            say(f"{where}: auto has joined the Ray cluster at {found}")
        yield
    finally:
        ray.shutdown()


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _resolved(address: str, where: str) -> str:
    """The address itself, or the one that Ray takes for auto. Raises :class:`JobError`."""
    from ray._private.services import canonicalize_bootstrap_address

    if address == "auto":
        try:
            found, reason = (
                canonicalize_bootstrap_address("auto"),
                "RAY_ADDRESS is local: unset it to join one that runs",
            )
        except Exception as error:
            found, reason = None, _first(error)
        if found is None:
            raise JobError(
                f"{where}: auto, but no Ray cluster runs on this machine ({reason}); start one "
                "(ray start --head), or leave it out"
            )
        return found
    if address.startswith(("http://", "https://")):
        raise JobError(
            f"{where}: {address} is a dashboard's address, which is for distrib submit --address; a run joins "
            "HOST:PORT (such as head:6379), ray://HOST:10001, or auto"
        )
    if not address.removeprefix("ray://").rpartition(":")[2].isdigit():
        raise JobError(f"{where}: {address} is no address of a Ray cluster; it is HOST:PORT, ray://HOST:PORT, or auto")
    return address


def _reachable(address: str, where: str) -> None:
    """Raises :class:`JobError` where nobody answers at HOST:PORT as Ray does: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return
            connection.sendall(HELLO)
            answer = connection.recv(9)
            reason = None if answer[3:4] == HELLO[27:28] else "what answers there is not Ray"
    except (OSError, OverflowError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
    if reason is not None:
        raise JobError(f"{where}: no Ray cluster at {address} ({reason}); start one, or leave it out")

"""A Ray cluster of this machine, for the length of one job, and what keeps one from being started here.

Ray is imported late: doctor asks for the faults without it.
"""

import errno
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from distrib.errors import InputError, RunError
from distrib.files import why_not_writable

SERVER = "RAY_API_SERVER_ADDRESS"
QUIET = {"log_to_driver": False, "logging_level": 40, "configure_logging": False}  # logging.ERROR
MOST_BYTES = 107 if sys.platform.startswith("linux") else 103
"""Of a socket's address in the file system."""


@dataclass(frozen=True)
class Fault:
    """Why Ray cannot be started, and what to do about it."""

    what: str
    cure: str


@contextmanager
def started(cpus: int, dashboard: bool) -> Iterator[None]:
    """A cluster of this machine, for this job; nothing of it is left behind.

    Raises :class:`InputError` or :class:`RunError` where it cannot be started.
    """
    import ray
    from ray._private import worker

    found = fault()
    if found is not None:
        raise InputError(f"{found.what}; {found.cure}")
    make_token()
    where = {"_node_ip_address": "127.0.0.1", "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    if dashboard:
        # Its processes would look for the dashboard, and give up where the machine runs a second cluster
        where["dashboard_port"] = _free_port()
        os.environ[SERVER] = f"http://127.0.0.1:{where['dashboard_port']}"
    with _on_loopback():
        session = None
        try:
            try:
                ray.init("local", num_cpus=cpus, **where, **QUIET)
            except Exception as error:  # Ray raises bare ones too (2.60)
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise RunError(f"a local Ray cluster could not be started: {reason}; run distrib doctor") from None
            assert worker._global_node is not None
            session = Path(worker._global_node.get_session_dir_path())
            yield
        finally:
            ray.shutdown()
            os.environ.pop(SERVER, None)
            if session is not None:
                _remove(session)


def fault() -> Fault | None:
    """What keeps a cluster from being started here, as far as this user's folders and variables tell."""
    return _token_fault() or _sockets_fault()


def make_token() -> None:
    """Makes the token that opens this user's clusters, for nobody else to read, where there is none.

    Ray would write it for everyone to read (2.60). Raises :class:`InputError`.
    """
    if _given_token() or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

    token = Path.home() / ".ray" / "auth_token"
    try:
        if token.exists() and token.stat().st_size:  # its folder may be read-only, as a mounted Secret is
            with suppress(OSError):
                token.chmod(0o600)  # of one that Ray has written before
            return
        token.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=token.parent, prefix=".auth_token-") as file:  # its owner's alone
            file.write(generate_new_authentication_token())
            file.flush()
            if token.exists() and not token.stat().st_size:
                token.unlink()
            with suppress(FileExistsError):  # it may be another run's, of this moment
                _put(Path(file.name), token)
    except OSError as error:
        raise InputError(f"HOME: {token} cannot be written ({error.strerror}); {AT_HOME}") from None


def _put(written: Path, token: Path) -> None:
    """Makes the token, whole at once where the file system has hard links. Raises :class:`OSError`."""
    try:
        os.link(written, token)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        with open(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(written.read_text())


AT_HOME = "Ray keeps its token there: set HOME to a folder that you can write to, or RAY_AUTH_TOKEN to a token"


def _given_token() -> bool:
    """Whether no file is needed."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled" or bool(os.environ.get("RAY_AUTH_TOKEN"))


def _token_fault() -> Fault | None:
    if _given_token():
        return None
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named is not None:
        try:
            reason = "" if Path(named).read_text().strip() else "it is empty"
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
        cure = "write a token into it (ray get-auth-token --generate makes one), or unset the variable"
        return Fault(f"RAY_AUTH_TOKEN_PATH: {named} cannot be read ({reason})", cure) if reason else None
    try:
        token = Path.home() / ".ray" / "auth_token"
    except RuntimeError:
        return Fault("HOME: it is not set, and this user has no home", AT_HOME)
    try:
        token.read_bytes()
    except FileNotFoundError:
        reason = why_not_writable(token.parent)
    except OSError as error:
        reason = error.strerror
    else:
        return None
    return Fault(f"HOME: {token} cannot be written ({reason})", AT_HOME) if reason else None


def _sockets_fault() -> Fault | None:
    """As Ray looks for its folder (2.60), and names what is in it."""
    names = ("RAY_TMPDIR", "TMPDIR") if sys.platform.startswith("linux") else ("RAY_TMPDIR",)
    name = next((name for name in names if name in os.environ), None)
    folder, cure = (
        Path(os.environ[name] if name else "/tmp"),
        f"set {name or 'RAY_TMPDIR'} to a short folder that you can write to, such as /tmp",
    )
    longest = folder / f"ray/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    length = len(os.fsencode(longest))
    if length > MOST_BYTES:
        return Fault(f"{name}: {folder} is too long for Ray's sockets ({length} bytes, at most {MOST_BYTES})", cure)
    reason = why_not_writable(folder / "ray")
    return Fault(f"{name or 'RAY_TMPDIR'}: {folder / 'ray'} cannot be written to ({reason})", cure) if reason else None


def _remove(session: Path) -> None:
    """Removes what Ray leaves of a cluster, as soon as its processes write no more."""
    for _ in range(20):
        shutil.rmtree(session, ignore_errors=True)
        if not session.exists():
            break
        time.sleep(0.1)
    newest = session.parent / "session_latest"
    if newest.is_symlink() and not newest.exists():
        newest.unlink(missing_ok=True)


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

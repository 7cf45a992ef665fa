"""A cluster that cannot be started, or joined, is told by its true cause, in one line and in bounded time."""

import errno
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from distrib.cli import doctor
from distrib.cluster.local import make_token
from distrib.cluster.session import session
from distrib.config.cluster import Cluster
from distrib.errors import DistribError, InputError, JobError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new home, nothing of Ray in the environment, and no Ray."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def start(*words: object, **fields: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because ...")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)


def refused(address: str | None = None) -> DistribError:
    with pytest.raises(DistribError) as caught, session(Cluster(address=address), print):
        pass
    assert "\n" not in str(caught.value)
    return caught.value


LONG = "x" * 80


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("HOME", "/proc/home", r"^HOME: /proc/home/\.ray/auth_token cannot be written \(.*set HOME to a folder"),
        (
            "RAY_AUTH_TOKEN_PATH",
            "/nowhere/token",
            r"^RAY_AUTH_TOKEN_PATH: /nowhere/token cannot be read \(No such file",
        ),
        ("RAY_AUTH_TOKEN_PATH", "/dev/null", r"^RAY_AUTH_TOKEN_PATH: /dev/null cannot be read \(it is empty\)"),
        ("TMPDIR", f"/tmp/{LONG}", rf"^TMPDIR: /tmp/{LONG} is too long for Ray's sockets \(1\d\d bytes, at most 107\)"),
        ("RAY_TMPDIR", "/proc/x", r"^RAY_TMPDIR: /proc/x/ray cannot be written to \("),
    ],
)
def test_what_keeps_ray_from_starting_is_named_and_doctor_finds_it(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, value)
    error = refused()
    assert isinstance(error, InputError)
    with pytest.raises(InputError, match=told):
        raise error
    monkeypatch.setattr(doctor, "_imported", lambda package, modules: ("2.60.0", ""))
    check = doctor.check_ray()
    assert not check.ok and str(error) == f"{check.found.removeprefix('2.60.0, but ')}; {check.cure}"


def test_a_bare_exception_of_ray_is_a_line_too():
    assert str(refused()) == (
        "a local Ray cluster could not be started: The current node timed out during startup.; run distrib doctor"
    )


def test_a_new_home_s_token_is_its_owner_s_alone_before_ray_writes_one(tmp_path: Path):
    before = os.umask(0)
    try:
        refused()
    finally:
        os.umask(before)
    token = tmp_path / "home" / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) == 64
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    first = token.read_text()
    token.chmod(0o644)
    refused()
    assert token.read_text() == first and token.stat().st_mode & 0o777 == 0o600
    token.write_text("")
    refused()
    assert len(token.read_text()) == 64


def test_a_token_in_a_read_only_home_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As a Secret is mounted: nothing can be made beside it, and its mode stays."""
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("a" * 64)

    def refuse(*words: object, **fields: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    monkeypatch.setattr(Path, "chmod", refuse)
    make_token()
    token.write_text("")
    with pytest.raises(InputError, match=r"auth_token cannot be written \(Read-only"):
        make_token()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_token_is_made_where_there_are_no_hard_links(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*words: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    token = tmp_path / "home" / ".ray" / "auth_token"
    make_token()
    first = token.read_text()
    assert len(first) == 64 and token.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    make_token()
    assert token.read_text() == first


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_MODE"])
def test_no_token_is_written_where_none_is_needed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "disabled")
    refused()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("by_field", [True, False])
def test_an_address_that_is_none_is_blamed_on_who_named_it(by_field: bool, monkeypatch: pytest.MonkeyPatch):
    for address, told in (
        (
            "http://127.0.0.1:8265",
            "a dashboard's address, which is for distrib submit --address; a run joins HOST:PORT",
        ),
        ("head", "no address of a Ray cluster; it is HOST:PORT, ray://HOST:PORT, or auto"),
        ("127.0.0.1:9", "no Ray cluster at 127.0.0.1:9 (Connection refused)"),
    ):
        monkeypatch.setenv("RAY_ADDRESS", address)
        error = refused(address if by_field else None)
        assert isinstance(error, JobError) and told in str(error)
        assert str(error).startswith("cluster.address: " if by_field else "RAY_ADDRESS: ")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing, as behind a firewall that drops packets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_host_that_says_nothing_is_waited_for_only_so_long(silent: str, monkeypatch: pytest.MonkeyPatch):
    """Ray itself tried without end, with a raw warning every few seconds; auto did so as well."""
    from ray._private import services

    monkeypatch.setattr("distrib.cluster.session.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda address: silent)
    for address in (silent, f"ray://{silent}", "auto"):
        where = silent if address == "auto" else address
        assert f"cluster.address: no Ray cluster at {where} (no answer)" in str(refused(address))


def test_a_server_of_another_kind_is_not_ray():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert "(what answers there is not Ray)" in str(refused(f"127.0.0.1:{server.getsockname()[1]}"))
        thread.join()


def test_auto_where_nothing_runs_is_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    from ray._private import services

    def nothing(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(services, "canonicalize_bootstrap_address", nothing)
    assert "cluster.address: auto, but no Ray cluster runs on this machine (Could not find" in str(refused("auto"))


def test_auto_where_the_environment_says_local_is_refused_too(monkeypatch: pytest.MonkeyPatch):
    """Ray takes the variable's word for it."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert str(refused("auto")).startswith(
        "cluster.address: auto, but no Ray cluster runs on this machine (RAY_ADDRESS is local: unset it "
    )


def test_auto_says_which_cluster_was_joined(monkeypatch: pytest.MonkeyPatch):
    from ray._private import services

    from distrib.cluster import session as module

    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda address: "10.0.0.7:6380")
    monkeypatch.setattr(module, "_reachable", lambda address, where: None)
    monkeypatch.setattr(ray, "init", lambda **fields: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8}}])
    told: list[str] = []
    with session(Cluster(address="auto"), told.append):
        pass
    assert told == ["cluster.address: auto has joined the Ray cluster at 10.0.0.7:6380"]

"""distrib.cli.doctor: each fault provoked for real, and a healthy machine found healthy."""

import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from distrib.cli import doctor
from distrib.cli.doctor import Check

NAMES = ["Python", "torch", "FFCV's libraries", "FFCV", "Ray", "MLflow", "tracking", "storage", "disk space"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """``fake(name, code)`` puts a package that runs ``code`` when imported before the installed one."""
    site = tmp_path / "fakes"
    monkeypatch.setenv("PYTHONPATH", str(site))

    def install(name: str, code: str) -> None:
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(code)

    return install


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], str]]:
    """``serve(status, body)`` answers every GET so, and gives the server's address."""
    servers = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/health" else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def fault(check: Check, name: str, found: str, cure: str) -> None:
    assert not check.ok
    assert check.name == name
    assert found in check.found
    assert cure in check.cure
    assert "\n" not in check.found + check.cure


def test_healthy_machine(tmp_path: Path) -> None:
    checks = doctor.examine(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "runs" / "deep", min_free_bytes=1)
    assert [check.name for check in checks] == [*NAMES, "shared memory"]
    # How much shared memory a container is given is not this project's to assert.
    assert [check for check in checks[:-1] if not check.ok or check.cure] == []
    found = {check.name: check.found for check in checks}
    assert found["FFCV"].startswith("1.")
    assert found["Ray"].startswith("2.60.")
    assert found["MLflow"].startswith("3.17.")
    assert "torchvision" in found["torch"] and "bfloat16 in hardware" in found["torch"]
    assert list(tmp_path.iterdir()) == [], "the examination left something behind"


def test_every_fault_at_once(fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "ffcv", "ray", "mlflow"):
        fake(package, f"raise ModuleNotFoundError(\"No module named '{package}'\")")
    (tmp_path / "file").touch()

    def check_shared_memory() -> Check:
        raise RuntimeError("a check that falls ill")

    monkeypatch.setattr(doctor, "check_shared_memory", check_shared_memory)
    checks = {check.name: check for check in doctor.examine("ftp://nowhere", tmp_path / "file" / "runs", 2**70)}
    assert list(checks) == [*NAMES, "check_shared_memory"]
    for name, package in {"torch": "torch", "FFCV": "ffcv", "Ray": "ray", "MLflow": "mlflow"}.items():
        fault(checks[name], name, f"No module named '{package}'", "make setup")
    fault(checks["storage"], "storage", "Not a directory", "another folder")
    fault(checks["disk space"], "disk space", "GiB free", "make room for 1099511627776.0 GiB")
    fault(checks["check_shared_memory"], "check_shared_memory", "RuntimeError: a check that falls ill", "report it")
    assert doctor.report(list(checks.values())).endswith("\n7 faults")


@pytest.mark.parametrize(
    ("code", "found", "cure"),
    [
        (
            "raise ImportError('libopencv_core.so.406: cannot open shared object file: No such file or directory')",
            "libopencv_core.so.406: cannot open shared object file",
            "apt-get install libopencv-dev libturbojpeg0-dev",
        ),
        ("raise ImportError('libGL.so.1: cannot open shared object file')", "libGL.so.1", "apt-get install libgl1"),
        ("import os; os.abort()", "died of SIGABRT when imported", "--reinstall"),
        ("raise SystemExit(3)", "exit status 3 when imported", "--reinstall"),
    ],
)
def test_ffcv_that_cannot_be_imported(fake, code: str, found: str, cure: str) -> None:
    fake("ffcv", code)
    check = doctor.check_ffcv()
    fault(check, "FFCV", found, cure)
    assert "loader: memory" in check.cure


def test_import_that_hangs(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("mlflow", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "IMPORT_TIMEOUT_SECONDS", 0.5)
    fault(doctor.check_mlflow(), "MLflow", "no answer within 0.5 s", "make setup")


def test_ray_without_its_dashboard(fake) -> None:
    fake("aiohttp_cors", "raise ModuleNotFoundError(\"No module named 'aiohttp_cors'\")")
    fault(doctor.check_ray(), "Ray", "aiohttp_cors", "ray[default,train,tune]")


def test_driver_without_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path)
    fault(doctor.check_torch(), "torch", "although there is an NVIDIA driver", "built for CUDA")


def test_libraries_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"OpenCV": ("opencv-none", "opencv_none", "libopencv-dev"), "C": ("none", "c", "libc6-dev")}
    monkeypatch.setattr(doctor, "LIBRARIES", names)
    check = doctor.check_libraries()
    fault(check, "FFCV's libraries", "no OpenCV, C libc.", "apt-get install libopencv-dev, then make setup")


def test_libraries_without_pkg_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "LIBRARIES", {"C": ("none", "c", "libc6-dev")})
    assert doctor.check_libraries().ok


def test_tracking_server(serve) -> None:
    check = doctor.check_tracking(f"http://user:secret@{serve(200, b'OK')}/")
    assert check.ok and check.found.endswith("is up")
    assert "secret" not in check.found


@pytest.mark.parametrize(
    ("status", "body", "found", "cure"),
    [
        (403, b"Invalid Host header", "answers 403 Forbidden", "--allowed-hosts"),
        (500, b"", "answers 500", "MLFLOW_TRACKING_URI"),
        (200, b"<html>a router's page</html>", "not as an MLflow server does", "MLFLOW_TRACKING_URI"),
    ],
)
def test_tracking_server_that_refuses(serve, status: int, body: bytes, found: str, cure: str) -> None:
    fault(doctor.check_tracking(f"http://{serve(status, body)}"), "tracking", found, cure)


def test_tracking_server_that_is_down_or_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SERVER_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        fault(doctor.check_tracking(address), "tracking", "timed out", "mlflow server")
    fault(doctor.check_tracking(address), "tracking", "Connection refused", "mlflow server")


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("http://", "cannot be reached: no host given"),
        ("http://127.0.0.1:port", "cannot be reached: nonnumeric port"),
        ("https://[::1", "is no address: Invalid IPv6 URL"),
    ],
)
def test_tracking_address_that_is_none(uri: str, found: str) -> None:
    fault(doctor.check_tracking(uri), "tracking", found, "MLFLOW_TRACKING_URI")


def test_tracking_in_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.check_tracking(None) == Check("tracking", True, "mlflow.db can be made")
    with closing(sqlite3.connect("mlflow.db")) as database:
        database.execute("CREATE TABLE runs (id)")
    assert doctor.check_tracking(None) == Check("tracking", True, "mlflow.db is a SQLite database")
    assert doctor.check_tracking(f"sqlite:///{tmp_path}/mlflow.db").ok
    Path("other.db").write_bytes(b"these are no tables, whatever the name says" * 100)
    fault(doctor.check_tracking("sqlite:///other.db"), "tracking", "file is not a database", "move it away")
    fault(doctor.check_tracking("sqlite:///none/mlflow.db"), "tracking", "there is no folder none", "mkdir -p none")
    fault(doctor.check_tracking("sqlite:///"), "tracking", "names no file", "sqlite:///mlflow.db")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["mlflow.db", "other.db"]


def test_tracking_elsewhere() -> None:
    for uri in ("./mlruns", "file:///tmp/mlruns"):
        fault(doctor.check_tracking(uri), "tracking", "is a folder", "sqlite:///mlflow.db")
    check = doctor.check_tracking("postgresql+psycopg2://user@host/runs")
    assert check == Check("tracking", True, "postgresql: not checked")
    check = doctor.check_tracking("postgresql+psycopg2://user:secret@host/runs")
    fault(check, "tracking", "postgresql: the address has a password in it", "PGPASSWORD")


def test_storage(tmp_path: Path) -> None:
    assert doctor.check_storage(tmp_path) == Check("storage", True, f"{tmp_path} is writable")
    assert doctor.check_storage(tmp_path / "a" / "b") == Check("storage", True, f"{tmp_path}/a/b can be made")
    (tmp_path / "file").touch()
    for storage in (tmp_path / "file", tmp_path / "file" / "runs"):
        fault(doctor.check_storage(storage), "storage", "Not a directory", "another folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_SHARED_BYTES", 2**70)
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    fault(doctor.check_shared_memory(), "shared memory", f"GiB in {tmp_path}", "--shm-size")
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "none")
    assert doctor.check_shared_memory().ok


def test_report() -> None:
    checks = [Check("Python", True, "3.11"), Check("disk space", False, "1.0 GiB free", "make room")]
    assert doctor.report(checks).split("\n") == [
        "ok     Python      3.11",
        "FAULT  disk space  1.0 GiB free",
        "                   -> make room",
        "1 fault",
    ]
    assert doctor.report(checks[:1]).endswith("\nno fault found")


def test_import_has_no_effects(tmp_path: Path) -> None:
    program = "import sys, distrib.cli.doctor; print({'torch', 'ffcv', 'ray', 'mlflow', 'psutil'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
    assert list(tmp_path.iterdir()) == []

"""What MLflow refuses, in words."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from distrib.errors import DistribError, RegistryError, RunError
from distrib.files import locked
from distrib.tracking import client as tracking
from distrib.tracking.client import Tracker, address, client, in_words

ANSWERS = [
    (401, "You are not authenticated.", RegistryError, r"refuses this user and password; set MLFLOW_TRACKING_USERNAME"),
    (403, "Permission denied", RegistryError, r"does not let this user do /api/x; set MLFLOW_TRACKING_USERNAME"),
    (403, "Invalid Host header - possible DNS rebinding", RegistryError, r"start it with --allowed-hosts"),
    (500, "the disk is full", RunError, r"MLflow failed: .*the disk is full"),
]


@pytest.mark.parametrize(("status", "body", "kind", "text"), ANSWERS)
def test_every_answer_has_a_cure(status: int, body: str, kind: type[DistribError], text: str):
    from mlflow.exceptions import RestException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, PERMISSION_DENIED, UNAUTHENTICATED, ErrorCode

    codes = {401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 500: INTERNAL_ERROR, 400: BAD_REQUEST}
    message = f"API request to endpoint /api/x failed with error code {status} != 200. Response body: '{body}'"
    answer = {"error_code": ErrorCode.Name(codes[status]), "message": message}
    with pytest.raises(kind, match=text) as caught, in_words():
        raise RestException(answer)
    assert caught.value.exit_status == kind.exit_status and caught.value.__suppress_context__


def test_an_artifact_that_is_refused_is_told():
    """MLflow lets through what its own HTTP calls raise."""
    with pytest.raises(RunError, match="MLflow failed: 413 Client Error: too large"), in_words():
        raise requests.HTTPError("413 Client Error: too large")


def test_what_is_not_mlflows_is_left_alone():
    with pytest.raises(KeyError), in_words():
        raise KeyError("x")
    with pytest.raises(RegistryError, match="as it was"), in_words():
        raise RegistryError("as it was")


FILES = ("ssl_ca=ca.pem&ssl_cert=c.pem&ssl_key=k.pem", "ssl_key=k.pem", "ssl-key=k.pem", "sslkey=k.pem&sslcert=c.pem")
"""Of TLS, as databases name them: no passwords."""


@pytest.mark.parametrize(
    ("given", "kept", "login"),
    [
        ("http://ann:s%40cret@h:5000/x", "http://h:5000/x", ("ann", "s@cret")),
        ("http://ann:s@cr:et@h/", "http://h/", ("ann", "s@cr:et")),
        ("http://h:5000/a@b", "http://h:5000/a@b", None),
        ("postgresql://ann@h/runs", "postgresql://ann@h/runs", None),
        ("postgresql://h:5432/runs?user=me@azure", "postgresql://h:5432/runs?user=me@azure", None),
        ("sqlite:////a@b/c:d@e.db", "sqlite:////a@b/c:d@e.db", None),
        *((f"mysql+pymysql://u@h/db?{files}", f"mysql+pymysql://u@h/db?{files}", None) for files in FILES),
    ],
)
def test_an_address_is_shown_and_kept_without_its_password(
    given: str, kept: str, login: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    if login is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    assert address(None) == address(given) == kept
    found = tuple(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    assert found == (login or (None, None))


@pytest.mark.parametrize(
    "given",
    [
        "postgresql+psycopg2://ann:se/cret@h/runs", "mysql://h/runs?user=a&password=secret",
        "mysql+pymysql://h/runs?user=a&passwd=secret", "mssql+pyodbc:///?odbc_connect=UID%3Da%3BPWD%3Dsecret",
        "https://secret@h", "https://secret:@h", "http://ann:se/cret@h", "http://ann:se/cret@h:5000/path",
        "mysql+pymysql://u@h/db?ssl_key=k.pem&api_key=secret", "mysql+pymysql://u@h/db?my_ssl_key=secret",
        "http://h:5000?token=secret", "http://ann:x@h/?api_key=secret", "http://h/?a=b&access_token=secret",
    ],
)  # fmt: skip
def test_other_passwords_are_not_taken_from_an_address(given: str):
    with pytest.raises(RegistryError, match="PGPASSWORD") as caught:
        address(given)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME"])
@pytest.mark.parametrize("secret", ["secret\nline", "s\u00e9cret\u2713"], ids=["a line break", "a sign"])
def test_what_no_header_carries_is_refused_and_not_shown(name: str, secret: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "some")
    monkeypatch.setenv(name, secret)
    with pytest.raises(RegistryError, match=f"^{name}: has a line break") as caught:
        client("http://127.0.0.1:9")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("call", ["get_run", "update_run"])
def test_a_server_that_fails_does_not_make_a_second_run(call: str, tmp_path: Path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = Tracker(uri, "tests", "some", None, {})

    def busy(*values: object, **named: object):
        raise MlflowException("too many requests", TEMPORARILY_UNAVAILABLE)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, busy)
        with pytest.raises(RunError, match="too many requests"):
            Tracker(uri, "tests", "some", first.run_id, {})
    assert Tracker(uri, "tests", "some", first.run_id, {}).run_id == first.run_id
    assert Tracker(uri, "tests", "some", "0" * 32, {}).run_id != first.run_id
    assert len(first.client.search_runs([first.client.get_run(first.run_id).info.experiment_id])) == 2


def test_a_run_is_not_put_into_another_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def busy(*values: object, **named: object):
        raise MlflowException("too many requests", TEMPORARILY_UNAVAILABLE)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_experiment", busy)
        with pytest.raises(RunError, match="too many requests"):
            Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "tests", "some", None, {})


def test_a_model_of_another_program_in_the_environment_takes_no_metrics(uri: str, monkeypatch: pytest.MonkeyPatch):
    """MLflow would tie every metric to it, and fails where the server has no such model."""
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-0123456789abcdef0123456789abcdef")

    def log() -> int:
        tracker = Tracker(uri, "tests", "some", None, {})
        tracker.metrics([("train_loss", 0.5, 1, 1000)])
        return tracker.logged("train_loss")

    with ThreadPoolExecutor(1) as fresh:  # MLflow reads the variable once a thread
        assert fresh.submit(log).result() == 1


@pytest.fixture
def busy_server() -> Iterator[tuple[str, list[str]]]:
    """(the address of a server that is too busy, what it was asked)."""
    asked: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_a_server_that_fails_is_tried_once_and_briefly_and_then_left_alone(
    uri: str, busy_server: tuple[str, list[str]]
):
    address, asked = busy_server
    tracker, said, bounds = Tracker(uri, "tests", "some", None, {}), [], []
    tracker.client = MlflowClient(address)

    def send() -> None:
        bounds.append(int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]))
        tracker.tags({"a": "b"})

    assert not tracker.attempt(send, said.append)
    assert len(asked) == 1 and bounds[0] <= 10
    assert not tracker.attempt(send, said.append)
    assert len(asked) == len(said) == 1, "the next try comes later"
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == 30, "other calls are tried for longer"


def test_tries_grow_rare_and_begin_again_when_the_server_answers(uri: str, monkeypatch: pytest.MonkeyPatch):
    clock, tries, said = [0.0], [], []
    tracker = Tracker(uri, "tests", "some", None, {})
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def fail() -> None:
        tries.append(clock[0])
        raise MlflowException("", TEMPORARILY_UNAVAILABLE)

    for second in range(0, 3000):
        clock[0] = float(second)
        tracker.attempt(fail, said.append)
    assert tries == [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430]
    assert len(said) == 1 and "does not take the metrics (MlflowException)" in said[0]
    clock[0] = 3030.0
    assert tracker.attempt(lambda: None, said.append) and "answers again" in said[1]
    assert not tracker.attempt(fail, said.append) and len(said) == 3
    clock[0] = 3040.0
    assert tracker.attempt(lambda: None, said.append), "the pause is short again"


def test_points_that_are_sent_twice_are_there_once(uri: str):
    tracker = Tracker(uri, "tests", "some", None, {})
    for _ in range(2):
        tracker.metrics([("train_loss", 0.5, 1, 1000), ("train_loss", 0.4, 2, 2000)])
        tracker.results({"test/fgsm": 0.5}, 2)
    for metric, steps in (("train_loss", [1, 2]), ("test/fgsm", [2])):
        assert [point.step for point in tracker.client.get_metric_history(tracker.run_id, metric)] == steps


def test_a_run_that_ends_early_is_not_held_up_by_a_server_that_hangs(uri: str):
    """Neither by its own call, nor by that of the thread that records the machine's use."""
    tracker, bounds, released = Tracker(uri, "tests", "some", None, {}), [], Event()

    class Hangs:
        def finish(self) -> None:
            released.wait(70)

    class Client:
        def set_terminated(self, run_id: str, status: str) -> None:
            bounds.append(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])

    tracker.monitor, tracker.client = Hangs(), Client()  # pyright: ignore[reportAttributeAccessIssue]
    before = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "MONITOR_SECONDS", 0.1, raising=False)
        tracker.close("KILLED")
    released.set()
    assert time.monotonic() - before < 60 and int(bounds[0]) <= 10


def test_one_process_at_a_time_makes_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two that made it at once left one of them refused, and the file broken now and then."""
    file = tmp_path / "mlflow.db"
    (tmp_path / ".mlflow.db.part").write_text("half-made, by one that was killed")
    with monkeypatch.context() as patch, locked(tmp_path / ".mlflow.db.lock", 0):
        patch.setattr("distrib.tracking.database.MAKING_SECONDS", 0.0)
        with pytest.raises(RegistryError, match=r"mlflow.db is being made by another process"):
            tracking.client(f"sqlite:///{file}")
        assert not file.exists()
    tracking.client(f"sqlite:///{file}")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]

"""One run of MLflow: it is found again, logs each point once, and is not held up by a server that is away."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from distrib.errors import RunError
from distrib.tracking import limits, mlflow_run
from distrib.tracking.mlflow_run import MLflowRun


@pytest.mark.parametrize("call", ["get_run", "update_run"])
def test_a_server_that_fails_does_not_make_a_second_run(call: str, uri: str, monkeypatch):
    first = MLflowRun(uri, call, "some", None, {})

    def busy(*values: object, **named: object):
        raise MlflowException("too many requests", TEMPORARILY_UNAVAILABLE)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, busy)
        with pytest.raises(RunError, match="too many requests"):
            MLflowRun(uri, call, "some", first.run_id, {})
    assert MLflowRun(uri, call, "some", first.run_id, {}).run_id == first.run_id
    assert MLflowRun(uri, call, "some", "0" * 32, {}).run_id != first.run_id
    assert len(first.client.search_runs([first.client.get_run(first.run_id).info.experiment_id])) == 2


def test_a_run_is_not_put_into_another_experiment(uri: str, monkeypatch: pytest.MonkeyPatch):
    def busy(*values: object, **named: object):
        raise MlflowException("too many requests", TEMPORARILY_UNAVAILABLE)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_experiment", busy)
        with pytest.raises(RunError, match="too many requests"):
            MLflowRun(uri, "another", "some", None, {})


def test_a_model_of_another_program_in_the_environment_takes_no_metrics(uri: str, monkeypatch: pytest.MonkeyPatch):
    """MLflow would tie every metric to it, and fails where the server has no such model."""
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-0123456789abcdef0123456789abcdef")

    def log() -> int:
        tracker = MLflowRun(uri, "tests", "some", None, {})
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
    tracker, said, bounds = MLflowRun(uri, "tests", "some", None, {}), [], []
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
    tracker = MLflowRun(uri, "tests", "some", None, {})
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
    tracker = MLflowRun(uri, "tests", "some", None, {})
    for _ in range(2):
        tracker.metrics([("train_loss", 0.5, 1, 1000), ("train_loss", 0.4, 2, 2000)])
        tracker.results({"test/fgsm": 0.5}, 2)
    for metric, steps in (("train_loss", [1, 2]), ("test/fgsm", [2])):
        assert [point.step for point in tracker.client.get_metric_history(tracker.run_id, metric)] == steps


def test_a_run_that_ends_early_is_not_held_up_by_a_server_that_hangs(uri: str):
    """Neither by its own call, nor by that of the thread that records the machine's use."""
    tracker, bounds, released = MLflowRun(uri, "tests", "some", None, {}), [], Event()

    class Hangs:
        def finish(self) -> None:
            released.wait(70)

    class Client:
        def set_terminated(self, run_id: str, status: str) -> None:
            bounds.append(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])

    tracker.monitor, tracker.client = Hangs(), Client()  # pyright: ignore[reportAttributeAccessIssue]
    before = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_run, "MONITOR_SECONDS", 0.1)
        tracker.close("KILLED")
    released.set()
    assert time.monotonic() - before < 60 and int(bounds[0]) <= 10


def test_data_sets_are_noted_once_with_what_they_are_for(uri: str):
    run = MLflowRun(uri, "data", "some", None, {})
    for _ in range(2):
        run.dataset("digits train", "a" * 64, {"source": "digits"}, "training")
    run.dataset("digits test", "b" * 64, {"source": "digits"}, "evaluation")
    found = run.client.get_run(run.run_id).inputs.dataset_inputs
    assert sorted((one.dataset.name, one.dataset.digest, one.tags[0].value) for one in found) == [
        ("digits test", "b" * 36, "evaluation"), ("digits train", "a" * 36, "training")
    ]  # fmt: skip
    assert json.loads(found[0].dataset.source) == {"source": "digits"}


def test_a_run_says_how_a_browser_opens_it(uri: str, monkeypatch: pytest.MonkeyPatch):
    """On MLflow's pages for training: it opens on others, where no metric is seen."""
    run = MLflowRun(uri, "opened", "some", None, {})
    experiment = run.client.get_run(run.run_id).info.experiment_id
    path = f"/#/experiments/{experiment}?workflowType=machine_learning"
    assert run.page() == f"mlflow ui --backend-store-uri {uri}, then http://127.0.0.1:5000{path}"
    run.uri = "https://mlflow.team/"
    assert run.page() == f"https://mlflow.team{path}"


def test_a_description_keeps_its_picture_and_its_link_however_long_its_text_is(uri: str):
    tracker = MLflowRun(uri, "tests", "some", None, {})
    for text in ("# Card", "# Card " + "x" * 10_000):
        tracker.describe(text, "card/card.html", "plots/curves.svg")
        told = tracker.client.get_run(tracker.run_id).data.tags["mlflow.note.content"]
        assert told.startswith("# Card") and len(told) <= limits.RUN_TAG
        assert f"![plots/curves.svg](get-artifact?path=plots/curves.svg&run_uuid={tracker.run_id})" in told
        assert told.endswith(f"/runs/{tracker.run_id}/artifacts/card/card.html)")


def test_a_run_of_its_own_can_tag_another_one(uri: str):
    one, other = (MLflowRun(uri, "tests", name, None, {}) for name in ("one", "other"))
    one.tags({"outcome": "winner"}, other.run_id)
    found = [tracker.client.get_run(tracker.run_id).data.tags.get("outcome") for tracker in (one, other)]
    assert found == [None, "winner"]

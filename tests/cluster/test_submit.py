"""What is said before any cluster is asked."""

import http.server
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from distrib.cluster.submit import Attempt, Remote, _tracking
from distrib.errors import JobError

NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("status", "exit_status", "outcome"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 1), ("FAILED", None, 1), ("STOPPED", None, 1)],
)
def test_the_exit_status_is_the_jobs_own(status: str, exit_status: int | None, outcome: int):
    attempt = Attempt("x-1", "x", 1, status, 0.0, 1.0, exit_status, "")
    assert attempt.over and attempt.outcome == outcome
    assert not Attempt("x-1", "x", 1, "RUNNING", 0.0, None, None, "").over


def test_a_dashboard_that_fails_half_way_is_told_in_a_line():
    from ray.util.state.exception import RayStateApiException

    remote = object.__new__(Remote)
    remote.address = NOBODY
    with pytest.raises(JobError, match=r"is no Ray dashboard that answers .*partial"), remote._answering():
        raise RayStateApiException("a partial answer")


def test_a_submission_is_found_again_whatever_other_runs_are_called(monkeypatch: pytest.MonkeyPatch):
    """x-1 is the first submission of the run x, and a run: a user has to say which, what is under way does not."""
    known = [
        Attempt(f"{name}-{number}", name, number, "RUNNING", float(number), None, None, "")
        for name, number in (("x", 1), ("x", 2), ("x-1", 1))
    ]

    class Client:
        def get_job_logs(self, identity: str) -> str:
            return f"printed by {identity}"

        def stop_job(self, identity: str) -> None:
            (place,) = [place for place, one in enumerate(known) if one.id == identity]
            known[place] = replace(known[place], status="STOPPED")

    remote = object.__new__(Remote)
    remote.address, remote._client = NOBODY, Client()
    monkeypatch.setattr(Remote, "attempts", lambda self, name=None: known)
    assert (remote.attempt("x").id, remote.attempt("x-2").id, remote.attempt("x-1-1").id) == ("x-2", "x-2", "x-1-1")
    with pytest.raises(JobError, match=r"x-1: a submission of the run x, and a run; of that, name one of x-1-1"):
        remote.attempt("x-1")
    first, shown = known[0], []
    assert remote.stop(first) == replace(first, status="STOPPED") and known[2].status == "RUNNING"
    assert remote.follow(first, shown.append, print).status == "STOPPED" and shown == ["printed by x-1"]


@pytest.mark.parametrize(
    ("uri", "sent"),
    [
        ("http://mlflow:5000", True), ("https://mlflow.example.com/team", True), ("http://10.0.0.7:5000", True),
        ("http://localhost:5000", False), ("http://127.0.0.1:5000", False), ("http://[::1]:5000", False),
        ("sqlite:////home/me/mlflow.db", False), ("", False),
    ],
)  # fmt: skip
def test_only_an_address_that_means_the_same_there_is_sent_along(uri: str, sent: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert _tracking() == ({"MLFLOW_TRACKING_URI": uri} if sent else {})


def test_the_address_that_is_named_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Ray's client would rather ask the one in the environment; here a server that is another one."""
    asked = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    server = http.server.HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(JobError, match=r"http://127\.0\.0\.1:9 is no Ray dashboard"):
            Remote(NOBODY)
        assert asked == []
    finally:
        server.shutdown()
        server.server_close()

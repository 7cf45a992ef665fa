"""A model becomes a version, whole and with its card, or none at all."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from cards import FLAGGED, claim, entry, register

from distrib.errors import RunError
from distrib.evaluation.models import Weights
from distrib.registry import store, versions
from distrib.registry.champion import decision_history
from distrib.tracking.client import connect
from distrib.tracking.mlflow_run import MLflowRun


def aliases(uri: str, name: str) -> dict[str, str]:
    return {alias: str(number) for alias, number in connect(uri).get_registered_model(name).aliases.items()}


def test_a_later_evaluation_gives_a_version_its_card(weights: Weights, uri: str):
    """quick first: no champion; standard later: champion; paper after that: kept beside the better card."""
    registered = register(weights, uri, claim(0.8, tier="quick"), name="later")
    assert "tier quick" in registered.champion and "champion" not in aliases(uri, "later")
    expected = (("standard", 0.5, "champion: there was none before"), ("paper", 0.6, "champion already"))
    for tier, robust, decision in expected:
        tracker = MLflowRun(uri, "tests", tier, None, {})
        card = entry(weights, claim(robust, tier=tier)).card
        assert store.attach(registered.uri, card, tracker) == decision
        tracker.close("FINISHED")
        tags = connect(uri).get_model_version("later", "1").tags
        assert (tags["tier"], tags["robust_accuracy"]) == ("standard", "0.5000")
        assert tags[f"card.{tier}"] == tracker.run_id
    tracker = MLflowRun(uri, "tests", "flagged", None, {})
    decision = store.attach(registered.uri, entry(weights, claim(0.5, flags=FLAGGED)).card, tracker)
    tracker.close("FINISHED")
    assert decision.startswith("champion stays, though flagged: zero_gradients")


def test_the_same_run_registers_once(weights: Weights, uri: str):
    tracker = MLflowRun(uri, "tests", "once", None, {})
    twice = [store.register(entry(weights, claim(0.5)), "once", tracker) for _ in range(2)]
    tracker.close("FINISHED")
    assert twice[0] == twice[1] and twice[0].version == "1"


def test_a_registration_that_was_interrupted_goes_on(weights: Weights, uri: str, monkeypatch):
    """Between the version and its card: the same run finds its version again, and no second one is made."""
    tracker = MLflowRun(uri, "tests", "interrupted", None, {})
    with monkeypatch.context() as patch:
        patch.setattr(store, "promote", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.register(entry(weights, claim(0.5)), "interrupted", tracker)
    registered = store.register(entry(weights, claim(0.5)), "interrupted", tracker)
    tracker.close("FINISHED")
    assert registered.version == "1" and "none before" in registered.champion
    assert aliases(uri, "interrupted") == {"champion": "1", "latest-robust": "1"}
    assert len(decision_history("interrupted", uri)) == 1


def test_the_stored_model_is_the_evaluated_one_and_needs_no_pickle(weights: Weights, uri: str, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    registered = register(weights, uri, claim(0.5), name="stored", same=True)
    stored, own = store.load_version(registered.uri), weights.load(torch.device("cpu"))
    for size in (1, 3, 50):
        x = torch.rand(size, 1, 8, 8)
        assert torch.allclose(stored(x), own(x), atol=1e-5)
    subject, card = versions.fetch_subject(registered.uri, uri, False, lambda text: None)
    assert torch.allclose(subject.load(torch.device("cpu"))(x), own(x), atol=1e-5)
    assert card["claim"]["robust_accuracy"] == 0.5


def test_the_newest_version_is_the_latest_robust_one_whatever_becomes_of_champion(weights: Weights, uri: str):
    for number, robust in (("1", 0.5), ("2", 0.4)):
        assert register(weights, uri, claim(robust), name="newest").uri == f"models:/newest/{number}"
        assert aliases(uri, "newest") == {"champion": "1", "latest-robust": number}


def test_a_stored_model_that_differs_is_not_registered(weights: Weights, uri: str, monkeypatch):
    other = weights.load(torch.device("cpu"))
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    monkeypatch.setattr(store, "load_version", lambda address: other)
    with pytest.raises(RunError, match="differ from the evaluated"):
        register(weights, uri, claim(0.5), name="differs")
    assert connect(uri).search_model_versions("name = 'differs'") == []


ROOT = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture
def artifacts(tmp_path: Path) -> Iterator[str]:
    """The address of a server that keeps artifacts, as MLflow's own does."""
    kept = tmp_path / "kept"
    kept.mkdir()

    class Keeper(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            file = kept / self.path.removeprefix(ROOT).strip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            length = self.headers["Content-Length"]
            file.write_bytes(self.rfile.read(int(length)) if length else b"")  # an empty file travels in chunks: none
            self.close_connection = True
            self.answer(b"{}")

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            name = asked.path.removeprefix(ROOT).strip("/")
            if name:
                self.answer((kept / name).read_bytes())
                return
            folder = kept / parse_qs(asked.query)["path"][0]
            found = folder.iterdir() if folder.is_dir() else ()
            listed = [{"path": one.name, "is_dir": one.is_dir()} for one in found]
            self.answer(json.dumps({"files": listed}).encode())

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keeper)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}{ROOT}/models"
    server.shutdown()
    server.server_close()


def test_a_registration_leaves_nothing_in_the_temporary_folder(
    weights: Weights, database: Callable[[Path], str], artifacts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where artifacts travel over HTTP, as through any MLflow server."""
    uri = database(tmp_path)
    connect(uri).create_experiment("tests", artifacts)
    room = tmp_path / "temporary"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    assert register(weights, uri, claim(0.5)).version == "1"
    assert any((tmp_path / "kept").rglob("model.pt2"))
    assert not list(room.rglob("*.pt2")) and not list(room.rglob("*.safetensors"))


def test_warm_imports_what_takes_long():
    """In a process of its own; it is silent where a module is gone, so that register itself can say it."""
    code = """
import sys
from distrib.registry.store import warm
warm()
print({"mlflow.pytorch", "torch.export._trace"} <= set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr

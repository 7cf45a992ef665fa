"""Registration where artifacts travel over HTTP, as through any MLflow server."""

import json
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from cards import claim, register

from distrib.evaluation.models import Weights
from distrib.tracking import client

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
    weights: Weights, uri: str, artifacts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    client.connect(uri).create_experiment("tests", artifacts)
    room = tmp_path / "temporary"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    assert register(weights, uri, claim(0.5)).version == "1"
    assert any((tmp_path / "kept").rglob("model.pt2"))
    assert not list(room.rglob("*.pt2")) and not list(room.rglob("*.safetensors"))

"""A version is pulled whole or not at all, and a server that takes no files keeps no run."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlparse

import mlflow.artifacts
import pytest
from cards import attach, claim, register
from mlflow import MlflowClient

from distrib.errors import RegistryError, RunError
from distrib.evaluation.models import Weights
from distrib.registry import versions
from distrib.tracking.client import connect
from distrib.tracking.mlflow_run import MLflowRun

GONE = [
    (None, "nothing of it is there|No such file"),
    ("data/model.pt2", "data/model.pt2 is missing"),
    ("extra_files/weights.safetensors", "extra_files/weights.safetensors is missing"),
    ("MLmodel", "MLmodel is missing"),
]


@pytest.fixture(scope="module")
def version(weights: Weights, uri: str) -> tuple[str, Path]:
    """(the address of a version, the folder of its files)."""
    registered = register(weights, uri, claim(0.5), name="files")
    place = connect(uri).get_model_version_download_uri("files", registered.version)
    return registered.uri, Path(urlparse(place).path)


@pytest.fixture
def stored(version: tuple[str, Path], tmp_path: Path):
    """The same; what a test does to the files is undone."""
    shutil.copytree(version[1], tmp_path / "kept")
    yield version
    shutil.rmtree(version[1], ignore_errors=True)
    shutil.move(tmp_path / "kept", version[1])


@pytest.mark.parametrize(("file", "words"), GONE, ids=["all", "program", "weights", "MLmodel"])
@pytest.mark.parametrize("earlier", [False, True], ids=["", "earlier"])
def test_a_version_whose_files_are_gone_is_not_pulled(
    stored: tuple[str, Path], uri: str, tmp_path: Path, file: str | None, words: str, earlier: bool, monkeypatch
):
    """Also one that an earlier distrib registered, which kept the weights' digest only."""
    address, place = stored
    if earlier:
        monkeypatch.setattr(versions, "find", without_listing(versions.find))
        words = f"{words}|MLmodel is missing"
    shutil.rmtree(place) if file is None else (place / file).unlink()
    (tmp_path / "room").mkdir()
    with pytest.raises(RegistryError, match=f"cannot be had whole from {place.as_uri()} .*({words})") as caught:
        versions.pull(address, tmp_path / "room" / "here", uri)
    assert str(caught.value).startswith(f"{address}: ") and not list((tmp_path / "room").iterdir())
    with pytest.raises(RegistryError, match="cannot be had whole"):
        versions.fetch_subject(address, uri, False, lambda text: None)


def without_listing(find):
    def found(address: str, uri: str):
        client, version = find(address, uri)
        version.tags.pop("files_sha256", None)
        return client, version

    return found


@pytest.mark.parametrize("file", ["data/model.pt2", "extra_files/weights.safetensors"])
def test_a_version_whose_files_were_changed_is_not_pulled(
    stored: tuple[str, Path], uri: str, tmp_path: Path, file: str
):
    address, place = stored
    content = (place / file).read_bytes()
    (place / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RegistryError, match=f"{file} is not what was stored"):
        versions.pull(address, tmp_path / "here", uri)
    assert not (tmp_path / "here").exists()


def test_a_version_whose_later_card_is_gone_is_not_pulled_with_the_earlier_one(
    weights: Weights, uri: str, tmp_path: Path
):
    registered = register(weights, uri, claim(0.5), name="later-card")
    attach(weights, uri, registered.uri, claim(0.4))
    client = connect(uri)
    run = client.get_run(client.get_model_version("later-card", "1").tags["card_run"])
    shutil.rmtree(Path(urlparse(run.info.artifact_uri).path) / "card")
    with pytest.raises(RegistryError, match=f"the card of the run {run.info.run_id} cannot be fetched"):
        versions.pull(registered.uri, tmp_path / "here", uri)
    assert not list(tmp_path.iterdir())


def test_what_the_store_does_not_keep_is_not_registered(weights: Weights, uri: str, monkeypatch):
    """A store that answers well and keeps nothing, or half of it."""
    whole = mlflow.artifacts.download_artifacts

    def half(*values, **named):
        found = whole(*values, **named)
        (Path(named["dst_path"]) / "extra_files" / "weights.safetensors").unlink()
        return found

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", half)
    with pytest.raises(RunError, match=r"does not keep what was stored there \(extra_files/weights.safetensors\)"):
        register(weights, uri, claim(0.5), name="half")
    assert connect(uri).search_model_versions("name = 'half'") == []


SERVER = "http://mlflow.example.com:5000"


@pytest.mark.parametrize(
    ("location", "default", "refused"),
    [
        ("/srv/mlruns/1", "/srv/mlruns/0", True),
        ("file:///srv/mlruns/1", "mlflow-artifacts:/0", True),
        (None, "/srv/mlruns/0", True),
        (None, "mlflow-artifacts:/0", False),
        ("mlflow-artifacts:/1", "/srv/mlruns/0", False),
        ("s3://bucket/1", "s3://bucket/0", False),
    ],
)
def test_a_server_that_takes_no_files_is_refused_before_a_run_is_made(
    location: str | None, default: str, refused: bool, monkeypatch
):
    """With --no-serve-artifacts a client would write to a path of its own disk, and nobody else could pull."""
    made: list[str] = []
    whole = SimpleNamespace(experiment_id="1", artifact_location=location, lifecycle_stage="active")
    first = SimpleNamespace(experiment_id="0", artifact_location=default)
    run = SimpleNamespace(info=SimpleNamespace(run_id="r" * 32))
    for name, answer in {
        "search_experiments": lambda *values, **named: [first],
        "get_experiment_by_name": lambda *values: whole if location else None,
        "create_experiment": lambda *values: made.append("experiment") or "1",
        "search_runs": lambda *values, **named: [],
        "create_run": lambda *values, **named: made.append("run") or run,
    }.items():
        monkeypatch.setattr(
            MlflowClient, name, lambda self, *values, _answer=answer, **named: _answer(*values, **named)
        )
    if not refused:
        MLflowRun(SERVER, "tests", "some", None, {})
        assert made[-1] == "run"
        return
    with pytest.raises(RegistryError, match=f"{SERVER} does not serve artifacts.*start the server with --serve-art"):
        MLflowRun(SERVER, "tests", "some", None, {})
    assert made == []

"""The Run: what is there after each of its steps, and what is left when it ends. Ray is left out."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from documents import TRAIN, changed
from mlflow import MlflowClient

from distrib.cluster import preflight, session
from distrib.cluster.resources import Node, Resources
from distrib.commands.opened import OpenRun, opened
from distrib.config.file import parse
from distrib.config.job import Train
from distrib.errors import JobError, RegistryError
from distrib.tracking.display import Display
from distrib.tracking.folder import read_record, read_result


@pytest.fixture
def job(tmp_path: Path, uri: str) -> Train:
    changes = {
        "name": tmp_path.name[-40:], "storage": str(tmp_path), "tracking.uri": uri, "loader": "memory",
        "data.store": str(tmp_path), "data.limit": 300,
    }  # fmt: skip
    return parse(changed(TRAIN, changes), [], "here").resolved()


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ray's session is a stand-in; it notes its end here, and whether the folder says by then that the run is done."""
    found: list[str] = []

    @contextmanager
    def joined(*values: object) -> Iterator[Resources]:
        try:
            yield Resources((Node(2),), local=True, device="cpu")
        finally:
            found.append("ray, too late" if list(tmp_path.rglob("result.json")) else "ray")

    monkeypatch.setattr(session, "session", joined)
    monkeypatch.setattr(preflight, "check_nodes", lambda *values: None)
    return found


def all_open(run: OpenRun[Train]) -> None:
    run.prepare()
    run.join()
    run.track()


def test_a_run_that_is_finished_is_closed_before_its_folder_says_so(job: Train, uri: str, ended: list[str]):
    with opened(job, Display()) as run:
        assert run.result is None
        all_open(run)
        kept = run.keep("card", {"card.md": b"robust"})
        told = run.finish({"rows": 3})
        client = MlflowClient(uri)
        assert ended == ["ray"] and client.get_run(run.tracker.run_id).info.status == "FINISHED"
    assert told["kind"] == "train" and told["name"] == job.name and told["rows"] == 3 and told["seconds"] >= 0
    assert read_result(kept.parent) == told and (kept / "card.md").read_bytes() == b"robust"
    stored = {one.path for one in client.list_artifacts(told["run_id"])}
    assert {"card", "result.json", "job.yaml"} <= stored
    with opened(job, Display()) as again:
        assert again.result == told


def test_a_run_that_fails_closes_all_and_is_not_complete(job: Train, uri: str, ended: list[str]):
    folder = Path(job.storage) / job.name
    with pytest.raises(ZeroDivisionError), opened(job, Display()) as run:
        all_open(run)
        raise ZeroDivisionError
    assert ended == ["ray"] and read_result(folder) is None
    known = (read_record(folder) or {})["run_id"]
    assert MlflowClient(uri).get_run(known).info.status == "FAILED"
    with opened(job, Display()) as run:
        all_open(run)
        assert run.tracker.run_id == known, "the next start goes on with it"


def test_a_wrong_address_is_told_before_anything_is_packed(job: Train, tmp_path: Path):
    wrong = job.model_copy(update={"tracking": job.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})})
    with pytest.raises(RegistryError, match="does not answer"), opened(wrong, Display()) as run:
        run.prepare()
    assert not list(tmp_path.glob("digits-*"))


def test_the_folder_is_one_process_s_at_a_time(job: Train):
    with opened(job, Display()), pytest.raises(JobError, match="being run by another process"), opened(job, Display()):
        pass


def test_the_result_that_mlflow_has_is_that_of_the_folder(job: Train, uri: str, ended: list[str], tmp_path: Path):
    with opened(job, Display()) as run:
        all_open(run)
        told = run.finish({})
    path = MlflowClient(uri).download_artifacts(told["run_id"], "result.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == told

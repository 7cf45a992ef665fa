"""One MLflow run a job, which says what the job is, whatever fails meanwhile."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import TRAIN, changed
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from distrib.config.file import parse
from distrib.config.job import Train
from distrib.errors import RunError
from distrib.tracking import tracker
from distrib.tracking.client import connect
from distrib.tracking.display import Display
from distrib.tracking.folder import read_record, run_key
from distrib.tracking.mlflow_run import MLflowRun
from distrib.tracking.tracker import open_tracker, tracked


@pytest.fixture(autouse=True)
def made(tmp_path: Path, database: Callable[[Path], str]) -> None:
    """The database of every job here, which MLflow would take a second to make."""
    database(tmp_path)


def job(folder: Path, **cluster: int) -> Train:
    where = {"tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}, "cluster": {"device": "cpu", **cluster}}
    return parse(changed(TRAIN, where), [], "here").resolved()


@pytest.mark.parametrize("call", ["log_batch", "log_text"])
def test_a_run_that_could_not_be_described_is_closed_and_described_later(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def busy(*values: object, **named: object):
        raise MlflowException("too many requests", TEMPORARILY_UNAVAILABLE)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, busy)
        with pytest.raises(RunError, match="too many requests"):
            open_tracker(job(tmp_path), tmp_path)
    found = read_record(tmp_path)
    assert found is not None
    client = connect(found["tracking_uri"])
    assert client.get_run(found["run_id"]).info.status == "FAILED"
    run = open_tracker(job(tmp_path, num_workers=2), tmp_path)
    assert run.run_id == found["run_id"]
    described(run, "1" if call == "log_text" else "2")
    run.close("FINISHED")
    again = open_tracker(job(tmp_path, num_workers=3), tmp_path, device="cuda")
    assert (read_record(tmp_path) or {})["device"] == "cuda", "the next start looks for it"
    assert again.run_id == found["run_id"]
    described(again, "1" if call == "log_text" else "2")
    again.close("FINISHED")
    assert len(client.search_runs(["0", again.client.get_run(again.run_id).info.experiment_id])) == 1


def test_a_key_that_is_damaged_is_made_anew(tmp_path: Path):
    """A crash of the machine may leave it empty, or full of anything."""
    for damage in (b"\xff\xfe", b"", b"it's no key"):
        (tmp_path / ".key").write_bytes(damage)
        key = run_key(tmp_path)
        assert re.fullmatch("[0-9a-f]{32}", key) and run_key(tmp_path) == key


def test_a_kill_before_the_run_is_noted_makes_no_second_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(*values: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracker, "write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            open_tracker(job(tmp_path), tmp_path)
    assert read_record(tmp_path) is None
    run = open_tracker(job(tmp_path), tmp_path)
    described(run, "1")
    (tmp_path / "other").mkdir()
    other = open_tracker(job(tmp_path), tmp_path / "other")
    assert other.run_id != run.run_id
    found = run.client.search_runs([run.client.get_run(run.run_id).info.experiment_id])
    assert {one.info.run_id for one in found} == {run.run_id, other.run_id}


def described(run: MLflowRun, workers: str) -> None:
    """The parameters are those of the first start that could log them."""
    found = run.client.get_run(run.run_id)
    assert found.info.status == "RUNNING" and found.data.params["cluster.num_workers"] == workers
    names = {one.path for one in run.client.list_artifacts(run.run_id)}
    assert {"job.yaml", "environment.txt"} <= names


def test_a_copied_database_says_where_its_files_go(tmp_path: Path, database: Callable[[Path], str]):
    """Its experiments name the folder that it was copied from."""
    for name in ("first", "copy"):
        (tmp_path / name / "run").mkdir(parents=True)
    database(tmp_path / "first")
    lines: list[str] = []
    display = Display()
    display.say = lines.append
    with tracked(job(tmp_path / "first"), tmp_path / "first" / "run", display):
        assert not any("warning" in line for line in lines), lines
    shutil.copy(tmp_path / "first" / "mlflow.db", tmp_path / "copy" / "mlflow.db")
    with tracked(job(tmp_path / "copy"), tmp_path / "copy" / "run", display):
        (told,) = (line for line in lines if "warning" in line)
    assert f"files and models go to {tmp_path}/first/mlartifacts/" in told and "tracking.experiment" in told

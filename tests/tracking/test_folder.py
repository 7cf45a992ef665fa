"""A run's folder: whose it is, and when another job may begin anew there."""

from pathlib import Path

import pytest
from documents import TRAIN, changed

from distrib import checkpoints
from distrib.config.file import parse
from distrib.config.job import Train, dump
from distrib.errors import JobError
from distrib.files import write_json
from distrib.tracking.folder import home, read_record, run_folder
from distrib.tracking.tracker import open_tracker


def job(storage: Path, **optim: int) -> Train:
    changes = {"storage": str(storage), **{f"optim.{name}": value for name, value in optim.items()}}
    return parse(changed(TRAIN, changes), [], "here").resolved()


def failed(storage: Path) -> Path:
    """The folder of a run that failed before it trained: packed and described, no more."""
    first = job(storage)
    with run_folder(first) as folder:
        write_json(folder / "job.json", {"job": dump(first), "run_id": "a" * 32, "tracking_uri": "sqlite:///x"})
        write_json(folder / "data.json", {"train": "1"})
        write_json(folder / "trials.json", [])
        (folder / "robust" / ".ray").mkdir(parents=True)
        (folder / "evaluation").mkdir()
    return folder


def test_a_run_that_has_nothing_done_does_not_hold_its_name(tmp_path: Path):
    folder = failed(tmp_path)
    with run_folder(job(tmp_path)):
        assert read_record(folder) is not None, "the same job goes on"
    with run_folder(job(tmp_path, batch_size=32)) as again:
        assert again == folder and read_record(folder) is None
        assert not (folder / "data.json").exists() and not (folder / "trials.json").exists()


DONE = [
    "robust/epoch-00001/state.json", "robust/.epoch-00001.old/state.json", "evaluation/0123-0000000.json",
    "parts/0123-000000.json", "fgsm-0.25/epoch-00002/state.json", "trials/t-0001/robust/epoch-00001/state.json",
    "result.json",
]  # fmt: skip


@pytest.mark.parametrize("kept", DONE)
def test_what_a_run_has_done_is_not_taken_from_it(kept: str, tmp_path: Path):
    folder = failed(tmp_path)
    (folder / kept).parent.mkdir(parents=True, exist_ok=True)
    (folder / kept).write_text("{}")
    with (
        pytest.raises(JobError, match=r"is the run of another job.*optim.batch_size"),
        run_folder(job(tmp_path, batch_size=32)),
    ):
        pass
    assert read_record(folder) is not None and (folder / "data.json").exists() and (folder / kept).exists()


def test_a_run_that_is_being_run_is_not_begun_anew(tmp_path: Path):
    """It may be in its first epoch."""
    folder = failed(tmp_path)
    with (
        run_folder(job(tmp_path)),
        pytest.raises(JobError, match="being run by another process"),
        run_folder(job(tmp_path, batch_size=32)),
    ):
        pass
    assert read_record(folder) is not None


def test_the_mlflow_run_of_a_job_that_did_nothing_is_left_as_failed(tmp_path: Path, uri: str):
    first = job(tmp_path).model_copy(update={"tracking": job(tmp_path).tracking.model_copy(update={"uri": uri})})
    second = first.model_copy(update={"optim": first.optim.model_copy(update={"batch_size": 32})})
    with run_folder(first) as folder:
        before = open_tracker(first, folder)  # and a kill
    with run_folder(second) as folder:
        after = open_tracker(second, folder)
    assert home(second) == home(first) and after.run_id != before.run_id
    client = after.client
    assert [client.get_run(one.run_id).info.status for one in (before, after)] == ["FAILED", "RUNNING"]
    assert client.get_run(after.run_id).data.params["optim.batch_size"] == "32"
    with run_folder(second) as folder:
        assert open_tracker(second, folder).run_id == after.run_id
    assert client.get_run(before.run_id).info.status == "FAILED" and checkpoints.stored_epochs(folder) == []
    after.close("FINISHED")

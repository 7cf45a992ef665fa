"""The runs of a storage: whose state, how far, and when done; looked at without touching anything."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from documents import EVALUATE, TRAIN, TUNE

from distrib.commands.runs import list_runs
from distrib.config.file import parse
from distrib.config.job import dump
from distrib.errors import InputError


def begin(storage: Path, name: str, document: dict, **files: object) -> Path:
    folder = storage / name
    job = dump(parse(document | {"name": name}, [], "here"))
    for file, content in {"job.json": {"job": job}, **files}.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def epochs(count: int) -> dict:
    metrics = {"validation_clean_accuracy": 0.9, "train_seconds": 10.0}
    return {"history": [metrics | {"validation_robust_accuracy": 0.1 * epoch} for epoch in range(count)]}


def test_each_run_is_told_with_how_far_it_came(tmp_path: Path):
    train = TRAIN | {"optim": TRAIN["optim"] | {"epochs": 5}, "compare_natural": False}
    begin(tmp_path, "done", train, **{"result.json": {"epochs": 5, "clean_accuracy": 0.8, "robust_accuracy": 0.4}})
    files = {"robust/epoch-00002/state.json": epochs(2), "robust/epoch-00003/state.json": epochs(3)}
    begin(tmp_path, "left", train, **files)
    live = begin(tmp_path, "live", train, **files)
    begin(tmp_path, "search", TUNE, **{"trials.json": [{}, {}]})
    begin(tmp_path, "judging", EVALUATE)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "job.json").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("")
    os.utime(tmp_path / "done", (2e9, 2e9))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with (live / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = list_runs(tmp_path)
    found = {row["name"]: row for row in rows}
    assert rows[0]["name"] == "done" and set(found) == {"done", "left", "live", "search", "judging"}
    told = ("kind", "state", "done", "of", "clean_accuracy", "robust_accuracy", "on", "eta_seconds")
    assert {name: [row[key] for key in told] for name, row in found.items()} == {
        "done": ["train", "complete", "5", "", 0.8, 0.4, "test", None],
        "left": ["train", "stopped", "3", "5", 0.9, 0.2, "validation", None],
        "live": ["train", "running", "3", "5", 0.9, 0.2, "validation", 20],
        "search": ["tune", "stopped", "2", str(TUNE["search"]["num_trials"]), None, None, "", None],
        "judging": ["evaluate", "stopped", "", "", None, None, "", None],
    }
    assert sorted(str(path) for path in tmp_path.rglob("*")) == sorted([*before, str(live / ".lock")])


def test_the_natural_twin_counts_and_its_accuracy_is_not_shown(tmp_path: Path):
    files = {"robust/epoch-00002/state.json": epochs(2), "natural/epoch-00001/state.json": epochs(1)}
    begin(tmp_path, "both", TRAIN | {"optim": TRAIN["optim"] | {"epochs": 2}, "compare_natural": True}, **files)
    (row,) = list_runs(tmp_path)
    assert (row["done"], row["of"], row["robust_accuracy"]) == ("3", "4", 0.1)


def test_a_record_of_another_distrib_is_passed_over(tmp_path: Path):
    (begin(tmp_path, "other", TRAIN) / "job.json").write_text(json.dumps({"job": {"kind": "train"}}))
    assert [row["name"] for row in list_runs(tmp_path)] == []


def test_a_checkpoint_that_is_being_written_is_passed_over(tmp_path: Path):
    folder = begin(tmp_path, "live", TRAIN, **{"robust/epoch-00001/state.json": epochs(1)})
    (folder / "robust" / "epoch-00002").mkdir()
    assert [row["done"] for row in list_runs(tmp_path)] == ["1"]


def test_no_storage_is_told(tmp_path: Path):
    with pytest.raises(InputError, match=r"--storage: there is no folder .*nowhere; run a job first"):
        list_runs(tmp_path / "nowhere")

"""The MLflow runs of the trials."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from searches import Kept, epoch, tune

from distrib.search.watch import Watch
from distrib.tracking.display import Display
from distrib.tracking.mlflow_run import MLflowRun
from distrib.trainer import EpochEnd


def test_every_trial_gets_its_run_and_one_that_is_closed_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The server is away while the first trial begins; later the search is started anew."""

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = tune({"tracking.uri": uri})
    parent = MLflowRun(uri, job.tracking.experiment, job.name, None, {})
    trials = Kept(job, tmp_path, [("finished", []), ("stopped", [epoch(0.5)] * 2)])
    run: Any = SimpleNamespace(job=job, tracker=parent, display=Display())
    watch = Watch(run, trials)
    with monkeypatch.context() as patch:
        patch.setattr(MLflowRun, "__init__", lambda *values: 1 / 0)
        watch.started(trials[1])
    for number in (1, 2):
        watch.ended(trials[number])
    watch.settle()

    def runs() -> dict[str, tuple]:
        found = parent.client.search_runs([parent.client.get_run(parent.run_id).info.experiment_id])
        return {one.info.run_name: (one.info.status, one.info.end_time, one.data.tags.get("outcome")) for one in found}

    before = runs()
    first, second = (before[f"000{number} {job.name}"] for number in (1, 2))
    assert (first[0], first[2]) == ("FINISHED", "finished")
    assert (second[0], second[2]) == ("FINISHED", "stopped at epoch 2")
    again = Watch(run, trials)
    again.settle()
    assert runs() == before
    again.crown(2)
    parent.client.delete_run(json.loads((trials.run(1) / "job.json").read_text())["run_id"])
    again.crown(1)  # which somebody deleted: it goes without its mark
    assert runs()[f"0002 {job.name}"][2] == "winner"


def test_the_best_trial_and_their_number_move_while_a_search_runs(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = tune({"tracking.uri": uri})
    parent = MLflowRun(uri, job.tracking.experiment, job.name, None, {})
    trials = Kept(job, tmp_path, [("finished", [epoch(0.25)]), ("running", []), ("waiting", [])])
    watch = Watch(SimpleNamespace(job=job, tracker=parent, display=Display()), trials)  # type: ignore[arg-type]
    watch.ended(trials[1])
    watch.hear("2/robust", EpochEnd(1, epoch(0.5)))
    trials.known[2] = [epoch(0.5)]
    trials.note(2, "finished")
    watch.ended(trials[2])

    def moved(metric: str) -> list[tuple[int, float]]:
        return [(one.step, one.value) for one in parent.client.get_metric_history(parent.run_id, metric)]

    assert moved("search/trials_done") == [(1, 1), (2, 2)]
    assert moved("best/robust_accuracy") == [(1, 0.25), (2, 0.5)]

"""The MLflow runs of the trials."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from searches import Kept, tune

from distrib.search.watch import Watch
from distrib.tracking.display import Display
from distrib.tracking.mlflow_run import MLflowRun


def test_every_trial_gets_its_run_and_one_that_is_closed_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The server is away while the first trial begins; later the search is started anew."""

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = tune({"tracking.uri": uri})
    parent = MLflowRun(uri, job.tracking.experiment, job.name, None, {})
    trials = Kept(job, tmp_path, [("finished", []), ("stopped", [])])
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
        return {one.info.run_name: (one.info.status, one.info.end_time) for one in found}

    before = runs()
    assert [before[trials.name(number)][0] for number in (1, 2)] == ["FINISHED", "KILLED"]
    Watch(run, trials).settle()
    assert runs() == before

"""The MLflow run of each trial, and how many trials run at a time."""

from pathlib import Path

import pytest
from searches import Kept, tune

from distrib.errors import JobError
from distrib.tracking.display import Display
from distrib.tracking.mlflow_run import MLflowRun


def test_every_trial_gets_its_run_and_one_that_is_closed_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The server is away while the first trial begins; later the search is started anew."""
    from distrib.search.run import Watch

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = tune({"tracking.uri": uri})
    parent = MLflowRun(uri, job.tracking.experiment, job.name, None, {})
    books = Kept(job, tmp_path, [("finished", []), ("stopped", [])])
    watch = Watch(job, books, parent, Display())
    with monkeypatch.context() as patch:
        patch.setattr(MLflowRun, "__init__", lambda *values: 1 / 0)
        watch.started(books.trials[1])
    for number in (1, 2):
        watch.ended(books.trials[number])
    watch.settle()

    def runs() -> dict[str, tuple]:
        found = parent.client.search_runs([parent.client.get_run(parent.run_id).info.experiment_id])
        return {one.info.run_name: (one.info.status, one.info.end_time) for one in found}

    before = runs()
    assert [before[books.name(number)][0] for number in (1, 2)] == ["FINISHED", "KILLED"]
    Watch(job, books, parent, Display()).settle()
    assert runs() == before


def test_no_more_trials_at_a_time_than_the_cluster_holds():
    from distrib.cluster.session import Node, Resources
    from distrib.search.run import slots

    eight, gpus = Resources((Node(8),), True), Resources((Node(64, 4),), True)
    assert slots(tune({"cluster": {"num_workers": 3}}), eight, False) == 2
    assert slots(tune({"cluster": {"num_workers": 2}}), gpus, True) == 2, "the GPUs are what is short"
    assert slots(tune({"cluster": {"num_workers": 2}, "concurrent": 3}), eight, False) == 3
    with pytest.raises(JobError, match=r"concurrent: 3 trials x 3 workers x 1 CPUs = 9 CPUs, .* at most 2"):
        slots(tune({"cluster": {"num_workers": 3}, "concurrent": 3}), eight, False)
    sharing = tune({"cluster": {"num_workers": 2, "workers_per_gpu": 2}})
    assert slots(sharing, gpus, True) == 4, "a trial takes one GPU"
    with pytest.raises(JobError, match=r"= 10 CPUs and 5 GPUs, but the cluster has 64 CPUs and 4 GPUs; at most 4"):
        slots(sharing.model_copy(update={"concurrent": 5}), gpus, True)


def test_no_more_trials_at_a_time_than_there_is_memory_for_unless_the_job_says_so():
    from distrib.cluster.resources import Node, Resources
    from distrib.search.run import slots

    small, tiny = Resources((Node(16, 0, 4e9), Node(16, 0, 2e9)), False), Resources((Node(16, 0, 1e9),), True)
    assert slots(tune({}), small, False) == 4, "3 and 1 processes of 1.25 GB"
    assert slots(tune({}), tiny, False) == 1
    assert slots(tune({"concurrent": 9}), small, False) == 9

"""How many trials run at a time; the rest of a search is proved on Ray, in tests/end_to_end/test_search.py."""

from types import SimpleNamespace
from typing import Any

import pytest
from searches import tune

from distrib.cluster.resources import Node, Resources
from distrib.config.job import Train, Tune
from distrib.errors import DataError, JobError
from distrib.search.run import run_tune, slots
from distrib.search.space import known_settings, trial_job
from distrib.tracking.display import Display


def run(job: Tune, resources: Resources, use_gpu: bool) -> Any:
    """What of an open run counts here."""
    return SimpleNamespace(job=job, resources=resources, use_gpu=use_gpu)


def test_what_the_winner_lacks_is_named_by_its_path_in_the_search(monkeypatch: pytest.MonkeyPatch):
    job = tune()
    (settings, *_) = known_settings(job) or ()

    def gone(winner: Train, display: Display) -> None:
        raise DataError("data.root: there is no folder data; put the data there, or allow data.download: true")

    found = {"best": {"number": 1, "settings": settings}}
    monkeypatch.setattr("distrib.search.run.run_search", lambda *_: (found, trial_job(job, 1, settings)))
    monkeypatch.setattr("distrib.search.run.run_train", gone)
    with pytest.raises(DataError, match=r"^train\.data\.root: there .* or allow train\.data\.download: true$"):
        run_tune(job, Display())


def test_no_more_trials_at_a_time_than_the_cluster_holds():
    eight, gpus = Resources((Node(8),), True), Resources((Node(64, 4),), True)
    assert slots(run(tune({"cluster": {"num_workers": 3}}), eight, False)) == 2
    assert slots(run(tune({"cluster": {"num_workers": 2}}), gpus, True)) == 2, "the GPUs are what is short"
    assert slots(run(tune({"cluster": {"num_workers": 2}, "concurrent": 3}), eight, False)) == 3
    with pytest.raises(JobError, match=r"concurrent: 3 trials x 3 workers x 1 CPUs = 9 CPUs, .* at most 2"):
        slots(run(tune({"cluster": {"num_workers": 3}, "concurrent": 3}), eight, False))
    sharing = tune({"cluster": {"num_workers": 2, "workers_per_gpu": 2}})
    assert slots(run(sharing, gpus, True)) == 4, "a trial takes one GPU"
    with pytest.raises(JobError, match=r"= 10 CPUs and 5 GPUs, but the cluster has 64 CPUs and 4 GPUs; at most 4"):
        slots(run(sharing.model_copy(update={"concurrent": 5}), gpus, True))


def test_no_more_trials_at_a_time_than_there_is_memory_for_unless_the_job_says_so():
    small, tiny = Resources((Node(16, 0, 4e9), Node(16, 0, 2e9)), False), Resources((Node(16, 0, 1e9),), True)
    assert slots(run(tune({}), small, False)) == 4, "3 and 1 processes of 1.25 GB"
    assert slots(run(tune({}), tiny, False)) == 1
    assert slots(run(tune({"concurrent": 9}), small, False)) == 9

"""What a search is told, and what is refused."""

import copy

import pytest
from documents import TUNE
from searches import WIDTH, tune

from distrib.errors import JobError

FIELDS = [
    ({"search": {"method": "grid"}}, "method grid crosses grids"),
    ({"search": {"method": "optuna", "num_trials": 4}, "space": {WIDTH: {"grid": [1, 2]}}}, "make it a choice"),
    ({"score.objectives": ["robust", "clean"], "stopping": {"stop": "asha", "grace_epochs": 2}}, "several obj"),
    ({"stopping": {"stop": "asha", "grace_epochs": 4}}, "nothing would ever be stopped"),
    ({"stopping": {"stop": "median", "grace_epochs": 2}, "space": {"optim.epochs": {"choice": [3, 4]}}}, "unlike len"),
    ({"cluster.num_workers": {"min": 1, "max": 2}}, "fixed number of workers"),
    ({"score.objectives": ["clean"]}, "robust is missing"),
    ({"score.objectives": ["robust", "clean"], "score.min_clean_accuracy": 0.5}, "list clean as an objective"),
    ({"space": {WIDTH: {"loguniform": [0, 1]}}}, "begins above 0"),
    ({"space": {WIDTH: {"uniform": [1, 1]}}}, "1 is not below 1"),
    ({"space": {WIDTH: {"unifrom": [1, 2]}}}, "a mapping with one of grid, choice, uniform"),
    ({"space": {WIDTH: {"uniform": [1, 2], "stpe": 1}}}, "the fields here are step, divided_by, uniform"),
    ({"space": {"Model width": {"choice": [1]}}}, "'Model width' is no path: fields with dots between them"),
    ({"name": "n" * 57}, "at most 56 characters"),
    ({"train.optim.warmup_epochs": 2, "winner": {"epochs": 2}}, "the warm-up alone lasts 2"),
    ({"train.cluster": {"num_workers": 2}}, "train.cluster: no such field"),
    ({"train.validation": {"max_examples": 2}}, "train.validation: no such field"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), FIELDS, ids=[words for _, words in FIELDS])
def test_a_search_that_makes_no_sense_is_refused(changes: dict, words: str):
    before = copy.deepcopy(TUNE)
    with pytest.raises(JobError) as caught:
        tune(changes)
    assert words in str(caught.value), str(caught.value)
    assert before == TUNE

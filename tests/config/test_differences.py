"""What makes two jobs one, or another."""

from pathlib import Path

import pytest
from documents import EPSILON, STEP, TRAIN, changed

from distrib.config.differences import PLACEMENT, differences
from distrib.config.file import parse, read
from distrib.config.job import Train, Tune, dump

JOBS = Path(__file__).parents[2] / "jobs"

NO_DIFFERENCE = {
    "cluster": {"num_workers": 4, "address": "auto", "device": "cpu", "max_failures": 0, "cpus_per_worker": 2},
    "tracking": {"uri": "sqlite:///other.db", "experiment": "other"},
    "loader": "memory",
    "storage": "/elsewhere",
    "keep_checkpoints": 9,
    "data.store": "/elsewhere",
}
DIFFERENCE = {
    "optim.epochs": (3, "2, not 3"),
    "optim.lr": (0.2, "0.1, not 0.2"),
    "seed": (1, "0, not 1"),
    EPSILON: ("4/255", "8/255, not 4/255"),
    "objective.attack.num_steps": (3, "10, not 3"),
    "model.width": (2.0, "1.0, not 2.0"),
    "augment.flip": (True, "false, not true"),
    "data.validation": (0.2, "0.1, not 0.2"),
    "evaluation.n": (5, "null, not 5"),
    "compare_natural": (True, "false, not true"),
    "register_as": ("r", "t, not r"),
    "optim.schedule": ({"shape": "cosine"}, None),
    "evaluation.attacks": ([{"attack": "fgsm"}], None),
}


def test_a_module_whose_hash_is_not_known_on_one_side_is_no_difference():
    network = {"arch": "custom", "factory": "mine:build"}
    known, other = (resolved({"model": network | {"sha256": mark}}) for mark in ("a" * 64, "b" * 64))
    older = dump(resolved({"model": network}))
    assert differences(known, older) == [] and differences(resolved({"model": network}), dump(known)) == []
    assert differences(known, dump(other)) == [f"model.sha256: {'a' * 64}, not {'b' * 64}"]


def test_lists_are_compared_one_by_one_and_named_where_one_is_longer():
    attacks = [{"attack": "fgsm"}, {"attack": "pgd", "num_steps": 20}]
    here = resolved({"evaluation.attacks": attacks})
    other = resolved({"evaluation.attacks": [attacks[0], {"attack": "pgd", "num_steps": 40}]})
    assert "evaluation.attacks[1].num_steps: 20, not 40" in differences(here, dump(other))
    more = resolved({"evaluation.attacks": [*attacks, {"attack": "square"}]})
    assert differences(more, dump(here)) == ["evaluation.attacks: [fgsm, pgd, square], not [fgsm, pgd]"]


FOLLOWS = {
    EPSILON: {"validation.threat.epsilon", "evaluation.threat.epsilon"},
    "objective.attack.num_steps": {f"{STEP}.of_epsilon"},
}
"""What is not given, and follows the field."""


def resolved(changes: dict[str, object]) -> Train:
    return parse(changed(TRAIN, changes), [], "here").resolved()


@pytest.mark.parametrize(("path", "value"), NO_DIFFERENCE.items())
def test_where_and_how_a_job_runs_is_no_difference(path: str, value: object):
    assert differences(resolved({path: value}), dump(resolved({}))) == []
    assert differences(resolved({}), dump(resolved({path: value}))) == []


def test_all_that_may_change_is_known_to_the_job():
    tried = {path.split(".")[0] for path in NO_DIFFERENCE} - {"data"} | {"concurrent", "budget_hours"}
    assert set(Train.model_fields) | set(Tune.model_fields) >= PLACEMENT and tried == PLACEMENT


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, (value, _) in DIFFERENCE.items()])
def test_what_changes_the_result_is_a_difference_told_with_both_values(path: str, value: object):
    found = differences(resolved({}), dump(resolved({path: value})))
    told = DIFFERENCE[path][1]
    wider = {path} | FOLLOWS.get(path, set())
    paths = {line.split(":")[0] for line in found}
    assert paths == wider if told else all(one.startswith(path) for one in paths) and paths
    assert told is None or f"{path}: {told}" in found
    assert len(differences(resolved({path: value}), dump(resolved({})))) == len(found)


def test_auto_is_the_precision_that_a_run_began_in():
    auto, named, other = (resolved({"precision": one}) for one in ("auto", "bfloat16", "float32"))
    assert auto == resolved({}) and differences(auto, dump(named)) == []
    assert differences(named, dump(auto)) == ["precision: bfloat16, not auto"]
    assert differences(other, dump(named)) == ["precision: float32, not bfloat16"]


def test_where_a_downloaded_set_lies_is_no_difference_but_another_folder_of_images_is():
    def at(source: str, root: str) -> Train:
        return resolved({"data": {"source": source, "root": root}})

    assert differences(at("mnist", "a"), dump(at("mnist", "b"))) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("loader", "memory"),
        ("keep_checkpoints", "9"),
        ("data.store", "/x"),
        ("data.root", "/x"),
        ("data.download", "true"),
    ],
)
def test_the_same_holds_for_what_a_search_trains(path: str, value: str):
    def of(*overrides: str) -> Tune:
        return read(JOBS / "tune-mnist.yaml", list(overrides)).resolved()

    assert differences(of(f"train.{path}={value}"), dump(of())) == []
    assert differences(of("train.seed=5"), dump(of())) == ["train.seed: 5, not 0"]
    assert differences(of("concurrent=1", "budget_hours=9"), dump(of())) == []


def test_another_folder_of_images_is_another_job():
    def at(root: str) -> Train:
        return resolved({"data": {"source": "folder", "root": root}})

    assert differences(at("cats"), dump(at("birds"))) == ["data.root: cats, not birds"]


def test_a_field_that_an_old_record_lacks_or_has_beyond_is_a_difference():
    record = dump(resolved({}))
    del record["seed"], record["optim"]["lr"]
    assert differences(resolved({}), record | {"future": 1}) == [
        "seed: 0, not null",
        "optim.lr: 0.1, not null",
        "future: null, not 1",
    ]

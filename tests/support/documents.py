"""Job files as tests write them: a sound one of each kind, and copies with fields changed."""

import copy

import pytest
import yaml

from distrib.config.file import parse
from distrib.config.job import Evaluate, Prepare, Train

TRAIN = {
    "kind": "train",
    "name": "t",
    "data": {"source": "digits"},
    "model": {"arch": "small_cnn"},
    "objective": {"method": "madry", "threat": {"norm": "linf", "epsilon": "8/255"}},
    "optim": {"name": "sgd", "lr": 0.1, "epochs": 2},
}
EVALUATE = {
    "kind": "evaluate",
    "name": "e",
    "model": "models:/m/1",
    "data": {"source": "digits"},
    "evaluation": {"threat": {"norm": "l2", "epsilon": 0.5}},
}
PREPARE = {"kind": "prepare", "data": {"source": "digits"}}
TUNE = {
    "kind": "tune",
    "name": "search",
    "train": {
        "data": {"source": "digits"},
        "model": {"arch": "small_cnn"},
        "objective": {
            "method": "madry",
            "threat": {"norm": "linf", "epsilon": 0.2},
            "attack": {"num_steps": 5, "step_size": {"of_epsilon": 0.25}},
        },
        "optim": {"name": "sgd", "lr": 0.1, "epochs": 4},
    },
    "space": {
        "objective.threat.epsilon": {"uniform": [0.05, 0.3]},
        "objective.attack.step_size.of_epsilon": {"uniform": [1, 2.5], "divided_by": "objective.attack.num_steps"},
        "model.width": {"choice": [0.25, 0.5]},
    },
    "search": {"method": "random", "num_trials": 3},
    "score": {"threat": {"norm": "linf", "epsilon": 0.2}, "attack": {"num_steps": 5}},
}
GOOD = yaml.safe_dump(TRAIN, sort_keys=False)
GONE = object()
BALL = "objective.threat"
EPSILON = f"{BALL}.epsilon"
STEP = "objective.attack.step_size"
ATTACKS = "evaluation.attacks"
WORKERS = "cluster.num_workers"
ADAM = {"name": "adam", "lr": 0.1, "epochs": 1}


def changed(base: dict, changes: dict[str, object]) -> dict:
    """A copy of ``base`` with fields set by their path, or taken out (``GONE``)."""
    document = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = document
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
        if value is GONE:
            del place[last]
    return document


def job(base: dict = TRAIN, /, **changes: object) -> Train | Evaluate | Prepare:
    return parse(changed(base, {path.replace("__", "."): value for path, value in changes.items()}), [], "here")


def cases(table: dict[str, tuple], columns: int) -> list:
    """The rows of a table as parameters of a test, by their names; what a row has beyond its columns are marks."""
    return [pytest.param(*row[:columns], marks=row[columns:], id=name) for name, row in table.items()]

"""Bad job files: whatever is wrong is told by its path, in one line, and nothing is begun."""

from pathlib import Path

import pytest
import yaml
from documents import (
    ADAM,
    ATTACKS,
    BALL,
    EPSILON,
    EVALUATE,
    GONE,
    GOOD,
    PREPARE,
    STEP,
    TRAIN,
    TUNE,
    WORKERS,
    cases,
    changed,
)

# What is wrong with a job, and the path and the words that must tell it. One fault, one line.
WRONG_FIELDS: dict[str, tuple] = {
    # unknown keys
    "unknown at the top": (
        {"modle": 1},
        "modle",
        "no such field (did you mean model?); the fields here are kind, name",
    ),
    "a password": (
        {"tracking": {"uri": "http://ann:secret@h:5000"}},
        "tracking.uri",
        "everyone who sees the run would see its password; leave user and password out",
    ),
    "unknown, in a table": ({"optim.epoch": 3}, "optim.epoch", "did you mean epochs?"),
    "unknown, in the wrong member": ({"optim.betas": [0.9, 0.99]}, "optim.betas", "the fields here are epochs"),
    "unknown, three deep": ({"objective.attack.num_step": 1}, "objective.attack.num_step", "did you mean num_steps?"),
    "unknown, in a threat": (
        {"objective.threat.epsilom": 1},
        "objective.threat.epsilom",
        "did you mean epsilon?",
    ),
    "unknown in a list item": (
        {ATTACKS: [{"attack": "fgsm"}, {"attack": "pgd", "num_steps": 5, "stepsize": 1}]},
        f"{ATTACKS}[1].stepsize",
        "did you mean step_size?",
    ),
    "unknown in an optional": (
        {"validation.threat": {"norm": "linf", "epsilon": 0.1, "epsilom": 5}},
        "validation.threat.epsilom",
        "did you mean epsilon?",
    ),
    "unknown in cluster": ({"cluster.workers": 2}, "cluster.workers", "did you mean num_workers?"),
    "of another kind": ({"model": "models:/m/1"}, "model", "expected an object, not 'models:/m/1'"),
    # missing
    "no name": ({"name": GONE}, "name", "is missing"),
    "no model": ({"model": GONE}, "model", "is missing"),
    "no epochs": ({"optim.epochs": GONE}, "optim.epochs", "is missing"),
    "no threat": ({BALL: GONE}, BALL, "is missing"),
    "no epsilon": ({EPSILON: GONE}, EPSILON, "is missing"),
    "no source in an item": (
        {ATTACKS: [{"attack": "fgsm"}, {"attack": "transfer"}]},
        f"{ATTACKS}[1].source",
        "is missing",
    ),
    "no root of a folder": ({"data": {"source": "folder"}}, "data.root", "is missing"),
    "half a pair": ({"optim": ADAM | {"betas": [0.9]}}, "optim.betas[1]", "is missing"),
    # texts that no file system takes
    **{
        f"a NUL in {path}": ({path: "a\0b"}, path, "has a NUL character in it; take it out")
        for path in ("data.store", "storage", "cluster.stage", "cluster.address", "tracking.uri", "tracking.experiment")
    },
    # tags
    "no tag": ({"optim.name": GONE}, "optim", "name is missing; it is one of sgd, adam, adamw"),
    "no tag of a threat": ({"objective.threat.norm": GONE}, BALL, "norm is missing; it is one of linf, l2"),
    "no tag of a schedule": (
        {"optim.schedule": {}},
        "optim.schedule",
        "shape is missing; it is one of constant, linear",
    ),
    "wrong tag": ({"optim.name": "adm"}, "optim", "name: 'adm' is none of sgd, adam, adamw, muon (did you mean adam?)"),
    "wrong arch": ({"model.arch": "preact_resent"}, "model", "did you mean preact_resnet?"),
    "wrong source": ({"data.source": "minst"}, "data", "did you mean mnist?"),
    "wrong norm": ({"objective.threat.norm": "l0"}, BALL, "norm: 'l0' is none of linf, l2, l1"),
    "wrong method": (
        {"objective.method": "free"},
        "objective",
        "'free' is none of natural, madry, fast, n_fgsm, trades, mart",
    ),
    "wrong shape": ({"optim.schedule": {"shape": "cosin"}}, "optim.schedule", "did you mean cosine?"),
    "wrong tag in an item": ({ATTACKS: [{"attack": "fgms"}]}, f"{ATTACKS}[0]", "did you mean fgsm?"),
    # wrong types
    "text for a table": ({"optim": "sgd"}, "optim", "expected an object, not 'sgd'"),
    "a table for text": ({"name": {"a": 1}}, "name", "expected a valid string"),
    "a number for text": ({"name": 3}, "name", "expected a valid string, not 3"),
    "text for a number": ({"optim.epochs": "3"}, "optim.epochs", "expected a valid integer, not '3'"),
    "half an epoch": ({"optim.epochs": 2.5}, "optim.epochs", "expected a valid integer, not 2.5"),
    "yes for a number": ({"optim.epochs": True}, "optim.epochs", "expected a valid integer, not True"),
    "one for yes": ({"augment.flip": 1}, "augment.flip", "expected a valid boolean, not 1"),
    "no for a name": ({"name": False}, "name", "expected a valid string, not False"),
    "nothing for a number": ({"optim.lr": None}, "optim.lr", "expected a valid number, not None"),
    "text for a list": ({ATTACKS: "fgsm"}, ATTACKS, "expected a valid array, not 'fgsm'"),
    "text for an item": ({ATTACKS: ["fgsm"]}, f"{ATTACKS}[0]", "expected an object, not 'fgsm'"),
    "statistics of nobody": ({"batch_norm": "global"}, "batch_norm", "'global' is none of synchronised, local"),
    "wrong literal": ({"precision": "float8"}, "precision", "'float8' is none of auto, float32, bfloat16, float16"),
    "wrong loader": ({"loader": "fcv"}, "loader", "did you mean ffcv?"),
    # numbers out of their bounds
    "no epochs at all": ({"optim.epochs": 0}, "optim.epochs", "greater than or equal to 1, not 0"),
    "a rate of 0": ({"optim.lr": 0}, "optim.lr", "greater than 0, not 0"),
    "an infinite rate": ({"optim.lr": float("inf")}, "optim.lr", "a finite number, not inf"),
    "a rate that is no number": ({"optim.lr": float("nan")}, "optim.lr", "a finite number, not nan"),
    "a momentum of 1": ({"optim.momentum": 1}, "optim.momentum", "less than 1, not 1"),
    "a second beta": ({"optim": ADAM | {"betas": [0.9, 1.5]}}, "optim.betas[1]", "less than 1, not 1.5"),
    "a negative seed": ({"seed": -1}, "seed", "greater than or equal to 0, not -1"),
    "a seed too large": ({"seed": 2**31}, "seed", "less than 2147483648"),
    "a crop too large": ({"augment.crop_padding": 65}, "augment.crop_padding", "less than or equal to 64, not 65"),
    "a square of nothing": (
        {"data": {"source": "folder", "root": "images", "resize": 256}},
        "data.resize",
        "256 must be more than size, which is None",
    ),
    "no larger than is trained on": (
        {"data": {"source": "folder", "root": "images", "size": 224, "resize": 224}},
        "data.resize",
        "224 must be more than size, which is 224",
    ),
    "two windows": (
        {"data": {"source": "folder", "root": "images", "size": 24, "resize": 28}, "augment": {"crop_shift": 2}},
        "augment.crop_shift",
        "data.resize has windows cut at random places already",
    ),
    "everything held out": ({"data.validation": 1.0}, "data.validation", "less than 1, not 1.0"),
    # epsilon
    "epsilon, divided by 0": ({EPSILON: "8/0"}, EPSILON, "expected a number or a fraction such as 8/255, not '8/0'"),
    "epsilon in words": ({EPSILON: "eight"}, EPSILON, "expected a number or a fraction such as 8/255, not 'eight'"),
    "epsilon below 0": ({EPSILON: -0.1}, EPSILON, "greater than or equal to 0, not -0.1"),
    "a fraction below 0": ({EPSILON: "-8/255"}, EPSILON, "greater than or equal to 0, not '-8/255'"),
    "epsilon beyond all pixels": ({EPSILON: 8}, EPSILON, "at most 1, not 8: pixels lie in [0, 1]; did you mean 8/255?"),
    "epsilon beyond all of 8 bits": ({EPSILON: 300}, EPSILON, "at most 1, not 300: pixels lie in [0, 1]"),
    "epsilon infinite": ({EPSILON: float("inf")}, EPSILON, "a finite number, not inf"),
    "epsilon no number": ({EPSILON: float("nan")}, EPSILON, "a finite number, not nan"),
    "epsilon yes": ({EPSILON: True}, EPSILON, "expected a valid number, not True"),
    "epsilon of 400 digits": (
        {EPSILON: "9" * 400 + "/255"},
        EPSILON,
        "expected a number or a fraction",
    ),
    "epsilon of the evaluation": (
        {"evaluation.threat": {"norm": "linf", "epsilon": 2}},
        "evaluation.threat.epsilon",
        "did you mean 2/255?",
    ),
    "step size in words": ({STEP: "fast"}, STEP, "expected a number or a fraction such as 8/255, not 'fast'"),
    "a share of epsilon of 0": ({STEP: {"of_epsilon": 0}}, f"{STEP}.of_epsilon", "greater than 0"),
    "a share of epsilon, misspelt": (
        {STEP: {"of_epsilon": 1, "of_eps": 1}},
        f"{STEP}.of_eps",
        "did you mean of_epsilon?",
    ),
    # fields that contradict each other
    "kappa without cw_margin": (
        {"objective.attack.kappa": 3.0},
        "objective.attack",
        "kappa belongs to loss: cw_margin; leave it out",
    ),
    "restarts of one start": (
        {"objective.attack.restarts": 2, "objective.attack.random_start": False},
        "objective.attack",
        "restarts without random_start repeat one attack",
    ),
    "statistics of the batch, in an evaluation": (
        {ATTACKS: [{"attack": "pgd", "batch_norm": "train"}]},
        f"{ATTACKS}[0].batch_norm",
        "an evaluation judges each image by itself; leave it out",
    ),
    "fast, with many steps": (
        {"objective.method": "fast", "objective.attack.num_steps": 7},
        "objective",
        "method fast takes one step: leave objective.attack.num_steps out",
    ),
    "trades towards a target": (
        {"objective.method": "trades", "objective.attack.target": "random"},
        "objective",
        "leave objective.attack.loss and objective.attack.target out",
    ),
    "trades with a loss": (
        {"objective.method": "trades", "objective.attack.loss": "cw_margin"},
        "objective",
        "leave objective.attack.loss and objective.attack.target out",
    ),
    "a threat in natural training": (
        {"objective.method": "natural"},
        "objective.threat",
        "no such field; the fields here are label_smoothing, method",
    ),
    "natural, judged by what": (
        {"objective": {"method": "natural"}},
        "evaluation.threat",
        "is missing; a natural objective has none",
    ),
    "natural, compared with itself": (
        {
            "objective": {"method": "natural"},
            "compare_natural": True,
            "evaluation.threat": {"norm": "linf", "epsilon": 0.1},
        },
        "compare_natural",
        "this run is natural itself",
    ),
    "the same attack twice": (
        {ATTACKS: [{"attack": "fgsm"}, {"attack": "fgsm", "n": 10}]},
        "evaluation",
        "the attack fgsm is listed twice",
    ),
    "milestones that fall": (
        {"optim.schedule": {"shape": "multistep", "milestones": [3, 2]}},
        "optim.schedule",
        "milestones must rise",
    ),
    "more workers than images": ({WORKERS: 200}, WORKERS, "200 workers cannot share batches of 128"),
    "more elastic workers than images": ({WORKERS: {"min": 1, "max": 200}}, WORKERS, "200 workers cannot share"),
    "few images a worker for BatchNorm": (
        {WORKERS: 9, "model.arch": "preact_resnet", "batch_norm": "local"},
        WORKERS,
        "9 workers have 14 of 128 images each, and preact_resnet has BatchNorm: each worker normalises by the "
        "statistics of its own images, and fewer than 16 give another network, or none; set "
        "batch_norm: synchronised, or take at most 8, or raise optim.batch_size to 144",
    ),
    "few images for the most of elastic workers": (
        {WORKERS: {"min": 1, "max": 9}, "model.arch": "wide_resnet", "batch_norm": "local"},
        WORKERS,
        "9 workers have 14 of 128 images each, and wide_resnet has BatchNorm",
    ),
    "one image for BatchNorm": (
        {"optim.batch_size": 1, "model.arch": "preact_resnet"},
        "optim.batch_size",
        "preact_resnet has BatchNorm, which cannot be trained on one image at a time; raise it to 16 or more",
    ),
    "no workers": ({WORKERS: 0}, WORKERS, "greater than or equal to 1, not 0"),
    "elastic upside down": ({WORKERS: {"min": 3, "max": 2}}, WORKERS, "min is above max"),
    "elastic without an end": ({WORKERS: {"min": 3}}, "cluster.num_workers.max", "is missing"),
    "nesterov without momentum": (
        {"optim.nesterov": True, "optim.momentum": 0.0},
        "optim",
        "nesterov",
    ),
    # names
    "a blank in a name": ({"name": "my run"}, "name", "'my run' is no name: use letters, digits, dots"),
    "a way out of the folder": ({"name": "../up"}, "name", "'../up' is no name"),
    "a slash in a name": ({"register_as": "a/b"}, "register_as", "'a/b' is no name"),
    "no letters in a name": ({"name": ""}, "name", "'' is no name"),
    "a hidden name": ({"name": ".x"}, "name", "'.x' is no name"),
    "a name too long": ({"name": "x" * 64}, "name", "is no name"),
    "a line break in a name": ({"name": "x\n"}, "name", "is no name"),
    # models
    "no such torchvision model": (
        {"model": {"arch": "torchvision", "name": "resnet81"}},
        "model.name",
        "no classifier 'resnet81'; the nearest names are resnet18",
    ),
    "no such depth": (
        {"model": {"arch": "wide_resnet", "depth": 27}},
        "model.depth",
        "the depth of a WideResNet is 6n + 4, not 27; take 22 or 28",
    ),
    "no such depth either": (
        {"model": {"arch": "preact_resnet", "depth": 20}},
        "model.depth",
        "20 is none of 12, 14, 18, 34",
    ),
    "a model without width": ({"model": {"arch": "small_cnn", "width": 0}}, "model.width", "greater than 0, not 0"),
}

CAPACITY = {
    "of": "capacity", "model": TRAIN["model"], "widths": [1], "threat": TRAIN["objective"]["threat"],
    "epsilon_warmup_epochs": 2, "optim": TRAIN["optim"],
}  # fmt: skip
WRONG_KINDS: dict[str, tuple] = {
    "no kind": ({"name": "x"}, "kind is missing; it is one of prepare, train, evaluate"),
    "wrong kind": (
        TRAIN | {"kind": "trian"},
        "kind: 'trian' is none of prepare, train, evaluate, study, tune (did you mean train?)",
    ),
    "kind in capitals": (
        TRAIN | {"kind": "Train"},
        "kind: 'Train' is none of prepare, train, evaluate, study, tune (did you mean train?)",
    ),
    "a search whose training never warms up": (
        changed(TUNE, {"train.objective.epsilon_warmup_epochs": 9}),
        "train.objective.epsilon_warmup_epochs: 9 of 4 epochs: epsilon would never be trained against in full; lower "
        "it, or raise train.optim.epochs",
    ),
    "a training that is natural to its end": (
        changed(TRAIN, {"objective": TRAIN["objective"] | {"natural_epochs": 90, "epsilon_warmup_epochs": 2}}),
        "objective.natural_epochs: 90 and then 2 of 2 epochs: epsilon would never be trained against in full; lower it",
    ),
    "a study whose trainings never warm up": (
        {"kind": "study", "name": "s", "data": {"source": "digits"}, "study": CAPACITY},
        "study.epsilon_warmup_epochs: not fewer than study.optim.epochs",
    ),
    "evaluate without a threat": (
        EVALUATE | {"evaluation": {}},
        "evaluation.threat: is missing; say what the adversary may do",
    ),
    "evaluate without a model": (changed(EVALUATE, {"model": GONE}), "model: is missing"),
    "evaluate with an objective": (
        EVALUATE | {"objective": TRAIN["objective"]},
        "objective: no such field; the fields here are kind, name, storage",
    ),
    "prepare with a name": (PREPARE | {"name": "x"}, "name: no such field; the fields here are kind, data, loader"),
}


@pytest.mark.parametrize(("changes", "path", "phrase"), cases(WRONG_FIELDS, 3))
def test_a_wrong_field_is_told_by_its_path_and_by_it_alone(
    changes: dict, path: str, phrase: str, complain, tmp_path: Path
):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(changed(TRAIN, changes)))
    (line,) = complain(str(file)).splitlines()
    assert line.startswith(f"{file}: {path}: ") and phrase in line


@pytest.mark.parametrize(("document", "told"), cases(WRONG_KINDS, 2))
def test_a_wrong_kind_or_another_kind_s_fields(document: dict, told: str, complain, tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    (line,) = complain(str(file)).splitlines()
    assert line.startswith(f"{file}: {told}")


def test_everything_that_is_wrong_is_told_at_once(complain, tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(changed(TRAIN, {"optim.epochs": 0, EPSILON: "x", "modle": 1, "model": GONE})))
    lines = complain(str(file)).splitlines()
    assert [line.removeprefix(f"{file}: ").split(": ")[0] for line in lines] == [
        "model",
        EPSILON,
        "optim.epochs",
        "modle",
    ]


def test_a_value_of_any_length_is_echoed_in_bounds(complain, tmp_path: Path):
    """Of a value, of a key, of an override; and of five thousand fields."""
    file = tmp_path / "job.yaml"
    for changes in ({"name": "x" * 100_000}, {"kind": "y" * 100_000}, {"data.source": "z" * 100_000}):
        file.write_text(yaml.safe_dump(changed(TRAIN, changes)))
        told = complain(str(file))
        assert len(told) < 2500 and f"{file}: " in told
    file.write_text(GOOD + "".join(f"field{number}: 1\n" for number in range(5000)))
    assert len(complain(str(file)).splitlines()) < 50
    file.write_text(GOOD)
    assert len(complain(str(file), "--set", "optim.epochs=" + "x" * 100_000)) < 2500

"""Job files: whatever is wrong is told by its path; whatever is right is read, resolved, written and read back."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from distrib import cli
from distrib.attack import PGD, OfEpsilon
from distrib.errors import JobError
from distrib.job import LARGEST_FILE, WHERE, Evaluate, Prepare, Train, differences, digest, dump, parse, read
from distrib.objective import Madry
from distrib.threat import L2, Linf

JOBS = sorted((Path(__file__).parent.parent / "jobs").glob("*.yaml"))
jobs = pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)

TRAIN = {
    "kind": "train",
    "name": "t",
    "data": {"source": "digits"},
    "model": {"arch": "small_cnn"},
    "objective": {"method": "madry", "attack": {"threat": {"norm": "linf", "epsilon": "8/255"}}},
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
GONE = object()
BALL = "objective.attack.threat"
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


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in ``folder``, with its size and time of change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def complain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``complain(*arguments)`` runs the real command on a bad job and returns its complaint.

    Checked here: exit status 2, no traceback (main raises nothing), nothing on stdout, nothing begun, nothing made.
    """
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def begun(*_: object) -> None:
        raise AssertionError("a bad job was begun")

    monkeypatch.setattr("distrib.run.run", begun)

    def command(*arguments: str) -> str:
        before = listing(tmp_path)
        status = cli.main(["run", *arguments])
        told = capsys.readouterr()
        assert (status, told.out) == (2, "") and listing(tmp_path) == before
        assert told.err.startswith("distrib: ") and told.err.endswith("\n") and "Traceback" not in told.err
        return told.err.removeprefix("distrib: ").removesuffix("\n")

    return command


# What is wrong with a job, and the path and the words that must tell it. One fault, one line.
WRONG_FIELDS: dict[str, tuple] = {
    # unknown keys
    "unknown at the top": (
        {"modle": 1},
        "modle",
        "no such field (did you mean model?); the fields here are kind, name",
    ),
    "unknown, in a table": ({"optim.epoch": 3}, "optim.epoch", "did you mean epochs?"),
    "unknown, in the wrong member": ({"optim.betas": [0.9, 0.99]}, "optim.betas", "the fields here are epochs"),
    "unknown, three deep": ({"objective.attack.treat": 1}, "objective.attack.treat", "did you mean threat?"),
    "unknown, four deep": (
        {"objective.attack.threat.epsilom": 1},
        "objective.attack.threat.epsilom",
        "did you mean epsilon?",
    ),
    "unknown in a list item": (
        {ATTACKS: [{"attack": "fgsm"}, {"attack": "pgd", "num_steps": 5, "stepsize": 1}]},
        f"{ATTACKS}[1].stepsize",
        "did you mean step_size?",
    ),
    "unknown in an optional": (
        {"validation.attack": {"threat": {"norm": "linf", "epsilon": 0.1}, "num_step": 5}},
        "validation.attack.num_step",
        "did you mean num_steps?",
    ),
    "unknown in cluster": ({"cluster.workers": 2}, "cluster.workers", "did you mean num_workers?"),
    "of another kind": ({"model": "models:/m/1"}, "model", "expected an object, not 'models:/m/1'"),
    # missing
    "no name": ({"name": GONE}, "name", "is missing"),
    "no model": ({"model": GONE}, "model", "is missing"),
    "no epochs": ({"optim.epochs": GONE}, "optim.epochs", "is missing"),
    "no threat": ({BALL: GONE}, BALL, "is missing"),
    "no epsilon": ({EPSILON: GONE}, EPSILON, "is missing"),
    "no steps in an item": (
        {ATTACKS: [{"attack": "fgsm"}, {"attack": "pgd"}]},
        f"{ATTACKS}[1].num_steps",
        "is missing",
    ),
    "no root of a folder": ({"data": {"source": "folder"}}, "data.root", "is missing"),
    "half a pair": ({"optim": ADAM | {"betas": [0.9]}}, "optim.betas[1]", "is missing"),
    # tags
    "no tag": ({"optim.name": GONE}, "optim", "name is missing; it is one of sgd, adam, adamw"),
    "no tag of a threat": ({"objective.attack.threat.norm": GONE}, BALL, "norm is missing; it is one of linf, l2"),
    "no tag of a schedule": (
        {"optim.schedule": {}},
        "optim.schedule",
        "shape is missing; it is one of constant, linear",
    ),
    "wrong tag": ({"optim.name": "adm"}, "optim", "name: 'adm' is none of sgd, adam, adamw (did you mean adam?)"),
    "wrong arch": ({"model.arch": "preact_resent"}, "model", "did you mean preact_resnet?"),
    "wrong source": ({"data.source": "minst"}, "data", "did you mean mnist?"),
    "wrong norm": ({"objective.attack.threat.norm": "l1"}, BALL, "norm: 'l1' is none of linf, l2"),
    "wrong method": ({"objective.method": "mart"}, "objective", "'mart' is none of natural, madry, fast, trades"),
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
    "wrong literal": ({"precision": "float8"}, "precision", "'float8' is none of float32, bfloat16, float16"),
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
    "everything held out": ({"data.validation": 1.0}, "data.validation", "less than 1, not 1.0"),
    # epsilon
    "epsilon, divided by 0": ({EPSILON: "8/0"}, EPSILON, "expected a number or a fraction such as 8/255, not '8/0'"),
    "epsilon in words": ({EPSILON: "eight"}, EPSILON, "expected a number or a fraction such as 8/255, not 'eight'"),
    "epsilon below 0": ({EPSILON: -0.1}, EPSILON, "greater than or equal to 0, not -0.1"),
    "a fraction below 0": ({EPSILON: "-8/255"}, EPSILON, "greater than or equal to 0, not '-8/255'"),
    "epsilon beyond all pixels": ({EPSILON: 8}, EPSILON, "less than or equal to 1, not 8"),
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
        "less than or equal to 1",
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
    "fast, with many steps": (
        {"objective.method": "fast", "objective.attack.num_steps": 7},
        "objective",
        "method fast takes one step: leave attack.num_steps out",
    ),
    "trades towards a target": (
        {"objective.method": "trades", "objective.attack.target": "random"},
        "objective",
        "leave attack.loss and attack.target out",
    ),
    "trades with a loss": (
        {"objective.method": "trades", "objective.attack.loss": "cw_margin"},
        "objective",
        "leave attack.loss and attack.target out",
    ),
    "an attack in natural training": (
        {"objective.method": "natural"},
        "objective.attack",
        "no such field; the fields here are method",
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
    "no such depth either": ({"model": {"arch": "preact_resnet", "depth": 20}}, "model.depth", "20 is none of 18, 34"),
    "a model without width": ({"model": {"arch": "small_cnn", "width": 0}}, "model.width", "greater than 0, not 0"),
}

WRONG_KINDS: dict[str, tuple] = {
    "no kind": ({"name": "x"}, "kind is missing; it is one of prepare, train, evaluate"),
    "wrong kind": (
        TRAIN | {"kind": "trian"},
        "kind: 'trian' is none of prepare, train, evaluate, study (did you mean train?)",
    ),
    "kind in capitals": (
        TRAIN | {"kind": "Train"},
        "kind: 'Train' is none of prepare, train, evaluate, study (did you mean train?)",
    ),
    "evaluate without a threat": (
        EVALUATE | {"evaluation": {}},
        "evaluation.threat: is missing; say what the adversary may do",
    ),
    "evaluate without a model": (changed(EVALUATE, {"model": GONE}), "model: is missing"),
    "evaluate with an objective": (
        EVALUATE | {"objective": TRAIN["objective"]},
        "objective: no such field; the fields here are kind, name, model",
    ),
    "prepare with a name": (PREPARE | {"name": "x"}, "name: no such field; the fields here are kind, data, loader"),
}

GOOD = yaml.safe_dump(TRAIN, sort_keys=False)
WRONG_TEXTS: dict[str, tuple] = {
    "empty": ("", ": a job is a mapping that begins with kind: prepare, train, evaluate or study"),
    "comments only": ("# kind: train\n", ": a job is a mapping"),
    "a list": ("- kind: train\n", ": a job is a mapping"),
    "one word": ("train\n", ": a job is a mapping"),
    "a key twice": (GOOD + "name: u\n", r":\d+:1: not YAML: key 'name' is given twice"),
    "a key twice, deep": (
        "kind: train\noptim: {lr: 1, epochs: 2, lr: 3}\n",
        ":2:27: not YAML: key 'lr' is given twice",
    ),
    "a key twice, in a list": ("a:\n- {b: 1, b: 2}\n", ":2:10: not YAML: key 'b' is given twice"),
    "a bracket that does not close": (
        "kind: train\noptim: {lr: 1\nname: x\n",
        r":3:\d+: not YAML: .*expected ',' or '}'",
    ),
    "a colon too many": ("kind: train\nname: a: b\n", ":2:8: not YAML: .*mapping values are not allowed here"),
    "a tab": ("kind: train\noptim:\n\tlr: 1\n", r":3:1: not YAML: .*found character '\\t'"),
    "wrong indentation": ("kind: train\noptim:\n  lr: 1\n epochs: 2\n", r":4:\d+: not YAML: "),
    "a quote that does not close": ('kind: "train\nname: x\n', r":\d+:\d+: not YAML: "),
    "two documents": (GOOD + "---\n" + GOOD, r":\d+:1: not YAML: .*another document"),
    "a number as a key": ("kind: train\n3: x\n", ":2:1: not YAML: key 3 is no text"),
    "yes as a key": ("kind: train\nyes: x\n", ":2:1: not YAML: key True is no text"),
    "nothing as a key": ("kind: train\n~: x\n", ":2:1: not YAML: key None is no text"),
    "a list as a key": ("kind: train\n? [a]\n: x\n", r":2:\d+: not YAML: key \[\] is no text"),
    "a tag that runs code": (
        "!!python/object/apply:os.mkdir [made]\n",
        ":1:1: not YAML: .*could not determine a constructor",
    ),
    "a date": (
        GOOD.replace("name: t", "name: 2020-01-01"),
        ": Object of type date is not JSON serializable; write dates and the like in quotes",
    ),
    "a set": (GOOD + "seed: !!set {a, b}\n", ": Object of type set"),
    "bytes": (GOOD + "seed: !!binary aGVsbG8=\n", ": Object of type bytes"),
    "a list in itself": (GOOD + "seed: &a [*a]\n", ": Circular reference"),
    "an alias of nothing": (GOOD + "seed: *a\n", r":\d+:\d+: not YAML: .*found undefined alias"),
    "a control character": ("kind: \0train\n", r".*not YAML: "),
    "not UTF-8": ("kind: trän\n".encode("latin1"), ": not UTF-8 text"),
    "UTF-16": (GOOD.encode("utf-16"), ": not UTF-8 text"),
    "too large": ("#" * (LARGEST_FILE + 1), f": {LARGEST_FILE + 1} bytes: too large for a job file"),
    "a month that is none": (GOOD + "seed: 2020-13-01\n", r":\d+:\d+: not YAML|.*: seed"),
    "a number that is none": (GOOD + "seed: !!int x\n", r":\d+:\d+: not YAML"),
    "a truth that is none": (GOOD + "seed: !!bool x\n", r":\d+:\d+: not YAML"),
    "a number of 5000 digits": (GOOD + "seed: " + "9" * 5000 + "\n", r"(:\d+:\d+)?: "),
    "2000 brackets": ("a: " + "[" * 2000, ": "),
}

WRONG_OVERRIDES: dict[str, tuple] = {
    "no =": ("optim.epochs", "--set optim.epochs: write it as path.to.field=value, such as optim.epochs=3"),
    "no field": ("=3", "--set =3: write it as path.to.field=value"),
    "an empty key": ("optim..epochs=3", "--set optim..epochs=3: write it as path.to.field=value"),
    "a dot at the end": ("optim.=3", "--set optim.=3: write it as path.to.field=value"),
    "through a number": ("optim.epochs.x=3", "--set optim.epochs.x=3: epochs is no mapping, so it has no fields"),
    "through text": ("name.x=3", "--set name.x=3: name is no mapping, so it has no fields"),
    "broken YAML": ("data.source=[}", r"--set data.source=\[}: '\[}' is no value; quote it if it is text"),
    "a tag": ("name=!!python/name:os.system", "--set name=.* is no value"),
    "no such field": ("optim.epoch=3", ".*job.yaml: optim.epoch: no such field .did you mean epochs"),
    "wrong type": ("optim.epochs=many", ".*job.yaml: optim.epochs: expected a valid integer, not 'many'"),
    "nothing": ("optim.epochs=", ".*job.yaml: optim.epochs: expected a valid integer, not None"),
    "a date": ("name=2020-01-01", "--set name=2020-01-01: .*write dates and the like in quotes"),
    "a month that is none": ("name=2020-13-01", "--set name=2020-13-01: .* is no value"),
    "2000 brackets": ("name=" + "[" * 2000, "--set name=.* is no value"),
}


def cases(table: dict[str, tuple], columns: int) -> list:
    return [pytest.param(*row[:columns], marks=row[columns:], id=name) for name, row in table.items()]


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


@pytest.mark.parametrize(("text", "told"), cases(WRONG_TEXTS, 2))
def test_a_file_that_is_no_job_at_all(text: str | bytes, told: str, complain, tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.match(re.escape(str(file)) + told, complain(str(file)))


@pytest.mark.parametrize(("override", "told"), cases(WRONG_OVERRIDES, 2))
def test_a_wrong_override(override: str, told: str, complain, tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(GOOD)
    assert re.match(told, complain(str(file), "--set", override))


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


def test_a_file_that_cannot_be_read(complain, tmp_path: Path):
    (tmp_path / "near.yaml").write_text(GOOD)
    assert complain(str(tmp_path / "nera.yaml")) == (
        f"{tmp_path}/nera.yaml: there is no such job file; there are {tmp_path}/near.yaml"
    )
    assert complain(str(tmp_path / "no" / "job.yaml")) == f"{tmp_path}/no/job.yaml: there is no such job file"
    assert complain(str(tmp_path)) == f"{tmp_path}: a folder; name a job file in it"
    assert complain(str(tmp_path / "near.yaml" / "x")).endswith("cannot be read (Not a directory)")
    assert complain(str(tmp_path / ("x" * 300))).endswith("cannot be read (File name too long)")
    assert complain("/proc/self/mem") == "/proc/self/mem: cannot be read (Input/output error)"


def test_yaml_s_traps_for_numbers(tmp_path: Path):
    """YAML 1.1 reads 1e-3 as text. The rule is of our loader alone: other readers are not changed."""
    file = tmp_path / "job.yaml"
    for text, number in {
        "1e-3": 1e-3,
        "4E-3": 4e-3,
        "1.5e-3": 1.5e-3,
        "+1e-3": 1e-3,
        ".5e-1": 0.05,
        "2.e-1": 0.2,
        "3": 3.0,
    }.items():
        file.write_text(GOOD.replace("lr: 0.1", f"lr: {text}"))
        assert read(file).optim.lr == number and isinstance(read(file).optim.lr, float), text
        assert read(file, [f"optim.lr={text}"]).optim.lr == number, text
    for text in ("1e", "e3", "1e-3x", "1e-3.5"):
        with pytest.raises(JobError, match=r"optim\.lr: expected a valid number"):
            read(file, [f"optim.lr={text}"])
    assert yaml.safe_load("1e-3") == "1e-3"


@pytest.mark.parametrize("text", ["8/255", "8 / 255", "0.03137254901960784", '"8/255"'])
def test_a_fraction_is_read_exactly_and_written_as_one(text: str):
    job = parse(copy.deepcopy(TRAIN), [f"{EPSILON}={text}", "objective.attack.step_size=2/255"], "here")
    attack = job.objective.attack
    assert (attack.threat.epsilon, attack.step_size) == (8 / 255, 2 / 255)
    written = dump(job)["objective"]["attack"]
    assert (written["threat"]["epsilon"], written["step_size"]) == ("8/255", "2/255")
    assert json.loads(json.dumps(dump(job))) == dump(job)


def reread(job: Train | Evaluate | Prepare, folder: Path) -> Train | Evaluate | Prepare:
    file = folder / "written.yaml"
    file.write_text(yaml.safe_dump(dump(job), sort_keys=False))
    return read(file)


@jobs
def test_every_job_in_the_repository_is_read_resolved_written_and_read_back(path: Path, tmp_path: Path):
    job = read(path)
    whole = job if isinstance(job, Prepare) else job.resolved()
    for one in (job, whole):
        again = reread(one, tmp_path)
        assert again == one and digest(again) == digest(one) and differences(again, dump(one)) == []
    if not isinstance(whole, Prepare):
        assert whole.resolved() == whole
    if isinstance(whole, Train | Evaluate):
        assert whole.evaluation.threat is not None and whole.evaluation.attacks


def test_the_jobs_are_there():
    assert {path.stem for path in JOBS} >= {"digits", "mnist"}


RICH: list[dict] = [
    {
        "optim": {
            "name": "adamw",
            "lr": 1e-5,
            "epochs": 3,
            "betas": [0.8, 0.95],
            "eps": 1e-9,
            "clip_norm": 0.5,
            "ema": 0.999,
        }
    },
    {"optim.schedule": {"shape": "multistep", "milestones": [1, 1.5], "gamma": 0.2}, "optim.warmup_epochs": 0.5},
    {"optim.schedule": {"shape": "cyclic"}, WORKERS: {"min": 1, "max": 4}},
    {"objective": {"method": "natural"}, "evaluation.threat": {"norm": "l2", "epsilon": "128/255"}},
    {"objective": {"method": "fast", "attack": {"threat": {"norm": "linf", "epsilon": "8/255"}}}},
    {
        "objective": {
            "method": "trades",
            "beta": 1,
            "attack": {"threat": {"norm": "l2", "epsilon": 1e-3}, "step_size": "2/255"},
        }
    },
    {ATTACKS: [{"attack": "pgd", "num_steps": 9, "loss": "cw_margin", "kappa": 1, "n": 3}, {"attack": "autoattack"}]},
    {"validation.attack": {"threat": {"norm": "linf", "epsilon": "1/255"}, "restarts": 3, "step_schedule": "cosine"}},
    {"data": {"source": "folder", "root": "/a b/ü", "size": 32, "grey": True, "limit": 100}, "augment": {"flip": True}},
    {"model": {"arch": "torchvision", "name": "resnet18", "resize": 64}, "precision": "bfloat16"},
    {"model": {"arch": "wide_resnet", "depth": 28, "width": 0.1, "activation": "leaky_relu"}, "storage": "2020-01-01"},
    {"name": "no", "tracking": {"uri": "null", "experiment": "1_000"}},
]


@pytest.mark.parametrize("changes", RICH, ids=str)
def test_any_job_is_written_and_read_back(changes: dict, tmp_path: Path):
    one = parse(changed(TRAIN, changes), [], "here")
    for form in (one, one.resolved(), one.natural_twin().resolved() if one.evaluation.threat else one):
        assert reread(form, tmp_path) == form and digest(reread(form, tmp_path)) == digest(form)


def test_the_digest_is_of_what_is_meant_not_of_how_it_is_written(tmp_path: Path):
    """The order of keys, defaults written out, fractions, integers for floats: the same job."""
    plain = parse(copy.deepcopy(TRAIN), [], "here")
    backwards = {key: TRAIN[key] for key in reversed(TRAIN)}
    spelt = changed(TRAIN, {EPSILON: 8 / 255, "seed": 0, "optim.momentum": 0.9, "cluster": {}, "optim.weight_decay": 0})
    for document in (backwards, spelt, dump(plain)):
        same = parse(document, [], "there")
        assert same == plain and digest(same) == digest(plain)
    assert re.fullmatch("[0-9a-f]{64}", digest(plain))
    others = [{"seed": 1}, {EPSILON: "9/255"}, {"optim.lr": 0.2}, {WORKERS: 2}, {"data.store": "x"}]
    digests = {digest(parse(changed(TRAIN, change), [], "here")) for change in others}
    assert len(digests | {digest(plain)}) == 6


def test_the_digest_is_the_same_in_another_process():
    """Hashes of text and the order of sets differ from process to process: none may get in."""
    code = "import sys; from pathlib import Path; from distrib.job import *; print(digest(read(Path(sys.argv[1]))))"
    told = subprocess.run(
        [sys.executable, "-c", code, JOBS[0]], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert told.stdout.strip() == digest(read(JOBS[0])), told.stderr


def test_overrides_set_fields_as_if_they_were_written_in_the_file(tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(GOOD)
    overrides = {
        "optim.epochs": 7,
        "name": "u",
        "optim.lr": 1e-3,
        EPSILON: "4/255",
        "augment.flip": True,
        WORKERS: {"min": 1, "max": 2},
        "optim.clip_norm": None,
        "tracking.uri": "a=b=c",
        ATTACKS: [{"attack": "fgsm"}, {"attack": "pgd", "num_steps": 3}],
    }
    written = {
        path: json.dumps(value) if isinstance(value, (bool, dict, list)) or value is None else value
        for path, value in overrides.items()
    }
    found = read(file, [f"{path}={value}" for path, value in written.items()])
    assert found == parse(changed(TRAIN, overrides), [], "here")
    assert read(file, ["optim.epochs=3", "optim.epochs=4"]).optim.epochs == 4, "the last one holds"
    assert read(file, [" optim.epochs =3"]).optim.epochs == 3
    assert read(file) == parse(copy.deepcopy(TRAIN), [], "here") and file.read_text() == GOOD


def test_an_override_can_change_the_member_of_a_union_with_its_fields(tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(GOOD)
    assert read(file, ["optim.schedule={shape: cosine}"]).optim.schedule.shape == "cosine"
    assert read(file, ["objective.attack.threat.norm=l2", f"{EPSILON}=3"]).objective.attack.threat == L2(epsilon=3.0)


def test_an_override_changes_one_field_even_where_the_file_shares_it(tmp_path: Path):
    file = tmp_path / "job.yaml"
    shared = "&t {norm: linf, epsilon: 8/255}"
    text = f"objective: {{method: madry, attack: {{threat: {shared}}}}}\nevaluation: {{threat: *t}}\n"
    file.write_text(yaml.safe_dump({key: TRAIN[key] for key in TRAIN if key != "objective"}) + text)
    found = read(file, [f"{EPSILON}=0.1"])
    assert found.objective.attack.threat.epsilon == 0.1 and found.evaluation.threat.epsilon == 8 / 255


def test_parse_leaves_the_document_alone():
    document = copy.deepcopy(TRAIN)
    parse(document, ["optim.epochs=9", "augment.flip=true"], "here")
    assert document == TRAIN


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
    "augment.flip": (True, "False, not True"),
    "data.validation": (0.2, "0.1, not 0.2"),
    "precision": ("bfloat16", "float32, not bfloat16"),
    "evaluation.n": (5, "None, not 5"),
    "compare_natural": (True, "False, not True"),
    "register_as": ("r", "t, not r"),
    "optim.schedule": ({"shape": "cosine"}, None),
    "evaluation.attacks": ([{"attack": "fgsm"}], None),
}


def resolved(changes: dict[str, object]) -> Train:
    return parse(changed(TRAIN, changes), [], "here").resolved()


@pytest.mark.parametrize(("path", "value"), NO_DIFFERENCE.items())
def test_where_and_how_a_job_runs_is_no_difference(path: str, value: object):
    assert differences(resolved({path: value}), dump(resolved({}))) == []
    assert differences(resolved({}), dump(resolved({path: value}))) == []


def test_all_that_may_change_is_known_to_the_job():
    assert set(Train.model_fields) >= WHERE and {path.split(".")[0] for path in NO_DIFFERENCE} - {"data"} == WHERE


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, (value, _) in DIFFERENCE.items()])
def test_what_changes_the_result_is_a_difference_told_with_both_values(path: str, value: object):
    found = differences(resolved({}), dump(resolved({path: value})))
    told = DIFFERENCE[path][1]
    wider = {EPSILON: {EPSILON, "validation.attack.threat.epsilon", "evaluation.threat.epsilon"}}.get(path, {path})
    paths = {line.split(":")[0] for line in found}
    assert paths == wider if told else all(one.startswith(path) for one in paths) and paths
    assert told is None or f"{path}: {told}" in found
    assert len(differences(resolved({path: value}), dump(resolved({})))) == len(found)


def test_where_a_downloaded_set_lies_is_no_difference_but_another_folder_of_images_is():
    def at(source: str, root: str) -> Train:
        return resolved({"data": {"source": source, "root": root}})

    assert differences(at("mnist", "a"), dump(at("mnist", "b"))) == []


def test_another_folder_of_images_is_another_job():
    def at(root: str) -> Train:
        return resolved({"data": {"source": "folder", "root": root}})

    assert differences(at("cats"), dump(at("birds"))) == ["data.root: cats, not birds"]


def test_a_field_that_an_old_record_lacks_or_has_beyond_is_a_difference():
    record = dump(resolved({}))
    del record["seed"], record["optim"]["lr"]
    assert differences(resolved({}), record | {"future": 1}) == [
        "seed: 0, not None",
        "optim.lr: 0.1, not None",
        "future: None, not 1",
    ]


def frozen(value: object, seen: list) -> None:
    if hasattr(type(value), "model_fields"):
        for name in type(value).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(value, name, None)
            frozen(getattr(value, name), seen)
        seen.append(value)
    elif isinstance(value, tuple):
        for item in value:
            frozen(item, seen)
    else:
        assert not isinstance(value, (list, dict, set)), f"{value!r} can be changed in place"


@jobs
def test_no_part_of_a_job_can_be_changed(path: Path):
    job = read(path)
    before, seen = digest(job), []
    frozen(job, seen)
    assert len(seen) == len(re.findall(r"\w+\(", repr(job))) and digest(job) == before


def test_resolving_writes_out_what_depends_on_another_field():
    linf = Linf(epsilon=8 / 255)
    whole = resolved({})
    assert whole.evaluation.threat == linf and whole.register_as == whole.model_name == "t"
    assert whole.validation.attack == PGD(threat=linf, num_steps=10, step_size=OfEpsilon(of_epsilon=0.25))
    own = resolved({"evaluation.threat": {"norm": "l2", "epsilon": 1}, "register_as": "r"})
    assert own.evaluation.threat == own.validation.attack.threat == L2(epsilon=1.0) and own.model_name == "r"
    given = {"threat": {"norm": "linf", "epsilon": 0.5}, "num_steps": 3}
    assert resolved({"validation.attack": given}).validation.attack == PGD(threat=Linf(epsilon=0.5), num_steps=3)


def test_resolving_changes_nothing_that_was_written():
    for changes in RICH:
        one = parse(changed(TRAIN, changes), [], "here")
        assert {line.split(":")[0] for line in differences(one, dump(one.resolved()))} <= {
            "evaluation.threat",
            "evaluation.attacks",
            "validation.attack",
            "register_as",
        }


def test_the_natural_twin_differs_in_the_adversary_only():
    one = resolved({"compare_natural": True})
    twin = one.natural_twin()
    assert twin.objective.method == "natural" and isinstance(one.objective, Madry)
    assert {line.split(":")[0].split(".")[0] for line in differences(one, dump(twin))} == {
        "objective",
        "compare_natural",
    }
    assert parse(dump(twin), [], "here") == twin, "it would be a valid job"


def test_method_fast_takes_one_step_of_five_quarters_unless_told():
    fast = job(objective__method="fast")
    assert (fast.objective.attack.num_steps, fast.objective.attack.step(0)) == (1, pytest.approx(1.25 * 8 / 255))
    assert fast.objective.attack.random_start
    told = job(objective__method="fast", objective__attack__step_size="4/255")
    assert told.objective.attack.step(0) == 4 / 255

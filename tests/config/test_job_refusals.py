"""Bad job files: whatever is wrong is told by its path, in one line, and nothing is begun."""

import re
from pathlib import Path

import pytest
import yaml
from documents import ADAM, ATTACKS, BALL, EPSILON, EVALUATE, GONE, GOOD, PREPARE, STEP, TRAIN, WORKERS, changed

from distrib.cli import main
from distrib.config.file import LARGEST_FILE


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
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)

    def begun(*_: object) -> None:
        raise AssertionError("a bad job was begun")

    monkeypatch.setattr("distrib.cli.dispatch.run", begun)

    def command(*arguments: str) -> str:
        before = listing(tmp_path)
        status = main.main(["run", *arguments])
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
    "wrong tag": ({"optim.name": "adm"}, "optim", "name: 'adm' is none of sgd, adam, adamw (did you mean adam?)"),
    "wrong arch": ({"model.arch": "preact_resent"}, "model", "did you mean preact_resnet?"),
    "wrong source": ({"data.source": "minst"}, "data", "did you mean mnist?"),
    "wrong norm": ({"objective.threat.norm": "l1"}, BALL, "norm: 'l1' is none of linf, l2"),
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
        f"{ATTACKS}[0]",
        "batch_norm: an evaluation judges each image by itself; leave it out",
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
    "a threat in natural training": (
        {"objective.method": "natural"},
        "objective.threat",
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
    "few images a worker for BatchNorm": (
        {WORKERS: 9, "model.arch": "preact_resnet"},
        WORKERS,
        "9 workers have 14 of 128 images each, and preact_resnet has BatchNorm: each worker normalises by the "
        "statistics of its own images, and fewer than 16 give another network, or none; take at most 8, or raise "
        "optim.batch_size to 144",
    ),
    "few images for the most of elastic workers": (
        {WORKERS: {"min": 1, "max": 9}, "model.arch": "wide_resnet"},
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
    "no such depth either": ({"model": {"arch": "preact_resnet", "depth": 20}}, "model.depth", "20 is none of 18, 34"),
    "a model without width": ({"model": {"arch": "small_cnn", "width": 0}}, "model.width", "greater than 0, not 0"),
}

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

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcde", "bcdef", strict=True)
)
"""Two levels less than the 306 bytes that took 1.5 GB: what refuses these refuses those before they are written out."""
NEST = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [[[[[[[[[[*a{i - 1}]]]]]]]]]]\n" for i in range(1, 150))
"""No place in it is deeper than eleven levels, but with its aliases one is deeper than Python's stack."""

WRONG_TEXTS: dict[str, tuple] = {
    "empty": ("", ": a job is a mapping that begins with kind: prepare, train, evaluate, study or tune"),
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
    "a list in itself": (GOOD + "seed: &a [*a]\n", r":\d+:\d+: not YAML: an alias of itself"),
    "few bytes that mean many": (BOMB, r":\d+:\d+: not YAML: more than 1048576 characters with its aliases"),
    "aliases that nest": (NEST, r":\d+:\d+: not YAML: nested too deeply"),
    "sixties": (GOOD + "seed: 1" + ":59" * 20_000 + "\n", r":\d+:\d+: not YAML: a number of 60001 characters"),
    "no number": (GOOD + "seed: !!int ''\n", r":\d+:\d+: not YAML: '' is no int"),
    "no mapping": (GOOD + "seed: !!map x\n", r":\d+:\d+: not YAML: .*is no mapping"),
    "a list as a mapping": (GOOD + "seed: !!map [a]\n", r":\d+:\d+: not YAML: .*is no mapping"),
    "no date": (GOOD + "seed: !!timestamp x\n", r":\d+:\d+: not YAML: 'x' is no timestamp"),
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
    "no number": ("name=!!int ''", "--set name=!!int '': .* is no value"),
    "no mapping": ("name=!!map x", "--set name=!!map x: .* is no value"),
    "no date": ("name=!!timestamp x", "--set name=!!timestamp x: .* is no value"),
    "2000 levels": ("a." * 2000 + "b=1", "--set a.* nested too deeply"),
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

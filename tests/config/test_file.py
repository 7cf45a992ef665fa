"""Job files and overrides: YAML without its traps, and what is no job file at all."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml
from documents import (
    ATTACKS,
    EPSILON,
    GOOD,
    TRAIN,
    WORKERS,
    cases,
    changed,
)

from distrib.config.file import LARGEST_FILE, parse, read
from distrib.config.job import Train
from distrib.errors import JobError
from distrib.threat import L2

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
    "an element of none": ("optim[0]=3", r"--set optim\[0\]=3: there is no optim\[0\]: optim is no list"),
    "a bracket that is open": ("evaluation.attacks[0=3", r"--set evaluation.attacks\[0=3: write it as path"),
    "2000 levels": ("a." * 2000 + "b=1", "--set a.* nested too deeply"),
}


@pytest.mark.parametrize(("text", "told"), cases(WRONG_TEXTS, 2))
def test_a_file_that_is_no_job_at_all(text: str | bytes, told: str, complain, tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.match(re.escape(str(file)) + told, complain(str(file)))


LISTED = changed(TRAIN, {"evaluation.attacks": [{"attack": "fgsm"}, {"attack": "pgd", "num_steps": 20}]})


def test_an_element_of_a_list_is_set_and_taken_out():
    whole = parse(LISTED, ["evaluation.attacks[1].num_steps=50", "evaluation.attacks[0]={attack: square}"], "here")
    assert isinstance(whole, Train)
    assert [one.attack for one in whole.evaluation.attacks] == ["square", "pgd"]
    assert getattr(whole.evaluation.attacks[1], "num_steps", None) == 50
    less = parse(LISTED, [], "here", removals=["evaluation.attacks[0]"])
    assert isinstance(less, Train) and [one.attack for one in less.evaluation.attacks] == ["pgd"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("evaluation.attacks[9].n=3", "there is no attacks[9]: attacks has 2, counted from 0"),
        ("evaluation.attacks.n=3", "attacks is a list; name one of its elements, such as attacks[0]"),
        ("evaluation.attacks[0][1]=3", "there is no 0[1]: 0 is no list"),
    ],
)
def test_an_element_that_is_not_there_is_told(override: str, told: str):
    with pytest.raises(JobError, match=f"^--set {re.escape(override)}: {re.escape(told)}"):
        parse(LISTED, [override], "here")


def test_a_field_that_is_taken_out_has_its_default():
    job = parse(
        changed(TRAIN, {"seed": 7, "augment.flip": True}),
        ["augment.crop_padding=2"],
        "here",
        removals=["seed", "augment"],
    )
    assert isinstance(job, Train) and (job.seed, job.augment.flip, job.augment.crop_padding) == (0, False, 2)
    for gone in ("optim.nothing", "nothing.at.all", "evaluation.attacks[7]", ""):
        with pytest.raises(JobError, match=f"^--unset {re.escape(gone)}: "):
            parse(LISTED, [], "here", removals=[gone])


@pytest.mark.parametrize(("override", "told"), cases(WRONG_OVERRIDES, 2))
def test_a_wrong_override(override: str, told: str, complain, tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(GOOD)
    assert re.match(told, complain(str(file), "--set", override))


def test_a_file_that_cannot_be_read(complain, tmp_path: Path):
    (tmp_path / "near.yaml").write_text(GOOD)
    assert complain(str(tmp_path / "nera.yaml")) == (
        f"{tmp_path}/nera.yaml: there is no such job file; did you mean {tmp_path}/near.yaml?"
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


def test_a_path_may_be_text(tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(GOOD)
    assert read(str(file), ["name=u"]) == read(file, ["name=u"])
    with pytest.raises(JobError, match=f"^{re.escape(str(tmp_path))}/none.yaml: there is no such job file; there are "):
        read(f"{tmp_path}/none.yaml")
    with pytest.raises(JobError, match=f"no such job file; did you mean {re.escape(str(tmp_path))}/job.yaml\\?$"):
        read(f"{tmp_path}/job.yml")
    with pytest.raises(JobError, match=r"; distrib run digits runs the one that distrib brings$"):
        read(f"{tmp_path}/digits.yaml")


def test_an_override_can_change_the_member_of_a_union_with_its_fields(tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(GOOD)
    assert read(file, ["optim.schedule={shape: cosine}"]).optim.schedule.shape == "cosine"
    assert read(file, ["objective.threat.norm=l2", f"{EPSILON}=3"]).objective.threat == L2(epsilon=3.0)


def test_an_override_changes_one_field_even_where_the_file_shares_it(tmp_path: Path):
    file = tmp_path / "job.yaml"
    shared = "&t {norm: linf, epsilon: 8/255}"
    text = f"objective: {{method: madry, threat: {shared}}}\nevaluation: {{threat: *t}}\n"
    file.write_text(yaml.safe_dump({key: TRAIN[key] for key in TRAIN if key != "objective"}) + text)
    found = read(file, [f"{EPSILON}=0.1"])
    assert found.objective.threat.epsilon == 0.1 and found.evaluation.threat.epsilon == 8 / 255


def test_parse_leaves_the_document_alone():
    document = copy.deepcopy(TRAIN)
    parse(document, ["optim.epochs=9", "augment.flip=true"], "here")
    assert document == TRAIN

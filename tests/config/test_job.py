"""Sound job files: read, resolved, written and read back, told apart."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from adversaries import lengths
from documents import ATTACKS, EPSILON, TRAIN, TUNE, WORKERS, changed, job
from pydantic import ValidationError

from distrib.attack import PGD, Adversary, OfEpsilon
from distrib.config.differences import differences
from distrib.config.file import parse, read
from distrib.config.job import Evaluate, Prepare, Train, digest, dump
from distrib.errors import JobError
from distrib.objective import Madry
from distrib.search.space import trial_job
from distrib.threat import L2, Linf

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
SPACE = {"model.width": {"choice": [1]}}
jobs = pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)


@pytest.mark.parametrize("text", ["8/255", "8 / 255", "0.03137254901960784", '"8/255"'])
def test_a_fraction_is_read_exactly_and_written_as_one(text: str):
    job = parse(copy.deepcopy(TRAIN), [f"{EPSILON}={text}", "objective.attack.step_size=2/255"], "here")
    assert (job.objective.threat.epsilon, job.objective.attack.step_size) == (8 / 255, 2 / 255)
    written = dump(job)["objective"]
    assert (written["threat"]["epsilon"], written["attack"]["step_size"]) == ("8/255", "2/255")
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


def test_the_paper_s_job_attacks_by_the_statistics_of_the_batch():
    """As the authors' code does (MadryLab/cifar10_challenge: the attack is built on the model in train mode)."""
    assert read(JOBS[0].parent / "cifar10.yaml").objective.attack.batch_norm == "train"


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
    {"optim": {"name": "muon", "lr": 0.06, "rest_lr": 0.1, "epochs": 3, "momentum": 0.5, "newton_schulz_steps": 5}},
    {
        "objective": {
            "method": "n_fgsm",
            "noise": 1.5,
            "label_smoothing": 0.1,
            "threat": {"norm": "linf", "epsilon": "8/255"},
        }
    },
    {"optim.schedule": {"shape": "multistep", "milestones": [1, 1.5], "gamma": 0.2}, "optim.warmup_epochs": 0.5},
    {"optim.schedule": {"shape": "cyclic"}, WORKERS: {"min": 1, "max": 4}},
    {"objective": {"method": "natural"}, "evaluation.threat": {"norm": "l2", "epsilon": "128/255"}},
    {"objective": {"method": "fast", "threat": {"norm": "linf", "epsilon": "8/255"}}},
    {"objective": {"method": "fast", "threat": {"norm": "linf", "epsilon": 0.1}, "attack": {"batch_norm": "train"}}},
    {
        "objective": {
            "method": "trades",
            "beta": 1,
            "threat": {"norm": "l2", "epsilon": 1e-3},
            "attack": {"step_size": "2/255"},
        }
    },
    {ATTACKS: [{"attack": "pgd", "num_steps": 9, "loss": "cw_margin", "kappa": 1, "n": 3}, {"attack": "autoattack"}]},
    {
        "validation": {
            "threat": {"norm": "linf", "epsilon": "1/255"},
            "attack": {"restarts": 3, "step_schedule": "cosine"},
        }
    },
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
    code = "import sys; from pathlib import Path; from distrib.config.job import digest; "
    code += "from distrib.config.file import read; print(digest(read(Path(sys.argv[1]))))"
    told = subprocess.run(
        [sys.executable, "-c", code, JOBS[0]], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert told.stdout.strip() == digest(read(JOBS[0])), told.stderr


def resolved(changes: dict[str, object]) -> Train:
    return parse(changed(TRAIN, changes), [], "here").resolved()


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
    elif isinstance(value, dict):  # the space of a search, and settings that are mappings: pydantic has no frozen ones
        for item in value.values():
            frozen(item, seen)
    else:
        assert not isinstance(value, (list, set)), f"{value!r} can be changed in place"


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
    quarter = PGD(num_steps=10, step_size=OfEpsilon(of_epsilon=0.25))
    assert whole.objective.attack == whole.validation.attack == quarter and whole.examiner == Adversary(linf, quarter)
    own = resolved({"evaluation.threat": {"norm": "l2", "epsilon": 1}, "register_as": "r"})
    assert own.evaluation.threat == own.validation.threat == L2(epsilon=1.0) and own.model_name == "r"
    given = resolved({"validation": {"threat": {"norm": "linf", "epsilon": 0.5}, "attack": {"num_steps": 3}}})
    assert given.examiner == Adversary(Linf(epsilon=0.5), PGD(num_steps=3, step_size=OfEpsilon(of_epsilon=2.5 / 3)))
    assert given.evaluation.threat == linf


def test_the_same_words_are_the_same_attack_wherever_they_stand():
    """In training, validation, a search's score and an evaluation; also where a field is not given."""
    for words in ({}, {"num_steps": 7}, {"num_steps": 7, "step_size": "2/255"}, {"restarts": 2, "loss": "cw_margin"}):
        one = resolved({"objective.attack": words, "validation.attack": words, ATTACKS: [{"attack": "pgd", **words}]})
        judging = PGD(**{name: getattr(one.evaluation.attacks[0], name) for name in PGD.model_fields})
        assert one.objective.attack == one.validation.attack == judging.resolved(Linf(epsilon=8 / 255))
        search = parse(changed(TUNE, {"train.objective.attack": words, "score.attack": words, "space": SPACE}), [], "")
        assert search.resolved().train.objective.attack == search.resolved().score.attack == one.objective.attack


def test_a_step_size_that_is_not_given_follows_the_number_of_steps_that_is_searched():
    steps = "objective.attack.num_steps"
    search = parse(changed(TUNE, {"train.objective.attack": {}, "space": {steps: {"choice": [5, 20]}}}), [], "")
    for count in (5, 20):
        trial = trial_job(search.resolved(), 1, {steps: count})
        assert trial.objective.attack == PGD(num_steps=count, step_size=OfEpsilon(of_epsilon=2.5 / count))


def test_resolving_changes_nothing_that_was_written():
    for changes in RICH:
        one = parse(changed(TRAIN, changes), [], "here")
        assert {line.split(":")[0] for line in differences(one, dump(one.resolved()))} <= {
            "evaluation.threat",
            "evaluation.attacks",
            "validation.threat",
            "validation.attack.step_size",
            "objective.attack.step_size",
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
    attack, threat = fast.objective.attack, fast.objective.threat
    assert lengths(attack, threat) == pytest.approx([1.25 * 8 / 255]) and attack.random_start
    told = job(objective__method="fast", objective__attack__step_size="4/255")
    assert lengths(told.objective.attack, threat) == [4 / 255]


@pytest.mark.parametrize("blend", [{"augment__mixup": 0.2}, {"augment__cutmix": 1.0}])
@pytest.mark.parametrize(
    "objective", [{"objective__method": "mart"}, {"objective__attack": {"restarts": 2}},
                  {"objective__attack": {"loss": "cw_margin"}}, {"objective__attack": {"target": "random"}}],
)  # fmt: skip
def test_blended_images_need_a_loss_that_takes_shares(blend: dict, objective: dict):
    assert job(**blend).augment
    with pytest.raises(JobError, match=r"augment: mixup and cutmix give an image shares of several classes"):
        job(**blend, **objective)

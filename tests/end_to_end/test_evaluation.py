"""Evaluations as a person runs them: on one worker and on two, killed, by others' images, of others' models."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drive import JOB, call, command, environment, result_of, wait_for
from safetensors.torch import load_file, save_file

SHARDED = [
    "evaluation.n=60", "evaluation.shard_size=20", "attach=false",
    "evaluation.attacks=[{attack: fgsm}, {attack: pgd, num_steps: 10, restarts: 3},"
    " {attack: square, queries: 200, meets: standing}]",
]  # fmt: skip

pytestmark = pytest.mark.timeout(900)  # the first test's time holds the trainings and evaluations that all look at


def evaluation(name: str, *overrides: str) -> list[str]:
    sets = [word for override in (f"name={name}", *overrides) for word in ("--set", override)]
    return command("run", JOB.parent / "evaluate-digits.yaml", "--json", *sets)


def figures(result: dict) -> dict:
    changing = ("name", "run_id", "seconds", "attack_seconds", "images_per_second", "num_workers", "job_digest", "card")
    return {key: value for key, value in result.items() if key not in changing}


def kept(workplace: Path, name: str) -> dict[str, bytes]:
    """The worst images of each shard of a run."""
    return {path.name: path.read_bytes() for path in (workplace / "runs" / name / "evaluation").glob("*.safetensors")}


@pytest.fixture(scope="session")
def on_two(finished: dict, workplace: Path) -> dict:
    return result_of(call(evaluation("on-two", *SHARDED, "cluster.num_workers=2"), workplace))


@pytest.mark.slow
def test_one_worker_and_two_find_the_same_to_the_last_bit(on_two: dict, workplace: Path):
    on_one = result_of(call(evaluation("on-one", *SHARDED, "cluster.num_workers=1"), workplace))
    assert figures(on_one) == figures(on_two) and (on_one["num_workers"], on_two["num_workers"]) == (1, 2)
    assert on_two["n"] == 60 and on_two["cumulative"] == ["square-200"] and len(on_two["restarts"]["pgd-10x3"]) == 3
    assert kept(workplace, "on-one") == kept(workplace, "on-two") and len(kept(workplace, "on-one")) == 3


@pytest.mark.slow
def test_so_does_autoattack(finished: dict, workplace: Path):
    overrides = (*SHARDED[:3], "evaluation.attacks=[{attack: autoattack}]")
    one, two = (
        result_of(call(evaluation(f"auto-{n}", *overrides, f"cluster.num_workers={n}"), workplace)) for n in (1, 2)
    )
    assert figures(one) == figures(two) and list(one["stages"]) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert kept(workplace, "auto-1") == kept(workplace, "auto-2")


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_finds_the_same(on_two: dict, workplace: Path):
    words = evaluation("killed", *SHARDED, "cluster.num_workers=2")
    folder = workplace / "runs" / "killed" / "evaluation"
    with (workplace / "killed.log").open("w") as log:
        driver = subprocess.Popen(
            words, cwd=workplace, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
    wait_for(lambda: list(folder.glob("*.json")), driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait(timeout=30)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert 0 < len(before) < 3 and not (folder.parent / "result.json").exists()
    again = result_of(call(words, workplace))
    assert figures(again) == figures(on_two) and kept(workplace, "killed") == kept(workplace, "on-two")
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert len(after) == 3 and all(after[name] == moment for name, moment in before.items()), "done once"


@pytest.mark.slow
def test_damaged_images_of_a_shard_are_made_again(on_two: dict, workplace: Path):
    """The stored images are what is believed: without them a shard is not done."""
    source, target = workplace / "runs" / "on-two", workplace / "runs" / "damaged"
    (target / "evaluation").mkdir(parents=True)
    for path in (source / "evaluation").iterdir():
        shutil.copy(path, target / "evaluation" / path.name)
    first, second, _ = sorted((target / "evaluation").glob("*.safetensors"))
    first.write_bytes(b"x" * 100)
    second.unlink()
    assert figures(result_of(call(evaluation("damaged", *SHARDED), workplace))) == figures(on_two)
    assert kept(workplace, "damaged") == kept(workplace, "on-two")


@pytest.fixture(scope="session")
def exported(on_two: dict, workplace: Path) -> Path:
    folder = workplace.parent / "exported"
    done = call(command("export", "runs/on-two", folder), workplace)
    assert done.returncode == 0, done.stderr
    return folder


def test_an_exported_set_is_whole_and_its_own_script_agrees(exported: Path, on_two: dict, workplace: Path):
    tensors, spec = load_file(exported / "adversarial.safetensors"), json.loads((exported / "attack.json").read_text())
    delta = (tensors["x_adv"] - tensors["x"].float() / 255).abs()
    assert tensors["x_adv"].shape == (60, 1, 8, 8) and delta.max() <= spec["epsilon"] + 1e-6 and delta.max() > 0.19
    assert 1 - tensors["broken"].float().mean() == pytest.approx(on_two["robust_accuracy"])
    assert spec["adversarial_accuracy"] == pytest.approx(on_two["robust_accuracy"]) and spec["n"] == 60
    assert (spec["robust_accuracy"], spec["robust_accuracy_n"]) == (on_two["robust_accuracy"], 60)
    pulled = workplace.parent / "for-validation"
    assert call(command("pull", "models:/digits/1", pulled), workplace).returncode == 0
    done = call([sys.executable, "validate.py", pulled / "model"], exported)
    assert done.returncode == 0, done.stderr
    assert f"adversarial accuracy  {on_two['robust_accuracy']:.2%}" in done.stdout


@pytest.mark.slow
def test_where_some_images_met_no_attack_nothing_is_claimed_of_them(finished: dict, workplace: Path):
    """A misclassified image counts as broken in the set, and the second look at it is no disagreement."""
    few = ("evaluation.n=200", "attach=false", "evaluation.attacks=[{attack: fgsm, n: 20}]")
    result = result_of(call(evaluation("few", *few), workplace))
    assert result["n"] == 20 and result["n_clean"] == 200 and result["clean_accuracy"] < 1
    assert "stored_examples_disagree" not in [flag["name"] for flag in result["flags"]]
    done = call(command("export", "runs/few", workplace.parent / "few"), workplace)
    assert done.returncode == 0, done.stderr
    tensors = load_file(workplace.parent / "few" / "adversarial.safetensors")
    assert tensors["clean"][20:].min() == 0, "some that nobody attacked are misclassified"
    assert (tensors["broken"] >= 1 - tensors["clean"]).all()
    first = next((workplace / "runs" / "few" / "evaluation").glob("*.safetensors"))
    first.unlink()
    done = call(command("export", "runs/few", workplace.parent / "gone"), workplace)
    assert done.returncode == 2 and "not every shard" in done.stderr and "Traceback" not in done.stderr
    assert not (workplace.parent / "gone").exists()
    (workplace / "runs" / "few" / "result.json").unlink()  # the cure that it names
    assert figures(result_of(call(evaluation("few", *few), workplace))) == figures(result)
    assert call(command("export", "runs/few", workplace.parent / "gone"), workplace).returncode == 0


@pytest.mark.slow
def test_a_model_under_another_address_is_no_other_model(finished: dict, workplace: Path):
    source = f"evaluation.attacks=[{{attack: transfer, source: {finished['checkpoint']}, num_steps: 2}}]"
    done = call(evaluation("twin", source, "evaluation.n=50", "attach=false", "model=models:/digits/1"), workplace)
    assert done.returncode == 2 and "is the judged model itself" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["x_adv"][3].add_(0.01), "1 images lie outside the linf ball of 0.2"),
        (lambda t: t["x_adv"][3].sub_(2), "outside [0, 1]"),
        (lambda t: t["x_adv"][3].fill_(float("nan")), "1 images lie outside"),
        (lambda t: t["index"][:2].fill_(7), "indices that are twice or not in the set"),
        (lambda t: t.update(x_adv=t["x_adv"].half()), "not float32"),
    ],
    ids=["too far", "out of the box", "not a number", "an index twice", "half precision"],
)
def test_the_script_refuses_images_that_break_the_rules(
    exported: Path, workplace: Path, tmp_path: Path, change, words: str
):
    tensors = load_file(exported / "adversarial.safetensors")
    change(tensors)
    save_file({name: tensors[name] for name in ("x_adv", "index")}, tmp_path / "mine.safetensors")
    done = call([sys.executable, "validate.py", "no-model", "--images", tmp_path / "mine.safetensors"], exported)
    assert done.returncode == 1 and words in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_a_plain_program_meets_others_images_and_those_of_another_model(
    exported: Path, on_two: dict, finished: dict, workplace: Path
):
    program = next((workplace / "mlartifacts").rglob("*.pt2"))
    source = sorted((workplace / "runs" / "digits" / "robust").glob("epoch-*"))[0]
    others = f"{{attack: transfer, source: {source}}}, {{attack: stored, path: {exported}}}"
    overrides = (*SHARDED[:3], f"model={program}", f"evaluation.attacks=[{{attack: pgd, num_steps: 20}}, {others}]")
    result = result_of(call(evaluation("plain", *overrides), workplace))
    white, transferred, stored = result["attacks"].values()
    name = list(result["attacks"])[2]
    assert re.fullmatch(rf"stored-{'-'.join(exported.parts[-2:])}-\w{{6}}", name), "the mark is of the whole path"
    assert stored == on_two["robust_accuracy"] and transferred <= result["clean_accuracy"]
    assert result["robust_accuracy"] <= min(white, transferred, stored) and result["tier"] == "custom"


def test_a_pickle_is_loaded_only_if_it_is_trusted(finished: dict, workplace: Path):
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), workplace.parent / "plain.pt")
    overrides = (*SHARDED[:3], f"model={workplace.parent / 'plain.pt'}")
    refused = call(evaluation("pickle", *overrides), workplace)
    assert refused.returncode == 2 and "trust_pickle: true" in refused.stderr and "Traceback" not in refused.stderr

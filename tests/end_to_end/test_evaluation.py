"""Evaluations as a person runs them: on one worker and on two, killed, by others' images, of others' models."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drive import JOB, call, call_here, command, environment, result_of, wait_for
from safetensors.torch import load_file, save_file

SHARDED = [
    "evaluation.n=60", "evaluation.shard_size=20", "attach=false",
    "evaluation.attacks=[{attack: fgsm}, {attack: pgd, num_steps: 10, restarts: 3},"
    " {attack: square, queries: 200, meets: standing}]",
]  # fmt: skip
WITH_AUTOATTACK = [*SHARDED[:3], SHARDED[3].replace("]", ", {attack: autoattack}]")]

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


@pytest.mark.slow
def test_one_worker_and_two_find_the_same_to_the_last_bit(finished: dict, workplace: Path):
    """By AutoAttack as by the others."""
    one, two = (
        result_of(call(evaluation(f"on-{n}", *WITH_AUTOATTACK, f"cluster.num_workers={n}"), workplace)) for n in (1, 2)
    )
    assert figures(one) == figures(two) and (one["num_workers"], two["num_workers"]) == (1, 2)
    assert two["n"] == 60 and two["cumulative"] == ["square-200"] and len(two["restarts"]["pgd-10x3"]) == 3
    assert list(one["stages"]) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert kept(workplace, "on-1") == kept(workplace, "on-2") and len(kept(workplace, "on-1")) == 3


@pytest.fixture(scope="session")
def on_two(finished: dict, workplace: Path) -> dict:
    return result_of(call(evaluation("on-two", *SHARDED, "cluster.num_workers=2"), workplace))


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


@pytest.fixture(scope="session")
def exported(judged: dict, workplace: Path) -> Path:
    """The set of the evaluation that all look at, whose images lie in three shards."""
    folder = workplace.parent / "exported"
    done = call_here(command("export", f"runs/{judged['name']}", folder), workplace)
    assert done.returncode == 0, done.stderr
    return folder


def test_an_exported_set_is_whole_and_its_own_script_agrees(exported: Path, judged: dict, workplace: Path):
    tensors, spec = load_file(exported / "adversarial.safetensors"), json.loads((exported / "attack.json").read_text())
    delta = (tensors["x_adv"] - tensors["x"].float() / 255).abs()
    assert tensors["x_adv"].shape == (450, 1, 8, 8) and delta.max() <= spec["epsilon"] + 1e-6 and delta.max() > 0.19
    assert len(kept(workplace, judged["name"])) == 3 and sorted(tensors["index"].tolist()) == list(range(450))
    assert 1 - tensors["broken"].float().mean() == pytest.approx(judged["robust_accuracy"])
    assert spec["adversarial_accuracy"] == pytest.approx(judged["robust_accuracy"]) and spec["n"] == 450
    assert (spec["robust_accuracy"], spec["robust_accuracy_n"]) == (judged["robust_accuracy"], 450)
    pulled = workplace.parent / "for-validation"
    assert call_here(command("pull", "models:/digits/1", pulled), workplace).returncode == 0
    done = call([sys.executable, "validate.py", pulled / "model"], exported)
    assert done.returncode == 0, done.stderr
    assert f"adversarial accuracy  {judged['robust_accuracy']:.2%}" in done.stdout


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
    exported: Path, tmp_path: Path, change, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """In this process, where torch is there already: that the script needs nothing else, the test above says."""
    tensors = load_file(exported / "adversarial.safetensors")
    change(tensors)
    save_file({name: tensors[name] for name in ("x_adv", "index")}, tmp_path / "mine.safetensors")
    monkeypatch.setattr(sys, "argv", ["validate.py", "no-model", "--images", str(tmp_path / "mine.safetensors")])
    monkeypatch.syspath_prepend(exported)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(exported / "validate.py"), run_name="__main__")
    told = capsys.readouterr()
    assert ended.value.code == 1 and words in told.out, told


@pytest.mark.slow
def test_a_plain_program_meets_others_images_and_those_of_another_model(on_two: dict, finished: dict, workplace: Path):
    exported = workplace.parent / "exported-60"
    assert call_here(command("export", "runs/on-two", exported), workplace).returncode == 0
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
    refused = call_here(evaluation("pickle", *overrides), workplace)
    assert refused.returncode == 2 and "trust_pickle: true" in refused.stderr and "Traceback" not in refused.stderr

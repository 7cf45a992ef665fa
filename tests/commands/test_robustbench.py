"""A run's model for RobustBench's zoo: it computes the same there, and the claim says no more than the run found."""

import json
import runpy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo_nets
from documents import EVALUATE, TRAIN, changed

from distrib.checkpoints import save_checkpoint
from distrib.cli import verbs
from distrib.cli.parser import parser
from distrib.commands.robustbench import robustbench
from distrib.config.file import parse
from distrib.config.job import Evaluate, Train, dump
from distrib.data.arrays import pack
from distrib.errors import InputError
from distrib.files import write_json
from distrib.models import PreActResNet, WideResNet
from distrib.optim import SGD
from distrib.state import State
from distrib.tracking.display import Display

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
JUDGED = {
    "clean_accuracy": 0.9, "n_clean": 1000, "norm": "linf", "epsilon": 8 / 255, "seed": 3, "n": 1000,
    "attacks": {"fgsm": 0.6, "pgd-20": 0.5, "autoattack": 0.44123}, "cumulative": [],
    "attacks_n": {"fgsm": 1000, "pgd-20": 1000, "autoattack": 1000}, "attack_seconds": {"autoattack": 12.25},
    "largest_change": {"autoattack": 0.0313725}, "stages": {"apgd-ce": 0.47, "apgd-t": 0.44123},
    "evaluation_key": "key", "flags": [],
}  # fmt: skip
NAMES = [f"class {i}" for i in range(10)]
SMALL = {"arch": "wide_resnet", "depth": 10, "width": 1.0}


def run_of(room: Path, kind: type = Train, model: dict = SMALL, mix: Sequence[dict] = (), **result: object) -> Path:
    """The folder of a run with a checkpoint of weights that were drawn, and a result."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        images = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
        pack(room / f"{part}.safetensors", images, np.arange(40) % 10, NAMES)
    data = {"source": "arrays", "train": str(room / "train.safetensors"), "test": str(room / "test.safetensors"),
            "store": str(room / "store"), "validation": 0.25}  # fmt: skip
    mixed = data | {"mix": list(mix)}
    train = parse(
        changed(TRAIN, {"data": mixed, "optim.batch_size": 8, "loader": "memory", "model": model}), [], "here"
    )
    assert isinstance(train, Train)
    net = zoo_nets.drawn(train.model, MEAN, STD)
    state = State(net, SGD(name="sgd", lr=0.1, epochs=1), 1)
    kept = save_checkpoint(state, room / "states" / "epoch-00001", [{}], dump(train.resolved()), "digest")
    changes = {"data": data, "loader": "memory", "model": str(kept.folder)}
    job = train if kind is Train else parse(changed(EVALUATE, changes), [], "here")
    assert isinstance(job, Train | Evaluate)
    (room / "run").mkdir()
    write_json(room / "run" / "job.json", {"job": dump(job.resolved())})
    write_json(room / "run" / "result.json", JUDGED | {"checkpoint": str(kept.folder)} | result)
    return room / "run"


@pytest.mark.parametrize("model", [SMALL, {"arch": "preact_resnet"}], ids=["wide_resnet", "preact_resnet"])
@pytest.mark.parametrize("kind", [Train, Evaluate])
def test_the_zoo_s_network_with_these_weights_gives_the_same_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict, kind: type
):
    run = run_of(tmp_path, kind, model)
    robustbench(run, tmp_path / "out", Display())
    zoo_nets.put_in_place(monkeypatch)
    definition = runpy.run_path(str(tmp_path / "out" / "model.py"))
    name = "TNet" if kind is Train else "ENet"
    theirs = definition[name]()
    weights = torch.load(tmp_path / "out" / f"{name[:-3]}.pt", weights_only=True)
    theirs.load_state_dict(weights)
    value = WideResNet(depth=10, width=1.0) if model is SMALL else PreActResNet()
    ours = zoo_nets.drawn(value, MEAN, STD)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x), ours(x))


def test_the_claim_says_what_the_run_found_and_leaves_the_rest_open(tmp_path: Path):
    claim = robustbench(run_of(tmp_path), tmp_path / "out", Display())
    (file,) = (tmp_path / "out" / "model_info").rglob("*.json")
    assert json.loads(file.read_text()) == claim and file.parent.name == "Linf"
    assert claim == {
        "link": "", "name": "", "authors": "", "additional_data": False, "number_forward_passes": 1,
        "dataset": "arrays", "venue": "", "architecture": "WideResNet-10-1", "eps": "8/255", "clean_acc": "90.00",
        "reported": "44.12", "autoattack_acc": "44.12", "footnote": "AutoAttack on 1000 test images (seed 3).",
        "unreliable": False,
    }  # fmt: skip
    log = (tmp_path / "out" / "autoattack.log").read_text().splitlines()
    assert log[:4] == [
        "using standard version including apgd-ce, apgd-t", "initial accuracy: 90.00% (1000 images)",
        "robust accuracy after APGD-CE: 47.00%", "robust accuracy after APGD-T: 44.12%",
    ]  # fmt: skip
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "44.12 %" in readme and "{" not in readme


def test_what_makes_the_figure_less_than_it_seems_is_said(tmp_path: Path):
    flag = {"name": "x", "blocking": True, "detail": "", "examples": []}
    run = run_of(tmp_path, cumulative=["autoattack"], flags=[flag])
    claim = robustbench(run, tmp_path / "out", Display())
    assert claim["unreliable"] and claim["footnote"].endswith(", of which it met what fgsm, pgd-20 had left.")
    assert "had left were attacked" in (tmp_path / "out" / "autoattack.log").read_text()
    readme = (tmp_path / "out" / "README.md").read_text()
    assert claim["footnote"] in readme


def test_images_from_elsewhere_make_additional_data(tmp_path: Path):
    pack(tmp_path / "more.safetensors", np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10, NAMES)
    mix = [{"source": "arrays", "path": str(tmp_path / "more.safetensors"), "share": 0.25}]
    assert robustbench(run_of(tmp_path, mix=mix), tmp_path / "out", Display())["additional_data"]


@pytest.mark.parametrize(
    ("result", "model", "told"),
    [
        ({"attacks": {"fgsm": 0.6}}, SMALL, "judge with tier: standard"),
        ({"norm": "l1"}, SMALL, "judge with tier: standard"),
        ({}, SMALL | {"activation": "silu"}, "this network is none of them"),
    ],
    ids=["without AutoAttack", "L1", "SiLU"],
)
def test_what_robustbench_does_not_take_is_refused_and_nothing_written(
    tmp_path: Path, result: dict, model: dict, told: str
):
    with pytest.raises(InputError, match=told):
        robustbench(run_of(tmp_path, model=model, **result), tmp_path / "out", Display())
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_no_checkpoint_is_refused_with_the_cure(tmp_path: Path):
    run = run_of(tmp_path, Evaluate)
    record = json.loads((run / "job.json").read_text())
    record["job"]["model"] = "models:/m/1"
    write_json(run / "job.json", record)
    with pytest.raises(InputError, match=r"judged models:/m/1, no checkpoint folder; judge the one"):
        robustbench(run, tmp_path / "out", Display())


def test_the_command_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, folder = run_of(tmp_path), tmp_path / "out"
    assert verbs.carry_out(parser().parse_args(["export", str(run), str(folder), "--robustbench"])) == 0
    told = "WideResNet-10-1, clean 90.00 %, AutoAttack 44.12 %"
    files = "README.md, T.pt, autoattack.log, model.py, model_info"
    assert capsys.readouterr().out == f"{told} in {folder}: {files}\n"

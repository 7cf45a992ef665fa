"""An end evaluation without Ray: what it is kept under, and what it refuses."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distrib.cluster import evaluate as spread
from distrib.cluster import messages
from distrib.cluster.resources import Node, Resources
from distrib.commands.evaluate import card_of, evaluated, in_figures, of_tensors
from distrib.commands.models import ModelFinder
from distrib.config.file import parse
from distrib.data.beton import open_split
from distrib.errors import InputError, JobError
from distrib.evaluation.models import Weights
from distrib.models import PreActResNet, SmallCNN, WideResNet
from distrib.tracking.display import Display


@pytest.fixture
def run(digits: Path, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What of an open run counts here: an evaluate job on digits, whose tasks run in this process."""
    monkeypatch.setattr(
        spread, "map_tasks", lambda function, shared, items, workers: ((one, function(shared, *one)) for one in items)
    )
    monkeypatch.setattr(messages, "listening", nullcontext)
    monkeypatch.setattr(spread, "post", lambda *told: None)
    evaluation = {"threat": {"norm": "linf", "epsilon": 0.1}, "attacks": [{"attack": "fgsm"}], "n": 20}
    document = {"kind": "evaluate", "name": "e", "model": "m", "data": {"source": "digits"}, "evaluation": evaluation}
    job: Any = parse(document, ["loader=memory"], "here")
    test = open_split(digits, "test", "evaluation")
    return SimpleNamespace(
        job=job.resolved(), data=digits, folder=tmp_path, display=Display(), test=test, use_gpu=False,
        resources=Resources((Node(1),), local=True), models=ModelFinder(test, "memory", "", False, print),
    )  # fmt: skip


def test_the_same_again_is_not_judged_again_and_another_model_is(
    run: Any, weights: Weights, monkeypatch: pytest.MonkeyPatch
):
    first = evaluated(run, weights, "a model")
    done: list[object] = []
    monkeypatch.setattr(spread, "judge_shard", lambda *values: done.append(values))
    again = evaluated(run, weights, "a model")
    assert done == [] and (again.key, again.result.attacks) == (first.key, first.result.attacks)
    assert "judged (clean " in in_figures(first.result, run.folder)
    with pytest.raises(TypeError):  # judged anew, by the stand-in
        evaluated(run, replace(weights, path=_other(weights, run.folder)), "another")
    assert done


def _other(weights: Weights, folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights.path)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, folder / "other.safetensors")
    return folder / "other.safetensors"


def test_the_card_tells_what_was_judged_and_shows_its_images(run: Any, weights: Weights):
    found = evaluated(run, weights, "a model")
    card, files = card_of(run, found, "models:/m/1")
    assert (card.model, card.data, card.claim.n) == ("models:/m/1", "digits", 20)
    assert {"card.json", "card.md", "card.html", "examples.csv"} <= set(files)


def test_a_model_does_not_attack_itself(run: Any, weights: Weights, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ModelFinder, "at", lambda self, address: weights)
    transfer = {"threat": {"norm": "linf", "epsilon": 0.1}, "attacks": [{"attack": "transfer", "source": "it"}]}
    document = {"kind": "evaluate", "name": "e", "model": "m", "data": {"source": "digits"}, "evaluation": transfer}
    job: Any = parse(document, [], "here")
    run.job = job.resolved()
    with pytest.raises(JobError, match="it is the judged model itself"):
        evaluated(run, weights, "a model")


def asked(run: Any, path: Path, **fields: object) -> Any:
    """The same run, of a job that names the file and the network of its tensors."""
    document = {"kind": "evaluate", "name": "e", "model": str(path), "data": {"source": "digits"},
                "evaluation": {"threat": {"norm": "linf", "epsilon": 0.1}}, **fields}  # fmt: skip
    job: Any = parse(document, ["loader=memory"], "here")
    return SimpleNamespace(**vars(run) | {"job": job})


def test_tensors_become_the_network_that_the_job_names(run: Any, tmp_path: Path):
    torch.manual_seed(1)
    net = SmallCNN(width=0.25).build((1, 8, 8), 10, [0.4], [0.2]).eval()
    theirs = {f"module.{k}": v for k, v in net.state_dict().items() if not k.startswith("normalise.")}
    torch.save(theirs, tmp_path / "w.pt")
    x = torch.rand(4, 1, 8, 8)
    network = {"arch": "small_cnn", "width": 0.25}
    one = asked(run, tmp_path / "w.pt", network=network, normalise={"mean": [0.4], "std": [0.2]})
    module = of_tensors(one, one.job.network).load(torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(module(x), net(x))
    two = asked(run, tmp_path / "w.pt", network=network)  # by the mean and std of the data
    module = of_tensors(two, two.job.network).load(torch.device("cpu"))
    assert module.get_submodule("normalise").mean.flatten().tolist() == pytest.approx(list(run.test.card.mean))


@pytest.mark.parametrize(
    ("value", "network", "theirs"),
    [
        (
            WideResNet(depth=10, width=1.0),
            {"arch": "wide_resnet", "depth": 10, "width": 1.0},
            (
                ("group", "block"), (".0.norm", ".layer.0.bn"), (".0.conv", ".layer.0.conv"), ("stem.", "conv1."),
                (".0.shortcut.", ".layer.0.convShortcut."), ("norm.", "bn1."), ("classifier.", "fc."),
            ),
        ),
        (
            PreActResNet(width=0.0625),
            {"arch": "preact_resnet", "width": 0.0625},
            (
                ("group", "layer"), (".norm1", ".bn1"), (".norm2", ".bn2"), ("stem.", "conv1."), ("norm.", "bn."),
                (".shortcut.", ".shortcut.0."), ("classifier.", "linear."),
            ),
        ),
    ],
    ids=["wide_resnet", "preact_resnet"],
)  # fmt: skip
def test_the_names_of_robustbench_s_networks_are_known(
    run: Any, tmp_path: Path, value: WideResNet | PreActResNet, network: dict, theirs: tuple
):
    torch.manual_seed(1)
    net = value.build((1, 8, 8), 10, [0.0], [1.0]).eval()
    state = {}
    for name, tensor in net.state_dict().items():
        if name.startswith("normalise."):
            continue
        top = "." not in name.partition(".")[2]
        for ours, others in theirs:
            if name.startswith(ours) or (not top and ours.startswith(".") and ours in name):
                name = name.replace(ours, others, 1)
        state[name] = tensor
    assert not state.keys() & net.state_dict().keys()
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    one = asked(run, tmp_path / "w.pt", network=network, normalise={"mean": [0.0], "std": [1.0]})
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(of_tensors(one, one.job.network).load(torch.device("cpu"))(x), net(x))


def test_tensors_of_another_network_are_refused_with_the_cure(run: Any, tmp_path: Path):
    torch.save(SmallCNN(width=0.5).build((1, 8, 8), 10, [0.4], [0.2]).state_dict(), tmp_path / "w.pt")
    one = asked(run, tmp_path / "w.pt", network={"arch": "small_cnn", "width": 0.25})
    with pytest.raises(InputError, match=r"^model: .*w\.pt does not fit: .*; set network to the one"):
        of_tensors(one, one.job.network)


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        ("models:/m/1", {"network": {"arch": "small_cnn"}}, r"network: is for a file of tensors"),
        (
            "w.pt",
            {"normalise": {"mean": [0.0], "std": [1.0]}},
            r"normalise: is for a file of tensors; name its network",
        ),
        ("w.pt", {"network": {"arch": "small_cnn"}, "normalise": {"mean": [0.0], "std": [0.0]}}, r"normalise\.std"),
    ],
)
def test_a_network_without_a_file_of_tensors_is_refused(run: Any, model: str, fields: dict, words: str):
    with pytest.raises(JobError, match=words):
        asked(run, Path(model) if not model.startswith("models") else model, **fields)  # pyright: ignore

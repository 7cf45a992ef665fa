"""An end evaluation without Ray: what it is kept under, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distrib.cluster import evaluate as spread
from distrib.cluster.resources import Node, Resources
from distrib.commands.evaluate import card_of, evaluated, in_figures
from distrib.commands.models import ModelFinder
from distrib.config.file import parse
from distrib.data.beton import open_split
from distrib.errors import JobError
from distrib.evaluation.models import Weights
from distrib.tracking.display import Display


@pytest.fixture
def run(digits: Path, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What of an open run counts here: an evaluate job on digits, whose tasks run in this process."""
    monkeypatch.setattr(
        spread, "map_tasks", lambda function, shared, items, workers: ((one, function(shared, *one)) for one in items)
    )
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

"""The studies where the answer is known: a linear model, a model that hides its gradient, made-up counts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from distrib.attack import PGD, OfEpsilon
from distrib.commands.prepare import must_suffice
from distrib.config.file import parse
from distrib.config.job import Study
from distrib.config.study import StudyOf
from distrib.data.beton import open_split
from distrib.errors import JobError
from distrib.studies import capacity, curves, landscape, transfer
from distrib.studies.findings import Expectation, Findings
from distrib.studies.task import StudyTask
from distrib.threat import Linf

STUDY = TypeAdapter(StudyOf)
THREAT = {"norm": "linf", "epsilon": 0.1}


@dataclasses.dataclass(frozen=True)
class Given:
    """A module as a subject."""

    module: nn.Module

    def load(self, device: torch.device) -> nn.Module:
        return self.module.eval()


class Linear(nn.Module):
    """Ten classes by fixed random weights, on 64 pixels."""

    def __init__(self, seed: int = 0, hide: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64, generator=torch.Generator().manual_seed(seed)))
        self.hide = hide

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 64).round() / 64 if self.hide else x  # no gradient
        return x.flatten(1) @ self.weight.T


def labelled(**models: str) -> list[dict]:
    return [{"label": label, "model": model} for label, model in models.items()]


def read(**fields: object):
    return STUDY.validate_python(fields, strict=False)


def task(study: object, folder: Path, **modules: nn.Module) -> StudyTask:
    return StudyTask(study, {name: Given(module) for name, module in modules.items()}, folder, "memory", 1, False)


def carried_out(study: object, module: object, found: StudyTask, parts: list[tuple]) -> dict[tuple, dict]:
    return {one: module.part(found, *one) for one in parts}


def test_losses_are_recorded_before_each_step_and_after_the_last():
    """On two classes the loss is softplus of the margin, and each step moves the margin by step * ||w||_1."""
    weight = torch.stack([torch.ones(64), -torch.ones(64)]) * 0.1
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    model[1].weight.data = weight
    attack = PGD(threat=Linf(epsilon=0.3), num_steps=4, step_size=0.05)
    x = torch.full((2, 1, 8, 8), 0.5)
    end, losses = landscape.climb(model, attack, x, torch.tensor([0, 1]), x)
    # class 0 prefers bright pixels: the attack darkens them, by 0.05 a step, on 64 pixels of weight difference 0.2
    margins = [64 * 0.2 * (0.5 - 0.05 * i) for i in range(5)]
    expected = torch.nn.functional.softplus(-torch.tensor(margins))
    assert losses.shape == (5, 2) and torch.allclose(losses[:, 0], expected, rtol=1e-4, atol=1e-7)
    assert torch.allclose(end[0], torch.full((1, 8, 8), 0.3)) and (losses[1:, 1] > losses[:-1, 1]).all()


def test_a_landscape_of_a_linear_model_has_one_maximum(digits: Path):
    study = read(
        of="landscape",
        models=[{"label": "m", "model": "-"}],
        threat=THREAT,
        examples=2,
        restarts=50,
        chunk=25,
        maxima=10,
        num_steps=60,
    )
    found = carried_out(study, landscape, task(study, digits, m=Linear()), landscape.parts(study))
    assert len(found) == 4
    outcome = landscape.conclude(study, found)
    assert [row["restarts"] for row in outcome.rows] == [50, 50]
    for row in outcome.rows:
        assert row["final_min"] >= row["start_loss"] and row["final_max"] / row["final_min"] < 1.1
        assert row["segment_middle"] >= 0.9 * row["segment_ends"]
    files = outcome.files("a title")
    assert {"table.csv", "table.json", "sheet.md", "trajectories.png", "final_losses.png", "segments.png"} == set(files)
    assert files["table.csv"].decode().count("\n") == 3 and files["trajectories.png"].startswith(b"\x89PNG")
    again = landscape.part(task(study, digits, m=Linear()), "m", 1, 1)
    assert again == found["m", 1, 1], "a part depends on nothing but itself"


def test_a_loss_that_still_climbs_has_no_plateau_however_few_the_steps(digits: Path):
    study = read(
        of="landscape", models=labelled(m="-"), threat=THREAT, examples=1, restarts=20, chunk=20, maxima=10,
        num_steps=4, step_size=0.02,
    )  # fmt: skip
    found = carried_out(study, landscape, task(study, digits, m=Linear()), landscape.parts(study))
    outcome = landscape.conclude(study, found)
    assert outcome.rows[0]["last_tenth"] > 0.05 and outcome.expectations[0].met is False


def test_more_examples_than_there_are_images_are_refused_before_anything_is_fetched(digits: Path):
    study = {"of": "landscape", "models": labelled(m="-"), "threat": THREAT, "examples": 10_000}
    job = parse({"kind": "study", "name": "one", "data": {"source": "digits"}, "study": study}, [], "here")
    assert isinstance(job, Study)
    with pytest.raises(JobError, match=r"study.examples: 10000 images, but the test split has 450"):
        must_suffice(job, digits)


def labels_of(model: nn.Module, folder: Path, count: int) -> float:
    """The model's clean accuracy on the first chosen images."""
    study = read(of="curves", models=[{"label": "m", "model": "-"}], linf=[0.0], n=count)
    one = task(study, folder, m=model).batch(count, 0, 0, count)
    with torch.no_grad():
        return (model(one.x).argmax(1) == one.y).float().mean().item()


@pytest.fixture(scope="module")
def fitted(digits: Path) -> Linear:
    """A linear model that knows the digits."""
    torch.manual_seed(0)
    model = Linear()
    one = task(read(of="curves", models=[{"label": "m", "model": "-"}], linf=[0.0]), digits, m=model).batch(
        300, 1, 0, 300
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(one.x), one.y).backward()
        optimiser.step()
    return model


def test_curves_fall_to_chance_and_tell_a_hidden_gradient(fitted: Linear, digits: Path):
    hidden = Linear(hide=True)
    hidden.load_state_dict(fitted.state_dict())
    study = read(
        of="curves",
        models=[{"label": "open", "model": "-"}, {"label": "hidden", "model": "-"}],
        linf=[0, 0.05, 0.1, 0.5],
        l2=[0.1],
        n=60,
        shard_size=30,
        queries=200,
    )
    parts = curves.parts(study, 60)
    assert len(parts) == 2 * 5 * 2
    found = carried_out(study, curves, task(study, digits, open=fitted, hidden=hidden), parts)
    outcome = curves.conclude(study, found, 60, 10)
    rows = {(row["model"], row["norm"], row["epsilon"]): row for row in outcome.rows}
    assert (
        rows["open", "linf", 0.0]["pgd"]
        == rows["open", "linf", 0.0]["clean"]
        == pytest.approx(labels_of(fitted, digits, 60))
    )
    assert rows["open", "linf", 0.5]["worst"] <= 0.1 and rows["open", "linf", 0.1]["worst"] < 0.6
    met = {one.target: one.met for one in outcome.expectations}
    assert met["open, linf: the accuracy falls to chance"] and met["open, linf: a larger epsilon never helps the model"]
    masked = "linf: an attack without gradients does not beat PGD (else gradients are masked)"
    assert met[f"open, {masked}"] is True and met[f"hidden, {masked}"] is False
    assert not met["open, l2: the accuracy falls to chance"] and set(outcome.plots) == {
        "curves_linf.png",
        "curves_l2.png",
    }


def test_transfer_counts_every_cell_and_knows_the_white_box(fitted: Linear, digits: Path):
    study = read(
        of="transfer", sources=labelled(a="x", b="y"), targets=labelled(a="x", c="z"), threat=THREAT, n=40,
        shard_size=25, attacks=[{"attack": "fgsm"}, {"attack": "pgd", "num_steps": 5}],
    )  # fmt: skip
    parts = transfer.parts(study, 40)
    assert len(parts) == (1 + 2 * 2) * 2 and list(transfer.labels(study).values()) == ["x", "y", "x", "z"]
    other = Linear(1)
    identities = {"source:a": "1", "source:b": "2", "target:a": "1", "target:c": "3"}
    models = {"source:a": fitted, "source:b": other, "target:a": fitted, "target:c": other}
    found = carried_out(study, transfer, task(study, digits, **models), parts)
    outcome = transfer.conclude(study, found, 40, "digits", identities)
    assert len(outcome.rows) == 2 + 2 * 2 * 2 and all(row["n"] == 40 for row in outcome.rows)
    cell = {(row["attack"], row["source"], row["target"]): row for row in outcome.rows}
    assert cell["clean", "", "a"]["accuracy"] == pytest.approx(labels_of(fitted, digits, 40))
    assert cell["fgsm", "a", "a"]["white_box"] and not cell["fgsm", "b", "a"]["white_box"]
    assert cell["pgd-5", "a", "a"]["accuracy"] < cell["pgd-5", "b", "a"]["accuracy"]
    first, second = outcome.expectations
    assert first.met is True and second.met is None, "c was attacked from other models only"


@pytest.mark.parametrize(("source", "told"), [("mnist", {"robust": True, "weaker": False}), ("digits", {})])
def test_the_papers_figures_are_asked_of_robust_models_alone(source: str, told: dict[str, bool]):
    targets = {"robust": 96, "weaker": 90, "natural": 45}
    study = read(
        of="transfer", sources=labelled(b="x"), targets=labelled(**dict.fromkeys(targets, "y")),
        threat=THREAT | {"epsilon": 0.3}, n=100, attacks=[{"attack": "fgsm"}],
    )  # fmt: skip
    found = {part: {"images": 100, "hits": targets} for part in transfer.parts(study, 100)}
    identities = {label: label for label in transfer.labels(study)}
    outcome = transfer.conclude(study, found, 100, source, identities)
    papers = {one.achieved.split(":")[0]: one.met for one in outcome.expectations if "95.7" in one.target}
    assert papers == told


@pytest.mark.parametrize(
    ("attacks", "words"),
    [
        ([{"attack": "fgsm"}, {"attack": "fgsm"}], "the attack fgsm is listed twice"),
        ([{"attack": "fgsm", "n": 5}], "leave out their n and meets"),
        ([{"attack": "fgsm", "meets": "standing"}], "leave out their n and meets"),
    ],
)
def test_a_transfer_study_refuses_what_it_would_not_do(attacks: list[dict], words: str):
    with pytest.raises(ValidationError, match=words):
        read(of="transfer", sources=labelled(a="x"), targets=labelled(b="y"), threat=THREAT, attacks=attacks)


def test_a_model_alone_is_no_black_box():
    with pytest.raises(JobError, match="one and the same model; name another"):
        transfer.must_have_black_box({"source:a": "1", "target:b": "1"})
    transfer.must_have_black_box({"source:a": "1", "target:b": "2"})


CAPACITY = {
    "kind": "study", "name": "c", "data": {"source": "digits"},
    "study": {
        "of": "capacity", "model": {"arch": "small_cnn"}, "widths": [1, 0.25], "epsilon_warmup_epochs": 1,
        "attack": {"threat": THREAT, "num_steps": 3}, "optim": {"name": "sgd", "lr": 1, "epochs": 2, "batch_size": 64},
    },
}  # fmt: skip


def test_every_cell_of_a_capacity_study_is_a_training_of_its_own():
    job = parse(CAPACITY, [], "here")
    assert isinstance(job, Study)
    cells = capacity.cells(job.study)
    assert list(cells) == ["natural-0.25", "natural-1", "fgsm-0.25", "fgsm-1", "pgd-0.25", "pgd-1"]
    jobs = {name: capacity.training(job, *terms) for name, terms in cells.items()}
    assert [one.model.width for one in jobs.values()] == [0.25, 1.0] * 3
    assert [one.objective.method for one in jobs.values()] == ["natural"] * 2 + ["madry"] * 4
    one_step = jobs["fgsm-1"].objective.attack
    assert (one_step.num_steps, one_step.random_start, one_step.step(0)) == (1, False, 0.1)
    assert jobs["pgd-1"].objective.attack == job.study.attack and jobs["pgd-1"].validation.attack is not None


def cell(clean: int, fgsm: int, pgd: int, classes: list[int] | None = None) -> dict:
    return {"images": 100, "clean": clean, "fgsm": fgsm, "pgd": pgd, "classes": classes or [0, 1, 2]}


def test_the_papers_claims_on_capacity_are_asked_one_by_one():
    study = parse(CAPACITY, [], "here").study
    counts = {
        "natural-0.25": cell(90, 5, 0), "natural-1": cell(99, 20, 0), "fgsm-0.25": cell(80, 70, 60),
        "fgsm-1": cell(95, 97, 2), "pgd-0.25": cell(11, 11, 11, [1]), "pgd-1": cell(95, 80, 75),
    }  # fmt: skip
    losses = dict(zip(counts, (0.2, 0.1, 0.5, 0.1, 2.3, 0.4), strict=True))
    outcome = capacity.conclude(study, {(name, 0): one for name, one in counts.items()}, losses)
    assert [one.met for one in outcome.expectations] == [True] * 5
    assert [row["collapsed"] for row in outcome.rows] == [False] * 4 + [True, False]
    counts["pgd-0.25"], counts["fgsm-1"], losses["pgd-1"] = cell(50, 45, 80), cell(95, 60, 58), 2.4
    outcome = capacity.conclude(study, {(name, 0): one for name, one in counts.items()}, losses)
    assert [one.met for one in outcome.expectations] == [True, False, False, False, False]
    counts["fgsm-0.25"] = counts["fgsm-1"] = cell(11, 11, 11, [1])
    outcome = capacity.conclude(study, {(name, 0): one for name, one in counts.items()}, losses)
    assert outcome.expectations[1].met is None, "nets that learnt nothing say nothing of FGSM"


def test_a_claim_that_cannot_be_told_is_not_met():
    """One image more is chance; where the widest net collapsed, or all did, or there is one width, nothing is shown."""

    def met(collapsed: dict[str, bool], pgd: dict[str, int]) -> list[bool | None]:
        study = parse(CAPACITY, ["study.methods=[pgd]", f"study.widths={list(map(float, pgd))}"], "here").study
        found = {
            (f"pgd-{width}", 0): cell(90, 80, hits, [3] if collapsed[width] else None) for width, hits in pgd.items()
        }
        outcome = capacity.conclude(study, found, {name: 1 / len(name) for name, _ in found})
        weak, _, better = outcome.expectations
        return [weak.met, better.met]

    nobody = {"0.25": False, "0.5": False, "1": False}
    assert met(nobody, {"0.25": 50, "0.5": 50, "1": 51}) == [False, None]
    assert met(nobody, {"0.25": 50, "0.5": 60, "1": 80}) == [False, True]
    assert met(nobody | {"0.25": True}, {"0.25": 10, "0.5": 60, "1": 80}) == [True, True]
    assert met(nobody | {"1": True}, {"0.25": 50, "0.5": 60, "1": 10}) == [False, False]
    assert met(dict.fromkeys(nobody, True), {"0.25": 10, "0.5": 10, "1": 10}) == [None, False]
    assert met(nobody, {"1": 80}) == [False, None]


def test_a_landscape_without_height_or_without_a_sag_is_told_as_it_is():
    """A model so sure that its loss is 0 has no shares; a hill between two maxima is no sag."""
    flat = {
        "model": "m", "last_tenth": 0.0, "final_max": 0.0, "final_median": 0.0, "final_std": 0.0, "distance": 1.0,
        "random_distance": 1.0, "angle": 90.0, "segment_middle": 2.0, "segment_ends": 4.0, "start_loss": -1.0,
    }  # fmt: skip
    assert [one.met for one in landscape._expectations([flat], ["m"])] == [True] * 5
    spiked = landscape._expectations([flat | {"final_max": 1.0}], ["m"])[1]
    hill = landscape._expectations([flat, flat | {"segment_middle": 5.0}], ["m"])[-1]
    assert (spiked.met, hill.met) == (False, False) and "0.50 to 1.25 of the ends, not above them in 1" in hill.achieved
    masked = landscape._expectations([flat, flat | {"start_loss": 0.0}], ["m"])
    assert [one.met for one in masked] == [False] + [None] * 4, "a loss that never rises has no maxima to speak of"


def test_shards_of_a_capacity_study_see_collapse_only_if_all_agree(digits: Path):
    study = parse(CAPACITY, [], "here").study
    constant = Linear()
    constant.weight.data.zero_()
    found = task(study, digits, **{"pgd-1": constant})
    one = capacity.part(found, "pgd-1", 0)
    assert one["classes"] == [0] and one["clean"] == one["pgd"] == one["fgsm"] < one["images"]
    assert open_split(digits, "test", "evaluation").card.count >= one["images"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"of": "landscape", "models": [], "threat": THREAT}, "at least 1 item"),
        (
            {"of": "landscape", "models": [{"label": "a", "model": "b"}], "threat": THREAT, "maxima": 900},
            "neither may be above",
        ),
        ({"of": "curves", "models": [{"label": "a", "model": "b"}]}, "linf or l2"),
        ({"of": "curves", "models": [{"label": "a", "model": "b"}], "linf": [0, 8]}, "did you mean 8/255"),
        ({"of": "curves", "models": [{"label": "a", "model": "b"}], "l2": [1, 2, 1]}, "listed twice"),
        ({"of": "curve", "models": [{"label": "a", "model": "b"}]}, "does not match any"),
        (
            {
                "of": "transfer",
                "sources": [{"label": "a", "model": "b"}],
                "targets": [{"label": "a", "model": "b"}],
                "threat": THREAT,
                "attacks": [],
            },
            "at least 1",
        ),
        (CAPACITY["study"] | {"widths": [1, 1.0]}, "listed twice"),
        (CAPACITY["study"] | {"epsilon_warmup_epochs": 2}, "never be full"),
    ],
)
def test_bad_studies_are_refused(fields: dict, words: str):
    with pytest.raises(ValidationError, match=words):
        read(**fields)


def test_a_sheet_says_what_was_met():
    findings = Findings(
        [{"a": 1, "b": 0.5}],
        [Expectation(target=t, achieved="x", met=m) for t, m in (("one", True), ("two", False), ("three", None))],
        {},
    )
    files = findings.files("title")
    assert files["table.csv"] == b"a,b\n1,0.5\n"
    text = files["sheet.md"].decode()
    assert "| one | x | yes |" in text and "| two | x | **no** |" in text and "| three | x | cannot be told |" in text


def test_step_sizes_of_a_landscape_are_the_papers():
    study = read(of="landscape", models=[{"label": "a", "model": "b"}], threat={"norm": "linf", "epsilon": 0.3})
    assert study.attack.step(0) == pytest.approx(0.01) and study.attack.step_size == OfEpsilon(of_epsilon=1 / 30)
    assert np.isclose(study.attack.threat.epsilon, 0.3)

"""The loss landscape, of models where it is known."""

from pathlib import Path

import torch
from studies import FACTS, THREAT, Linear, carried_out, labelled, read, task
from torch import nn

from distrib.attack import PGD, Adversary
from distrib.studies import landscape
from distrib.studies.landscape import climb
from distrib.threat import Linf


def test_losses_are_recorded_before_each_step_and_after_the_last():
    """On two classes the loss is softplus of the margin, and each step moves the margin by step * ||w||_1."""
    weight = torch.stack([torch.ones(64), -torch.ones(64)]) * 0.1
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    model[1].weight.data = weight
    adversary = Adversary(Linf(epsilon=0.3), PGD(num_steps=4, step_size=0.05))
    x = torch.full((2, 1, 8, 8), 0.5)
    end, losses = climb(model, adversary, x, torch.tensor([0, 1]), x)
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
        attack={"num_steps": 60, "step_size": {"of_epsilon": 1 / 30}},
    )
    found = carried_out(study, task(digits, m=Linear()), study.parts(450))
    assert len(found) == 4
    outcome = study.conclude(found, FACTS)
    assert [row["restarts"] for row in outcome.rows] == [50, 50]
    for row in outcome.rows:
        assert row["final_min"] >= row["start_loss"] and row["final_max"] / row["final_min"] < 1.1
        assert row["segment_middle"] >= 0.9 * row["segment_ends"]
    files = outcome.files("a title")
    assert set(files) == {
        "table.csv", "table.json", "sheet.md", "report.html", "trajectories.svg", "final_losses.svg", "segments.svg"
    }  # fmt: skip
    assert files["table.csv"].decode().count("\n") == 3 and b"</svg>" in files["trajectories.svg"]
    assert b"Linf 0.1 \xc2\xb7 2 test images, 50 restarts of pgd-60 each" in files["report.html"]
    again = study.part(task(digits, m=Linear()), ("m", 1, 1))
    assert again == found["m", 1, 1], "a part depends on nothing but itself"


def test_a_loss_that_still_climbs_has_no_plateau_however_few_the_steps(digits: Path):
    study = read(
        of="landscape", models=labelled(m="-"), threat=THREAT, examples=1, restarts=20, chunk=20, maxima=10,
        attack={"num_steps": 4, "step_size": 0.02},
    )  # fmt: skip
    found = carried_out(study, task(digits, m=Linear()), study.parts(450))
    outcome = study.conclude(found, FACTS)
    assert outcome.rows[0]["last_tenth"] > 0.05 and outcome.expectations[0].met is False


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


def curve(*losses: float) -> dict:
    every = torch.tensor(losses)
    return {"final": every, "label": 3, "trajectories": every[None].repeat(2, 1), "segments": every[None]}


def test_all_panels_share_one_axis_which_is_logarithmic_where_models_are_far_apart():
    for low, scale in ((4.0, "linear"), (0.1, "log")):
        curves = {("natural", 0): curve(1.0, 40.0), ("robust", 0): curve(low / 2, low)}
        panels = landscape._grid.__wrapped__(curves, ["natural", "robust"], "trajectories", "").axes
        assert [one.get_yscale() for one in panels] == [scale] * 2 and panels[0].get_ylim() == panels[1].get_ylim()
        assert panels[0].get_ylim()[0] <= low and [one.get_ylabel() for one in panels] == ["natural", "robust"]
        panels = landscape._grid.__wrapped__(curves, ["natural", "robust"], "final", "").axes
        assert panels[0].get_xlim() == panels[1].get_xlim() and panels[0].get_xscale() == scale
        assert [sum(bar.get_height() for bar in one.patches) for one in panels] == [2, 2]


def test_a_loss_of_zero_is_drawn():
    for what in ("trajectories", "final", "segments"):
        assert b"</svg>" in landscape._grid({("m", 0): curve(0.0, 0.0)}, ["m"], what, "")
        assert b"</svg>" in landscape._grid(
            {("m", 0): curve(0.0, 0.0), ("n", 0): curve(1.0, 0.0)}, ["m", "n"], what, ""
        )

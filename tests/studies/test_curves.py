"""Accuracy against epsilon, of a model that is open and of one that hides its gradient."""

from dataclasses import replace
from pathlib import Path

import pytest
from studies import FACTS, Linear, carried_out, clean_accuracy, read, task

from distrib.plots import COLOURS
from distrib.studies import curves


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
    parts = study.parts(450)
    assert len(parts) == 2 * 5 * 2
    found = carried_out(study, task(digits, open=fitted, hidden=hidden), parts)
    outcome = study.conclude(found, FACTS)
    rows = {(row["model"], row["norm"], row["epsilon"]): row for row in outcome.rows}
    assert (
        rows["open", "linf", 0.0]["pgd"]
        == rows["open", "linf", 0.0]["clean"]
        == pytest.approx(clean_accuracy(fitted, digits, 60))
    )
    assert rows["open", "linf", 0.5]["worst"] <= 0.1 and rows["open", "linf", 0.1]["worst"] < 0.6
    met = {one.target: one.met for one in outcome.expectations}
    assert met["open, linf: the accuracy falls to chance"] and met["open, linf: a larger epsilon never helps the model"]
    masked = "linf: an attack without gradients does not beat PGD (else gradients are masked)"
    assert met[f"open, {masked}"] is True and met[f"hidden, {masked}"] is False
    assert not met["open, l2: the accuracy falls to chance"] and set(outcome.plots) == {
        "curves_linf.svg",
        "curves_l2.svg",
    }


def test_no_curve_hides_another_and_the_epsilon_that_was_trained_at_is_a_line():
    rows = [
        {"model": label, "norm": "linf", "epsilon": epsilon, "pgd": 0.5, "square": 0.5, "worst": 0.5}
        for label in ("a", "b") for epsilon in (0, 0.5)
    ]  # fmt: skip
    facts = replace(FACTS, trained_within={"a": ("linf", 8 / 255), "b": ("l2", 0.5)})
    (axes,) = curves._plot.__wrapped__(rows, facts, "").axes
    worst, square, pgd, trained = axes.lines[:4]
    assert [list(one.get_ydata()) for one in (worst, square, pgd)] == [[50, 50]] * 3
    assert worst.get_linewidth() > 3 * pgd.get_linewidth() and square.get_markersize() > pgd.get_markersize()
    assert (square.get_fillstyle(), pgd.get_fillstyle()) == ("none", "full")
    assert (trained.get_label(), list(trained.get_xdata())) == ("a trained at 8/255", [8 / 255] * 2)
    labels = [one.get_label() for one in axes.lines]
    assert "b" in labels and not any(one.startswith("b trained") for one in labels), "that was in another norm"
    assert {one.get_label(): one.get_color() for one in axes.lines}["b"] == COLOURS[1]

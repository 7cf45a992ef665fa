"""Accuracy against epsilon, of a model that is open and of one that hides its gradient."""

from pathlib import Path

import pytest
from studies import FACTS, Linear, carried_out, clean_accuracy, read, task


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
        "curves_linf.png",
        "curves_l2.png",
    }

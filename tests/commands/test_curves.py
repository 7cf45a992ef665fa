"""distrib.commands.curves: every phase's epochs are drawn, in per cent, under its own name."""

import pytest

from distrib.commands import curves


def test_a_line_for_each_phase_and_accuracy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(curves, "png", lambda figure: figure)
    accuracies = "validation_clean_accuracy", "validation_robust_accuracy"
    epochs = [
        {"train_loss": 2 / n, "learning_rate": 0.1} | dict(zip(accuracies, (n / 4, n / 8), strict=True))
        for n in (1, 2, 3)
    ]
    loss, accuracy, rate = curves.training_curves({"robust": epochs, "natural": epochs[:1]}).axes
    assert {line.get_label(): list(line.get_ydata()) for line in accuracy.lines} == {
        "robust model, clean": [25, 50, 75], "robust model, robust": [12.5, 25, 37.5],
        "natural model, clean": [25], "natural model, robust": [12.5],
    }  # fmt: skip
    assert [list(line.get_xdata()) for line in loss.lines] == [[1, 2, 3], [1]]
    assert {line.get_marker() for line in accuracy.lines} == {"None"}
    assert [list(line.get_ydata()) for line in rate.lines] == [[0.1] * 3, [0.1]]


def test_epochs_that_were_not_validated_are_left_out_and_the_others_are_points(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(curves, "png", lambda figure: figure)
    epochs: list[dict] = [{"train_loss": 1.0, "learning_rate": 0.1} for _ in range(5)]
    for n in (3, 5):
        epochs[n - 1] |= {"validation_clean_accuracy": n / 8, "validation_robust_accuracy": n / 10}
    clean, robust = curves.training_curves({"robust": epochs}).axes[1].lines
    assert (list(clean.get_xdata()), list(clean.get_ydata()), clean.get_marker()) == ([3, 5], [37.5, 62.5], ".")
    assert list(robust.get_ydata()) == pytest.approx([30, 50])

"""distrib.commands.curves: every phase's epochs are drawn, in per cent, under its own name."""

import pytest

from distrib.commands.curves import training_curves

GIVEN = (2, "models:/some/1", "pgd-7")


def test_a_line_for_each_phase_and_accuracy():
    accuracies = "validation_clean_accuracy", "validation_robust_accuracy"
    epochs = [
        {"train_loss": 2 / n, "learning_rate": 0.1} | dict(zip(accuracies, (n / 4, n / 8), strict=True))
        for n in (1, 2, 3)
    ]
    assert training_curves({"robust": epochs}, *GIVEN).startswith(b"<?xml")
    loss, accuracy, rate = training_curves.__wrapped__({"robust": epochs, "natural": epochs[:1]}, *GIVEN).axes
    *lines, registered = accuracy.lines
    assert {line.get_label(): list(line.get_ydata()) for line in lines} == {
        "robust model, clean": [25, 50, 75], "robust model, under pgd-7": [12.5, 25, 37.5],
        "natural model, clean": [25], "natural model, under pgd-7": [12.5],
    }  # fmt: skip
    assert (registered.get_label(), list(registered.get_xdata())) == ("registered: epoch 2", [2, 2])
    assert [list(line.get_xdata()) for line in loss.lines[:2]] == [[1, 2, 3], [1]]
    assert [list(line.get_ydata()) for line in rate.lines[:2]] == [[0.1] * 3, [0.1]]


def test_epochs_that_were_not_validated_are_left_out_and_the_others_are_points():
    epochs: list[dict] = [{"train_loss": 1.0, "learning_rate": 0.1} for _ in range(5)]
    for n in (3, 5):
        epochs[n - 1] |= {"validation_clean_accuracy": n / 8, "validation_robust_accuracy": n / 10}
    clean, robust, _ = training_curves.__wrapped__({"robust": epochs}, *GIVEN).axes[1].lines
    assert (list(clean.get_xdata()), list(clean.get_ydata()), clean.get_marker()) == ([3, 5], [37.5, 62.5], "o")
    assert list(robust.get_ydata()) == pytest.approx([30, 50])

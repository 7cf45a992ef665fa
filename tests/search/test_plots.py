"""distrib.search.plots: each trial is drawn where its figures are."""

import pytest

from distrib.search import plots

ROWS = [
    {"trial": 1, "state": "finished", "robust_accuracy": 0.25, "clean_accuracy": 0.75, "cost_hours": 1.0, "width": 1},
    {"trial": 2, "state": "stopped", "robust_accuracy": 0.125, "clean_accuracy": 0.5, "cost_hours": 0.5, "width": 1},
    {"trial": 3, "state": "finished", "robust_accuracy": 0.5, "clean_accuracy": 0.625, "cost_hours": 2.0, "width": 2},
]


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot gives its figure, not the PNG of it."""
    monkeypatch.setattr(plots, "png", lambda figure: figure)


def test_the_history_marks_what_was_stopped_and_steps_up_to_the_best():
    (axes,) = plots.plot_history(ROWS).axes
    assert {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines} == {
        "finished": ([1, 3], [25, 50]), "stopped": ([2], [12.5]), "best so far": ([1, 2, 3], [25, 25, 50]),
    }  # fmt: skip


def test_the_front_is_ringed_and_numbered():
    axes = plots.pareto(ROWS, [1, 3]).axes[0]
    every, ringed = axes.collections
    assert every.get_offsets().tolist() == [[75, 25], [50, 12.5], [62.5, 50]]
    assert ringed.get_offsets().tolist() == [[75, 25], [62.5, 50]]
    assert [text.get_text() for text in axes.texts] == ["1", "3"]


def test_a_line_a_trial_through_every_field_the_best_on_top():
    (axes,) = plots.parallel(ROWS, ["width", "state", "robust_accuracy"]).axes
    lines = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 3]
    assert lines == [[0, 1, 0], [0, 0, pytest.approx(1 / 3)], [1, 0, 1]]
    assert [text.get_text() for text in axes.texts] == ["1", "2", "finished", "stopped", "0.125", "0.5"]


def test_cells_are_the_mean_of_their_trials_and_the_evaluated_epsilon_is_marked_if_it_was_searched():
    rows = [{"epsilon": x, "step": y, "robust_accuracy": z} for x, y, z in ((0, 0, 0.25), (0, 0, 0.75), (1, 1, 1))]
    axes = plots.pairs(rows, "epsilon", "step", 0.5).axes[0]
    cells = axes.collections[0].get_array().reshape(6, 6)
    assert (cells[0, 0], cells[5, 5], cells.count()) == (50, 100, 2), "cells without a trial stay empty"
    assert [line.get_label() for line in axes.lines][1:] == ["evaluated at 0.5"]
    assert len(plots.pairs(rows, "epsilon", "step", 2.0).axes[0].lines) == 1


def test_accuracies_against_a_field_and_the_best_at_each_value():
    (axes,) = plots.against(ROWS, "width").axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 2} == {
        "best clean": [75, 62.5], "best robust": [25, 50],
    }  # fmt: skip


def test_the_first_bar_stands_at_the_top():
    (axes,) = plots.bars({"objective.attack.step_size": 0.75, "width": 0.25}, "share").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["width", "step_size"]
    assert [bar.get_width() for bar in axes.patches] == [0.25, 0.75]

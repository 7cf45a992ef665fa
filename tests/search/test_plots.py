"""distrib.search.plots: each trial is drawn where its figures are, and a stopped one never as if it were finished."""

from typing import Any

import pytest

from distrib.plots import COLOURS
from distrib.search import plots


def row(trial: int, state: str, robust: float, clean: float, **more: Any) -> dict:
    return {
        "trial": trial, "state": state, "robust_accuracy": robust, "clean_accuracy": clean, "score": robust,
        "cost_hours": 1.0 * trial, "best_epoch": 2, "curve": [robust / 2, robust], "winner": False, **more,
    }  # fmt: skip


ROWS = [
    row(1, "finished", 0.25, 0.75, width=1),
    row(2, "stopped", 0.875, 0.9375, width=1),
    row(3, "finished", 0.5, 0.625, width=2, winner=True),
]
STAR = {"winner, trial 3": ([3], [50])}


def bare(plot: Any, *args: Any) -> Any:
    """The figure, before it becomes an SVG."""
    return plot.__wrapped__(*args)


def lines(axes: Any) -> dict[str, tuple[list, list]]:
    return {one.get_label(): (list(one.get_xdata()), list(one.get_ydata())) for one in axes.lines}


def test_the_best_so_far_is_of_finished_trials_alone():
    (axes,) = bare(plots.plot_history, ROWS, "about").axes
    assert lines(axes) == {
        "finished": ([1, 3], [25, 50]), "stopped": ([2], [87.5]), "best finished so far": ([1, 3, 3], [25, 50, 50]),
        "winner, trial 3": ([3], [50]),
    }  # fmt: skip
    (axes,) = bare(plots.plot_history, [ROWS[1]], "").axes
    assert set(lines(axes)) == {"stopped"}


def test_the_best_so_far_is_so_by_the_score_which_has_a_floor():
    below = [row(1, "finished", 0.75, 0.1, score=-0.5), row(2, "finished", 0.25, 0.9)]
    (axes,) = bare(plots.plot_history, below, "").axes
    assert lines(axes)["best finished so far"][1] == [75, 25, 25]


def test_a_stopped_trial_is_never_on_the_front_and_the_winner_has_a_star():
    axes, bar = bare(plots.pareto, ROWS, [1, 2, 3], "").axes
    (finished,) = axes.collections
    assert finished.get_offsets().tolist() == [[75, 25], [62.5, 50]] and list(finished.get_array()) == [1, 3]
    assert bar.get_ylabel() == "core- or GPU-hours"
    assert lines(axes) == {
        "stopped": ([93.75], [87.5]), "front: no other is better in both": ([62.5, 75], [50, 25]),
        "winner, trial 3": ([62.5], [50]),
    }  # fmt: skip
    assert [text.get_text() for text in axes.texts] == ["3", "1"]


def test_trials_at_one_point_of_the_front_are_named_together():
    equal = [row(number, "finished", 0.5, 0.75) for number in range(1, 6)]
    assert [text.get_text() for text in bare(plots.pareto, equal, [1, 2, 3, 4, 5], "").axes[0].texts] == ["1, 2, 3, …"]


def test_a_line_a_trial_through_every_field_the_best_on_top():
    axes = bare(plots.parallel, ROWS, ["width", "state", "robust_accuracy"], [], "").axes[0]
    drawn = [one for one in axes.lines if len(one.get_ydata()) == 3]
    assert [list(one.get_ydata()) for one in drawn[::2]] == [[0, 1, 1], [0, 0, 0], [1, 0, 0.4]], "2, then 1, then 3"
    assert (drawn[0].get_linestyle(), drawn[-1].get_linestyle()) == ("--", "-")
    widths = [one.get_linewidth() for one in drawn]
    assert widths[0] < widths[2] < widths[4], "stopped, finished, winner"
    assert [text.get_text() for text in axes.texts] == ["1", "2", "finished", "stopped", "25.0 %", "87.5 %"]


def test_orders_of_magnitude_are_alike_on_a_logarithmic_axis():
    rows = [row(i, "finished", 0.5, 0.5, lr=10.0**-i) for i in (1, 2, 3)]
    for logs, middle in (([], 9 / 99), (["lr"], 0.5)):
        axes = bare(plots.parallel, rows, ["lr"], logs, "").axes[0]
        assert sorted(one.get_ydata()[0] for one in axes.lines if len(one.get_ydata()) == 1)[2] == pytest.approx(middle)
        assert axes.get_xticklabels()[0].get_text() == "lr" + ", log" * bool(logs)


PLANE = [(0, 0, 0.25), (0, 0, 0.75), (1, 1, 1)]


def plane(rows: list[tuple[float, float, float]], evaluated: float = 0.5) -> Any:
    found = [row(i, "finished", z, 0.5, epsilon=x, step=y) for i, (x, y, z) in enumerate(rows)]
    return bare(plots.pairs, found, "epsilon", "step", evaluated, "").axes[0]


def test_few_trials_are_dots_and_many_have_cells_of_their_mean():
    few = plane(PLANE)
    (dots,) = few.collections
    assert dots.get_offsets().tolist() == [[0, 0], [0, 0], [1, 1]] and list(dots.get_array()) == [25, 75, 100]
    cells, dots = plane(PLANE * 17).collections
    means = cells.get_array().reshape(6, 6)
    assert (means[0, 0], means[5, 5], means.count()) == (50, 100, 2), "cells without a trial stay empty"
    assert len(dots.get_offsets()) == 51


def test_the_evaluated_epsilon_is_a_line():
    (line,) = plane(PLANE, 8 / 255).lines
    assert line.get_label() == "evaluated at 8/255" and list(line.get_xdata()) == [8 / 255] * 2


def test_learning_curves_tell_the_winner_and_where_a_trial_was_stopped():
    (axes,) = bare(plots.plot_learning, ROWS, "").axes
    stopped, finished, winner, star = axes.lines
    assert list(stopped.get_ydata()) == [43.75, 87.5] and (stopped.get_marker(), stopped.get_markevery()) == ("x", [-1])
    assert list(finished.get_ydata()) == [12.5, 25] and finished.get_marker() in ("", "None")
    assert list(winner.get_ydata()) == [25, 50] and winner.get_color() == COLOURS[1]
    assert (star.get_marker(), list(star.get_xdata()), list(star.get_ydata())) == ("*", [2], [50])


def test_accuracies_against_a_field_and_the_best_finished_one_at_each_value():
    (axes,) = bare(plots.against, ROWS, "width", "").axes
    found = lines(axes)
    assert (found["best clean"], found["best robust"]) == (([1, 2], [75, 62.5]), ([1, 2], [25, 50]))
    assert found["robust, stopped"] == ([1], [87.5])
    marks = {one.get_label(): one.get_marker() for one in axes.lines}
    assert marks["clean"] != marks["robust"]


def test_the_first_bar_stands_at_the_top_with_its_share():
    (axes,) = bare(plots.bars, {"objective.attack.step_size": 0.75, "width": 0.25}, 9, "").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["width", "step_size"]
    assert [bar.get_width() for bar in axes.patches] == [0.25, 0.75]
    assert [text.get_text() for text in axes.texts] == ["25 %", "75 %"]
    assert "9 trials: a hint" in axes.get_title()


@pytest.mark.parametrize(
    "rows",
    [
        [row(1, "finished", 0.5, 0.5, winner=True, x=0.1, word="$a$ b$c$")],
        [row(1, "stopped", 0.5, 0.5, winner=True, x=0.1, word=True)],
        [row(i, "stopped", 0.1 * i, 0.5, winner=i == 1, x=0.1 * i, word="a" * 99 + str(i)) for i in (1, 2)],
        [row(i, "finished", 0.5, 0.5, winner=i == 1, x=0.1, word='{"of_epsilon": 0.25}') for i in range(1, 61)],
    ],
    ids=["one", "one stopped", "all stopped", "equal"],
)
def test_every_plot_is_drawn_of_whatever_trials_there_are(rows: list[dict]):
    names = ["x", "word", plots.CLEAN, plots.ROBUST]
    for made in (
        plots.plot_history(rows, "about"), plots.pareto(rows, [1], ""), plots.parallel(rows, names, ["x"], ""),
        plots.pairs(rows, "x", "x", 0.1, ""), plots.plot_learning(rows, ""), plots.against(rows, "x", ""),
    ):  # fmt: skip
        assert made.startswith(b"<?xml") and b"</svg>" in made


def test_words_are_short_and_fractions_are_written_as_such():
    assert [plots.setting_word(one) for one in (8 / 255, 0.5, 7, '{"arch": "wide"}', "b" * 30)] == [
        "8/255", "0.5", "7", "arch: wide", "b" * 19 + "…",
    ]  # fmt: skip
    assert plots.field_word("objective.attack.step_size.of_epsilon") == "step_size.of_epsilon"

"""distrib.evaluation.plots: what the card's pictures show is what was measured."""

from typing import Any

import numpy as np
import pytest

from distrib.evaluation import plots
from distrib.evaluation.by_class import ClassFigures
from distrib.evaluation.plots import Shown
from distrib.plots import DARK


def figure(plot: Any, *given: Any) -> Any:
    """The figure of a plot, before it is an SVG; which it must become, too."""
    assert plot(*given, "some model").startswith(b"<?xml")
    return plot.__wrapped__(*given, "some model")


def test_the_epsilon_curve_in_per_cent_beside_chance_and_the_evaluated_epsilon():
    (axes,) = figure(plots.plot_epsilon_curve, [(8 / 255, 0.75, 40), (0.2, 0.25, 40)], 0.15, 5).axes
    curve, chance, evaluated = axes.lines
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([8 / 255, 0.2], [75, 25])
    assert (chance.get_label(), list(chance.get_ydata())) == ("chance", [20, 20])
    assert (evaluated.get_label(), list(evaluated.get_xdata())) == ("evaluated epsilon", [0.15, 0.15])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8/255", "0.2"]


def test_a_line_for_each_attack_from_its_first_start():
    (axes,) = figure(plots.plot_restarts, {"pgd": (0.25, 0.5), "apgd": (0.5, 0.5, 0.75)}).axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {"pgd": [25, 50], "apgd": [50, 50, 75]}
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2], [1, 2, 3]]
    assert len({line.get_marker() for line in axes.lines}) == 2, "no line is known by its colour alone"
    assert axes.get_ylim()[1] > 75, "no line leaves the picture"


def test_the_confusion_table_has_a_row_for_each_class_and_a_column_for_all_that_is_seen():
    cat = ClassFigures(name="cat", n=4, clean=4, robust=1, taken_for=(("dog", 2), ("no class", 1)))
    dog = ClassFigures(name="dog", n=2, clean=2, robust=2, taken_for=())
    (axes,) = figure(plots.plot_confusion, [cat, dog]).axes
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.25, 0.5, 0.25], [0, 1, 0]])
    assert [text.get_text() for text in axes.texts] == ["25", "50", "25", "100"]
    assert not {text.get_color() for text in axes.texts} & set(DARK), "a cell is as dark on every screen"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "no class"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_stands_above_its_worst_one_and_the_change(channels: int):
    images = np.linspace(0.2, 0.7, 4 * 2 * 2 * channels).reshape(4, 2, 2, channels)
    images[1] = images[0] + np.float32(0.1) * np.where(np.arange(4).reshape(2, 2, 1) == 0, -1, 0.5)
    shown = [
        Shown(images[0], images[1], "a cat", "a doggy beast", "pgd-20"),
        Shown(images[2], images[2], "b", "b", "autoattack"),
    ]
    panels = figure(plots.plot_images, shown).axes
    drawn = [np.asarray(panel.images[0].get_array()).reshape(2, 2, channels) for panel in panels]
    np.testing.assert_array_equal(np.stack(drawn)[[0, 2]], images[:2])
    changes = drawn[4][..., 0]
    np.testing.assert_allclose(changes, [[0, 0.75], [0.75, 0.75]], atol=1e-6)
    np.testing.assert_array_equal(drawn[5], np.full((2, 2, channels), 0.5))
    assert [panel.get_title() for panel in panels[:4]] == ["a cat", "b", "a doggy bea", "stood"]
    assert [panel.get_xlabel() for panel in panels[4:]] == ["pgd-20", "autoattack"]

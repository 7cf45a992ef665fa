"""distrib.evaluation.plots: what the card's pictures show is what was measured."""

import numpy as np
import pytest

from distrib.evaluation import plots


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot gives its figure, not the PNG of it."""
    monkeypatch.setattr(plots, "png", lambda figure: figure)


def test_the_epsilon_curve_in_per_cent_beside_chance_and_the_evaluated_epsilon():
    (axes,) = plots.plot_epsilon_curve([(0.1, 0.75, 40), (0.2, 0.25, 40)], 0.15, 5).axes
    curve, chance, evaluated = axes.lines
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([0.1, 0.2], [75, 25])
    assert (chance.get_label(), list(chance.get_ydata())) == ("chance", [20, 20])
    assert (evaluated.get_label(), list(evaluated.get_xdata())) == ("evaluated epsilon", [0.15, 0.15])


def test_a_line_for_each_attack_from_its_first_start():
    (axes,) = plots.plot_restarts({"pgd": (0.25, 0.5), "apgd": (0.5, 0.5, 0.75)}).axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {"pgd": [25, 50], "apgd": [50, 50, 75]}
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2], [1, 2, 3]]
    assert axes.get_ylim()[1] > 75, "no line leaves the picture"


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_stands_above_its_worst_one_and_the_caption(channels: int):
    images = np.linspace(0, 1, 4 * 2 * 2 * channels).reshape(4, 2, 2, channels)
    shown = [(images[0], images[1], "a cat\ntaken for a doggy beast"), (images[2], images[3], "b")]
    panels = plots.plot_images(shown).axes
    drawn = [np.asarray(panel.images[0].get_array()).reshape(2, 2, channels) for panel in panels]
    np.testing.assert_array_equal(drawn, images)
    assert [panel.get_title() for panel in panels] == ["", "a cat\ntaken for a doggy ", "", "b"]
    assert panels[0].get_subplotspec().rowspan.start == 0 and panels[1].get_subplotspec().rowspan.start == 1

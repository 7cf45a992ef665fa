"""distrib.plots: a figure becomes a PNG of its size, in one style."""

import io

from PIL import Image

from distrib.plots import figure, grid_and_legend, heat, png


def test_a_png_has_the_size_of_its_figure():
    with Image.open(io.BytesIO(png(figure(3, 2)))) as picture:
        assert (picture.format, picture.size) == ("PNG", (330, 220))


def test_every_axes_gets_a_grid_and_its_own_legend():
    both = figure(4, 2).subplots(1, 2)
    for axes, label in zip(both, ("clean", "robust"), strict=True):
        axes.plot([0, 1], label=label)
    grid_and_legend(*both)
    assert [[text.get_text() for text in axes.get_legend().get_texts()] for axes in both] == [["clean"], ["robust"]]
    assert all(line.get_visible() for axes in both for line in axes.get_xgridlines())


def test_a_higher_value_has_a_brighter_colour_whatever_the_scale():
    brightness = [sum(colour[:3]) for colour in heat([0.3, 0.1, 0.2])]
    assert brightness[1] < brightness[2] < brightness[0]
    assert heat([0.3, 0.1, 0.2]) == heat([30, 10, 20])
    assert len(set(heat([0.5, 0.5]))) == 1

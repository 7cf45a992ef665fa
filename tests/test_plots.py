"""distrib.plots: every plot is an SVG in one style, which a dark screen shows dark."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from colours import contrast

from distrib.plots import COLOURS, DARK, INK, MARKS, PAPER, QUIET, drawn, figure, heat, legend_beside, whole_numbers


@drawn
def plot(title: str):
    made = figure(3, 2, title, "what was measured")
    axes = made.subplots()
    axes.plot([1, 2], label="one")
    legend_beside(axes)
    whole_numbers(axes)
    return made


def test_a_plot_is_an_svg_of_its_size_and_the_same_each_time():
    root = ElementTree.fromstring(plot("some title"))
    assert root.tag.endswith("svg") and (root.get("width"), root.get("height")) == ("216pt", "144pt")
    assert plot("some title") == plot("some title") != plot("another")


def test_the_style_stays_inside_and_the_plot_is_within_reach():
    before = dict(matplotlib.rcParams)
    plot("some title")
    assert dict(matplotlib.rcParams) == before
    made = plot.__wrapped__("some title")
    assert made.get_suptitle() == "some title\n" and [text.get_text() for text in made.texts][1:] == [
        "what was measured"
    ]


def test_every_colour_of_the_page_has_a_dark_one():
    svg = plot("some title").decode()
    rules = dict(re.findall(r'\[style\*="fill: (#\w+)"\]\{fill:(#\w+)!important\}', svg))
    assert rules == DARK
    for colour in (PAPER, INK, QUIET):
        assert f"{colour}" in svg.partition("</style>")[2], "the rule is for a colour that is there"


@pytest.mark.parametrize("paper", [PAPER, DARK[PAPER]])
def test_colours_are_seen_on_both_papers_and_there_is_a_mark_for_each(paper: str):
    assert len(COLOURS) == len(MARKS) == len(set(MARKS))
    assert all(contrast(colour, paper) >= 3 for colour in COLOURS)
    other = {PAPER: lambda colour: colour, DARK[PAPER]: DARK.get}[paper]
    assert all(contrast(other(colour), paper) >= 4.5 for colour in (INK, QUIET))


def test_a_higher_value_has_a_brighter_colour_whatever_the_scale():
    brightness = [sum(colour[:3]) for colour in heat([0.3, 0.1, 0.2])]
    assert brightness[1] < brightness[2] < brightness[0]
    assert heat([0.3, 0.1, 0.2]) == heat([30, 10, 20])
    assert len(set(heat([0.5, 0.5]))) == 1

"""distrib.studies.chart: a line for each column and group of a study's table, in an order that can be read."""

import json
import re

from distrib.studies.chart import Chart, chart_in_page

ROWS = [
    {"model": "a<b", "epsilon": 0.2, "pgd": 0.25, "square": 0.5},
    {"model": "a<b", "epsilon": 0.1, "pgd": 0.75, "square": 1.0},
    {"model": "c", "epsilon": 0.1, "pgd": 0.5, "square": 0.5},
]


def traces(chart: Chart) -> list[dict]:
    text = chart_in_page(ROWS, chart)
    found = re.search(r'Plotly\.newPlot\(\s*"[^"]+",\s*(\[.*?\]),\s*\{', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_line_for_each_group_and_column_in_the_order_of_x():
    lines = traces(Chart("epsilon", ("pgd", "square"), ("model",), "accuracy, %"))
    assert [(line["name"], line["x"], line["y"]) for line in lines] == [
        ("a&lt;b, pgd", [0.1, 0.2], [75.0, 25.0]), ("a&lt;b, square", [0.1, 0.2], [100.0, 50.0]),
        ("c, pgd", [0.1], [50.0]), ("c, square", [0.1], [50.0]),
    ]  # fmt: skip
    assert lines[0]["text"][0] == "model: a&lt;b<br>epsilon: 0.1<br>pgd: 0.75<br>square: 1"
    assert lines[0]["line"]["color"] == lines[1]["line"]["color"] != lines[2]["line"]["color"]
    assert lines[0]["line"]["dash"] != lines[1]["line"]["dash"]


def test_what_is_no_share_keeps_its_unit():
    (first, *_) = traces(Chart("epsilon", ("pgd",), ("model",), "loss"))
    assert (first["name"], first["y"]) == ("a&lt;b", [0.75, 0.25])

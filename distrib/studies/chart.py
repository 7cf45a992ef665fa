"""The table of a study as lines that answer to the pointer, for its page."""

import html
from collections.abc import Sequence
from typing import NamedTuple

from distrib.plots import COLOURS
from distrib.tracking.page import figure_in_page

DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "x")


class Chart(NamedTuple):
    """Which columns of a table are drawn: a line for each of ``ys`` and each combination of ``by``, against ``x``."""

    x: str
    ys: tuple[str, ...]
    by: tuple[str, ...]
    label: str
    """Of the vertical axis; one that ends in % has shares as per cent."""


def chart_in_page(rows: Sequence[dict], chart: Chart) -> str:
    """The chart as a part of a page. The pointer shows every column of a row; a click on a name hides its line."""
    import plotly.graph_objects as go

    factor = 100 if chart.label.endswith("%") else 1
    figure = go.Figure(layout={"xaxis": {"title": html.escape(chart.x)}, "yaxis": {"title": html.escape(chart.label)}})
    groups = dict.fromkeys(tuple(row[name] for name in chart.by) for row in rows)
    for i, group in enumerate(groups):
        mine = [row for row in rows if tuple(row[name] for name in chart.by) == group]
        mine = sorted(mine, key=lambda row: row[chart.x])
        for k, y in enumerate(chart.ys):
            figure.add_scatter(
                x=[row[chart.x] for row in mine], y=[factor * row[y] for row in mine], mode="lines+markers",
                name=html.escape(", ".join([*map(str, group), *([y] if len(chart.ys) > 1 else [])])),
                line={"color": COLOURS[i % len(COLOURS)], "dash": DASHES[k % len(DASHES)]},
                marker={"symbol": SYMBOLS[k % len(SYMBOLS)], "size": 8},
                text=["<br>".join(f"{html.escape(name)}: {_cell(one)}" for name, one in row.items()) for row in mine],
                hoverinfo="text",
            )  # fmt: skip
    return figure_in_page(figure, first=True)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))

"""A page that a run leaves: HTML that needs no other file, loads nothing from anywhere, and is read on any screen."""

from typing import Any

from jinja2 import Environment, PackageLoader

from distrib.plots import COLOURS, DARK, INK, LINE, PAPER, QUIET

CONFIG = {"displaylogo": False, "responsive": True}


def _face(paper: str, ink: str, quiet: str, line: str) -> dict:
    """A template of plotly's."""
    axis = {"gridcolor": line, "linecolor": quiet, "zerolinecolor": line, "tickcolor": quiet,
            "automargin": True, "exponentformat": "power"}  # fmt: skip
    return {"layout": {
        "paper_bgcolor": paper, "plot_bgcolor": paper, "font": {"color": ink, "family": "system-ui, sans-serif"},
        "xaxis": axis, "yaxis": axis, "colorway": COLOURS, "legend": {"bgcolor": paper},
        "hoverlabel": {"bgcolor": paper, "font": {"color": ink}},
    }}  # fmt: skip


LIGHT = (PAPER, INK, QUIET, LINE)
FACES = {"light": _face(*LIGHT), "dark": _face(*(DARK[one] for one in LIGHT))}
"""The figures' looks, of which the page takes the one that its reader's screen asks for."""


def figure_in_page(figure: Any, first: bool) -> str:
    """A figure of plotly's as a part of a page; the first one brings plotly itself."""
    figure.update_layout(
        title=None, template=FACES["light"], height=380, margin={"l": 55, "r": 15, "t": 25, "b": 45},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    return figure.to_html(full_html=False, include_plotlyjs=first, config=CONFIG, default_height="380px")


def page(room: str, **values: object) -> bytes:
    """The page of that room's template, which extends ``tracking/page.html.j2``: of ``title``, ``about`` and more.

    Whatever a name or a setting has in it is text.
    """
    environment = Environment(
        loader=PackageLoader("distrib", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return (environment.get_template(f"{room}/page.html.j2").render(faces=FACES, **values) + "\n").encode()

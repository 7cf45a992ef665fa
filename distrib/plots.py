"""The one style of every figure, and its SVG: the only door to matplotlib. Each plot lives with its owner.

A plot is a function that returns a figure; :func:`drawn` gives it the style, and makes an SVG of what it returns. The
SVG has a light and a dark face, and takes the one that its reader's screen asks for.
"""

import io
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")

PAPER, INK, QUIET, LINE = "#ffffff", "#111827", "#4b5563", "#d1d5db"
DARK = {PAPER: "#14161a", INK: "#e5e7eb", QUIET: "#b6bcc6", LINE: "#4b5563"}
"""What each of them is on a dark screen."""
COLOURS = ("#0072b2", "#d55e00", "#00845f", "#b8578f", "#8c6d1f", "#7d7f86")
"""Told apart by the colour-blind (after Okabe and Ito), and 3:1 or more against both papers (WCAG 1.4.11)."""
ON_DARK, ON_BRIGHT = "#fefefe", "#010101"
"""Of letters on a coloured cell, which is the same on every screen: neither is a colour that the dark face changes."""
MARKS = ("o", "s", "^", "D", "v", "P")
"""A mark for each colour: no line is known by its colour alone."""
STYLE: dict[Any, Any] = {
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": QUIET, "xtick.color": QUIET, "ytick.color": QUIET,
    "axes.edgecolor": QUIET, "grid.color": LINE, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 8,
    "font.size": 9, "axes.titlesize": 8, "axes.titlelocation": "left", "figure.titlesize": 11,
    "figure.titleweight": "bold", "lines.linewidth": 1.6, "lines.markersize": 4.5, "svg.hashsalt": "distrib",
}  # fmt: skip


def drawn(plot: "Callable[Arguments, Figure]") -> Callable[Arguments, bytes]:
    """The plot in the shared style, as SVG. What it was is at ``__wrapped__``."""

    @wraps(plot)
    def styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> bytes:
        from cycler import cycler
        from matplotlib import rc_context

        with rc_context({**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
            return _svg(plot(*args, **kwargs))

    return styled


def figure(width: float, height: float, title: str, about: str = "") -> "Figure":
    """An empty figure of that size in inches, which lays its parts out by itself.

    ``about`` says under the title what was measured: model, threat, number of images, run.
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    made.suptitle(f"{plain(title)}\n" if about else plain(title), x=0.01, ha="left")
    if about:
        made.text(0.01, 0.985 - 0.19 / height, plain(about), ha="left", va="top", fontsize=8, color=QUIET)
    return made


def plain(text: str) -> str:
    """The text as it is: matplotlib takes what stands between two dollar signs for a formula."""
    return text.replace("$", r"\$")


def legend_beside(axes: "Axes") -> None:
    """A legend to the right of the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def whole_numbers(axes: "Axes") -> None:
    """Ticks of the x axis at whole numbers alone: there is no half epoch."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def heat(values: Sequence[float]) -> list[tuple]:
    """The colour of each value, from the darkest for the lowest to the brightest for the highest."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    scale = Normalize(min(values), max(values))
    return [colormaps["viridis"](scale(value)) for value in values]


def _svg(made: "Figure") -> bytes:
    file = io.BytesIO()
    made.savefig(file, format="svg", dpi=200, metadata={"Date": None})
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return re.sub(rb"(<svg [^>]*>)", lambda found: found[0] + style.encode(), file.getvalue(), count=1)

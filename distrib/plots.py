"""A figure and its PNG, in one style: the only door to matplotlib. Each plot lives with its owner."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches, which lays its parts out by itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def grid_and_legend(*axes: "Axes") -> None:
    """Draws a light grid and a legend into each."""
    for one in axes:
        one.grid(alpha=0.3)
        one.legend(fontsize=8)


def heat(values: Sequence[float]) -> list[tuple]:
    """The colour of each value, from the darkest for the lowest to the brightest for the highest."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    scale = Normalize(min(values), max(values))
    return [colormaps["viridis"](scale(value)) for value in values]


def png(figure: "Figure") -> bytes:
    """The figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    return file.getvalue()

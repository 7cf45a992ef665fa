"""The plots of a search, as PNG. Each takes the rows of its table: one flat dict a trial."""

from collections.abc import Sequence

import numpy as np

from distrib.plots import figure, grid_and_legend, heat, png

ROBUST, CLEAN, COST = "robust_accuracy", "clean_accuracy", "cost_hours"
MARKS = {"finished": "o", "stopped": "x"}


def plot_history(rows: Sequence[dict]) -> bytes:
    """Robust accuracy of each trial in the order of their numbers, and the best so far."""
    drawn = figure(7, 3.5)
    axes = drawn.subplots()
    for state, mark in MARKS.items():
        mine = [row for row in rows if row["state"] == state]
        axes.plot([row["trial"] for row in mine], [100 * row[ROBUST] for row in mine], mark, label=state)
    best = np.maximum.accumulate([100 * row[ROBUST] for row in rows])
    axes.step([row["trial"] for row in rows], best, where="post", color="grey", linewidth=1, label="best so far")
    axes.set(xlabel="trial", ylabel="validation robust accuracy, %")
    grid_and_legend(axes)
    return png(drawn)


def pareto(rows: Sequence[dict], front: Sequence[int]) -> bytes:
    """Clean against robust accuracy, coloured by cost; the trials of the front are ringed and numbered."""
    drawn = figure(7, 4.5)
    axes = drawn.subplots()
    points = axes.scatter(
        [100 * row[CLEAN] for row in rows], [100 * row[ROBUST] for row in rows], c=[row[COST] for row in rows], s=35
    )
    mine = [row for row in rows if row["trial"] in front]
    axes.scatter(
        [100 * row[CLEAN] for row in mine], [100 * row[ROBUST] for row in mine], s=130, facecolors="none",
        edgecolors="tab:red", label="front (robust, clean, cost)",
    )  # fmt: skip
    for row in mine:
        axes.annotate(str(row["trial"]), (100 * row[CLEAN], 100 * row[ROBUST]), fontsize=8, xytext=(6, 4),
                      textcoords="offset points")  # fmt: skip
    drawn.colorbar(points, ax=axes, label="core- or GPU-hours")
    axes.set(xlabel="validation clean accuracy, %", ylabel="validation robust accuracy, %")
    grid_and_legend(axes)
    return png(drawn)


def parallel(rows: Sequence[dict], names: Sequence[str]) -> bytes:
    """A line a trial across all the fields that were searched, and its accuracies; coloured by robust accuracy."""
    drawn = figure(2.1 * len(names) + 1, 4.5)
    axes = drawn.subplots()
    heights = np.array([_scaled([row[name] for row in rows]) for name in names])
    robust = [row[ROBUST] for row in rows]
    colours = heat(robust)
    for column in np.argsort(robust):  # the best on top
        axes.plot(heights[:, column], color=colours[column], linewidth=1.5)
    axes.set_xticks(range(len(names)), [_short(name) for name in names], rotation=15, ha="right")
    axes.set_yticks([])
    for place, name in enumerate(names):
        axes.axvline(place, color="grey", linewidth=0.8)
        found = [row[name] for row in rows]
        low, high = (min, max) if all(isinstance(one, int | float) for one in found) else (_first, _last)
        for height, one in ((-0.04, low(found)), (1.04, high(found))):
            axes.text(place, height, _word(one), ha="center", va="center", fontsize=8)
    axes.set_ylim(-0.1, 1.1)
    return png(drawn)


def pairs(rows: Sequence[dict], epsilon: str, step_size: str, evaluated: float) -> bytes:
    """The plane of training epsilon and step size: each cell the mean robust accuracy of its trials; trials as dots."""
    drawn = figure(7, 4.5)
    axes = drawn.subplots()
    x, y, z = (np.array([float(row[name]) for row in rows]) for name in (epsilon, step_size, ROBUST))
    edges = [np.linspace(one.min(), one.max() + 1e-9, 7) for one in (x, y)]
    sums, counts = (np.histogram2d(x, y, bins=edges, weights=weights)[0] for weights in (100 * z, None))
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    cells = axes.pcolormesh(*edges, means.T, cmap="viridis")
    axes.plot(x, y, "o", color="white", markeredgecolor="black", markersize=4, clip_on=False, zorder=3)
    if x.min() <= evaluated <= x.max():
        axes.axvline(evaluated, color="tab:red", linestyle="--", label=f"evaluated at {evaluated:.4g}")
        axes.legend(fontsize=8)
    drawn.colorbar(cells, ax=axes, label="validation robust accuracy, %")
    axes.set(xlabel="training epsilon", ylabel=f"{_short(step_size)}, as drawn")
    return png(drawn)


def against(rows: Sequence[dict], name: str) -> bytes:
    """Clean and robust accuracy against a numeric field."""
    drawn = figure(7, 3.5)
    axes = drawn.subplots()
    for what, colour in ((CLEAN, "C0"), (ROBUST, "C1")):
        axes.plot([row[name] for row in rows], [100 * row[what] for row in rows], "o", color=colour, alpha=0.6)
        values = sorted({row[name] for row in rows})
        best = [max(100 * row[what] for row in rows if row[name] == value) for value in values]
        axes.plot(values, best, color=colour, linewidth=1, label=f"best {what.partition('_')[0]}")
    axes.set(xlabel=_short(name), ylabel="validation accuracy, %")
    grid_and_legend(axes)
    return png(drawn)


def bars(shares: dict[str, float], what: str) -> bytes:
    """A bar for each name."""
    drawn = figure(7, 0.5 * len(shares) + 1.2)
    axes = drawn.subplots()
    names = list(shares)[::-1]
    axes.barh([_short(name) for name in names], [shares[name] for name in names])
    axes.set(xlabel=what, xlim=(0, 1))
    axes.grid(alpha=0.3)
    return png(drawn)


def _scaled(values: list) -> list[float]:
    """Numbers between 0 and 1; what is no number gets a place of its own."""
    if not all(isinstance(one, int | float) for one in values):
        places = sorted({str(one) for one in values})
        values = [places.index(str(one)) for one in values]
    low, high = min(values), max(values)
    return [(one - low) / (high - low) if high > low else 0.5 for one in values]


def _first(values: list) -> str:
    return min(str(one) for one in values)


def _last(values: list) -> str:
    return max(str(one) for one in values)


def _word(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:18]


def _short(path: str) -> str:
    return path.removeprefix("objective.attack.").removesuffix("_accuracy")

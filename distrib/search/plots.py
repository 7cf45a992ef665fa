"""The plots of a search. Each takes the rows of its table: one flat dict a trial.

Beside what :func:`distrib.search.report.row` says, ``winner`` tells whether it is the winner, and ``curve`` has its
validation robust accuracy at every epoch. Trials that were stopped early are drawn apart: what they reached in fewer
epochs is not what the others reached.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from distrib.plots import COLOURS, INK, MARKS, PAPER, QUIET, drawn, figure, heat, legend_beside, plain
from distrib.values import shown_radius

if TYPE_CHECKING:
    from distrib.plots import Axes, Figure

ROBUST, CLEAN, COST = "robust_accuracy", "clean_accuracy", "cost_hours"
ROBUST_LABEL, CLEAN_LABEL = "validation robust accuracy, %", "validation clean accuracy, %"
LEAST_FOR_CELLS = 50
"""The mean of a cell of the plane is drawn from this many trials on: of fewer, most cells would be one trial."""
STOPPED_MARK: dict[str, Any] = {"color": QUIET, "marker": "x"}
STATE_MARKS: dict[str, dict[str, Any]] = {
    "finished": {"color": COLOURS[0], "marker": MARKS[0]},
    "stopped": STOPPED_MARK,
}
EDGE: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.6}
"""Round a dot that is coloured by a value: the ends of the scale are near to one paper or the other."""
MOST_WORDS = 6
"""Values of an axis that is no number, if each of them is to be written beside it."""


@drawn
def plot_history(rows: Sequence[dict], about: str) -> "Figure":
    """Robust accuracy of each trial in the order of their numbers, and that of the best finished one so far."""
    made = figure(7, 3.5, "Every trial in its order", about)
    axes = made.subplots()
    for state, style in STATE_MARKS.items():
        mine = [row for row in rows if row["state"] == state]
        if mine:
            axes.plot([row["trial"] for row in mine], _per_cent(mine, ROBUST), linestyle="", label=state, **style)
    done = [row for row in rows if row["state"] == "finished"]
    best = list(accumulate(done, lambda so_far, row: max(so_far, row, key=lambda one: one["score"])))
    if best:
        steps = [*(row["trial"] for row in done), max(row["trial"] for row in rows)]
        heights = _per_cent([*best, best[-1]], ROBUST)
        axes.step(steps, heights, where="post", color=COLOURS[0], linewidth=1, label="best finished so far")
    _star(axes, rows, "trial", ROBUST)
    numbers = [row["trial"] for row in rows]
    axes.set(xlabel="trial", ylabel=ROBUST_LABEL, xlim=(min(numbers) - 0.5, max(numbers) + 0.5))
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    legend_beside(axes)
    return made


@drawn
def pareto(rows: Sequence[dict], front: Sequence[int], about: str) -> "Figure":
    """Clean against robust accuracy, coloured by cost; the trials of the front are joined and numbered."""
    made = figure(7, 4.8, "Clean against robust accuracy", about)
    axes = made.subplots()
    done, stopped = ([row for row in rows if row["state"] == state] for state in ("finished", "stopped"))
    if stopped:
        axes.plot(_per_cent(stopped, CLEAN), _per_cent(stopped, ROBUST), linestyle="", alpha=0.5, label="stopped",
                  **STOPPED_MARK)  # fmt: skip
    if done:
        points = axes.scatter(
            _per_cent(done, CLEAN), _per_cent(done, ROBUST), c=[row[COST] for row in done], s=36, label="finished",
            zorder=3, **EDGE,
        )  # fmt: skip
        made.colorbar(points, ax=axes, label="core- or GPU-hours")
    best = sorted((row for row in done if row["trial"] in front), key=lambda row: (row[CLEAN], -row[ROBUST]))
    if best:
        axes.step(
            _per_cent(best, CLEAN), _per_cent(best, ROBUST), where="pre", color=QUIET, linewidth=1, linestyle="--",
            label="front: no other is better in both",
        )  # fmt: skip
    for point in dict.fromkeys(zip(_per_cent(best, CLEAN), _per_cent(best, ROBUST), strict=True)):
        numbers = [str(row["trial"]) for row in best if (100 * row[CLEAN], 100 * row[ROBUST]) == point]
        text = ", ".join(numbers[:3]) + ", …" * (len(numbers) > 3)
        axes.annotate(text, point, fontsize=8, xytext=(6, 5), textcoords="offset points")
    _star(axes, rows, CLEAN, ROBUST)
    axes.set(xlabel=CLEAN_LABEL, ylabel=ROBUST_LABEL)
    axes.margins(0.08)
    made.legend(loc="outside lower center", ncols=4)
    return made


@drawn
def parallel(rows: Sequence[dict], names: Sequence[str], logs: Sequence[str], about: str) -> "Figure":
    """A line a trial across the fields that were searched, and its accuracies; those in ``logs`` on logarithmic axes.

    Finished trials are coloured by robust accuracy, the best on top.
    """
    made = figure(max(7, 1.5 * len(names) + 1.6), 4.6, "Settings and what they came to", about)
    axes = made.subplots()
    heights = np.array([_scaled([row[name] for row in rows], name in logs) for name in names])
    places = range(len(names))
    done = sorted((i for i, row in enumerate(rows) if row["state"] == "finished"), key=lambda i: rows[i][ROBUST])
    colours = dict(zip(done, heat([rows[i][ROBUST] for i in done]), strict=True)) if done else {}
    for column, row in enumerate(rows):
        if column not in colours:
            width = 2.5 if row["winner"] else 0.7
            axes.plot(places, heights[:, column], color=QUIET, linewidth=width, linestyle="--", alpha=0.6)
    for order, column in enumerate(done):
        width = 3.5 if rows[column]["winner"] else 1.4
        axes.plot(places, heights[:, column], color=INK, linewidth=width + 0.9, zorder=3 + order)  # its edge, see EDGE
        axes.plot(places, heights[:, column], color=colours[column], linewidth=width, zorder=3 + order)
    if done:
        ends = heights[-1, done]
        points = axes.scatter([len(names) - 1] * len(done), ends, c=_per_cent([rows[i] for i in done], ROBUST), s=16,
                              zorder=4 + len(done), **EDGE)  # fmt: skip
        made.colorbar(points, ax=axes, label=ROBUST_LABEL, pad=0.08)
    for place, name in enumerate(names):
        axes.plot([place, place], [0, 1], color=QUIET, linewidth=0.8, zorder=2)
        _write_values(axes, place, [row[name] for row in rows], name)
    for label, colour, width, dash in (
        ("finished", INK, 1.4, "-"),
        ("winner", INK, 4, "-"),
        ("stopped", QUIET, 0.7, "--"),
    ):
        if any(row["winner"] if label == "winner" else row["state"] == label for row in rows):
            axes.plot([], [], label=label, color=colour, linewidth=width, linestyle=dash)
    axes.set_xticks(places, [f"{field_word(name)}{', log' if name in logs else ''}" for name in names],
                    rotation=15, ha="right")  # fmt: skip
    axes.set(yticks=[], ylim=(-0.12, 1.12), xlim=(-0.35, len(names) - 0.65))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    made.legend(loc="outside lower center", ncols=3)
    return made


@drawn
def pairs(rows: Sequence[dict], epsilon: str, step_size: str, evaluated: float, about: str) -> "Figure":
    """The plane of training epsilon and step size: trials as dots coloured by robust accuracy.

    Where they are many, each cell has the mean of its own.
    """
    made = figure(7, 4.6, "Training epsilon and step size", about)
    axes = made.subplots()
    x, y, z = (np.array([float(row[name]) for row in rows]) for name in (epsilon, step_size, ROBUST))
    scale = {"vmin": 100 * z.min(), "vmax": 100 * z.max()}
    if len(rows) >= LEAST_FOR_CELLS:
        edges = [np.linspace(one.min(), one.max() + 1e-9, 7) for one in (x, y)]
        sums, counts = (np.histogram2d(x, y, bins=edges, weights=weights)[0] for weights in (100 * z, None))
        means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        axes.pcolormesh(*edges, means.T, alpha=0.55, linewidth=0, **scale)
    for state, mark in (("finished", MARKS[0]), ("stopped", "X")):
        mine = np.array([row["state"] == state for row in rows])
        if mine.any():
            points = axes.scatter(x[mine], y[mine], c=100 * z[mine], marker=mark, s=42, label=state, zorder=3,
                                  **scale, **EDGE)  # fmt: skip
            if state == "finished" or mine.all():
                made.colorbar(points, ax=axes, label=ROBUST_LABEL)
    axes.axvline(evaluated, color=COLOURS[1], linestyle="--", label=f"evaluated at {shown_radius(evaluated)}")
    _star(axes, rows, epsilon, step_size, 1)
    axes.use_sticky_edges = False
    axes.margins(0.05)
    axes.set(xlabel="training epsilon", ylabel=f"{field_word(step_size)}, as drawn")
    made.legend(loc="outside lower center", ncols=4)
    return made


@drawn
def plot_learning(rows: Sequence[dict], about: str) -> "Figure":
    """Robust accuracy at every epoch, a line a trial; a stopped one ends with a mark, the winner has its best one."""
    made = figure(7, 3.9, "Learning curves of all trials", about)
    axes = made.subplots()
    known = set()
    for row in sorted(rows, key=lambda row: (row["winner"], row["state"] == "finished")):  # what counts on top
        epochs, heights = range(1, len(row["curve"]) + 1), [100 * one for one in row["curve"]]
        kind = f"winner, trial {row['trial']}" if row["winner"] else row["state"]
        style: dict[str, Any] = {"marker": MARKS[0] if len(heights) == 1 else ""}
        if row["winner"]:
            style |= {"color": COLOURS[1], "linewidth": 2.4}
        elif kind == "finished":
            style |= {"color": COLOURS[0], "linewidth": 1, "alpha": 0.65}
        else:
            style |= {"linewidth": 0.9, "linestyle": "--", "markevery": [-1], **STOPPED_MARK}
        axes.plot(epochs, heights, label="_" * (kind in known) + kind, **style)
        known.add(kind)
        if row["winner"]:
            axes.plot(row["best_epoch"], 100 * row["curve"][row["best_epoch"] - 1], label="its best epoch", **STAR)
    axes.set(xlabel="epoch", ylabel=ROBUST_LABEL)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    legend_beside(axes)
    return made


@drawn
def against(rows: Sequence[dict], name: str, about: str) -> "Figure":
    """Clean and robust accuracy against a numeric field, and the best finished trial at each of its values."""
    made = figure(7, 3.6, f"Accuracy against {field_word(name)}", about)
    axes = made.subplots()
    done, stopped = ([row for row in rows if row["state"] == state] for state in ("finished", "stopped"))
    values = sorted({row[name] for row in done})
    for i, what in enumerate((CLEAN, ROBUST)):
        word = what.partition("_")[0]
        if done:
            best = [max(100 * row[what] for row in done if row[name] == value) for value in values]
            axes.plot([row[name] for row in done], _per_cent(done, what), MARKS[i], color=COLOURS[i], label=word)
            axes.plot(values, best, "-" if i else "--", color=COLOURS[i], linewidth=1, label=f"best {word}")
        if stopped:
            axes.plot([row[name] for row in stopped], _per_cent(stopped, what), MARKS[i], color=QUIET,
                      fillstyle="none", label=f"{word}, stopped")  # fmt: skip
    ticks = sorted({row[name] for row in rows})
    if len(ticks) <= MOST_WORDS:
        axes.set_xticks(ticks, [plain(setting_word(one)) for one in ticks])
    axes.set(xlabel=field_word(name), ylabel="validation accuracy, %")
    legend_beside(axes)
    return made


@drawn
def bars(shares: dict[str, float], trials: int, about: str) -> "Figure":
    """How much of the differences in robust accuracy each field explains, and of how many trials that was guessed."""
    made = figure(7, 0.42 * len(shares) + 1.7, "What the differences in robust accuracy go with", about)
    axes = made.subplots()
    names = list(shares)[::-1]
    drawn_bars = axes.barh([field_word(name) for name in names], [shares[name] for name in names], color=COLOURS[0])
    axes.bar_label(drawn_bars, [f"{100 * shares[name]:.0f} %" for name in names], padding=4, color=INK)
    axes.set(xlabel="share (fANOVA)", xlim=(0, 1.1), title=f"Over {trials} trials: a hint, no finding")
    axes.grid(axis="y", visible=False)
    return made


STAR: dict[str, Any] = {
    "color": COLOURS[1], "marker": "*", "markersize": 14, "markeredgecolor": INK, "linestyle": "", "zorder": 9
}  # fmt: skip
"""The winner's mark, in every plot."""


def _star(axes: "Axes", rows: Sequence[dict], x: str, y: str, factor: float = 100) -> None:
    """Marks the winner; ``factor`` makes the unit of ``y``, and of ``x`` where that is an accuracy."""
    for row in rows:
        if row["winner"]:
            across = row[x] * (100 if x in (CLEAN, ROBUST) else 1)
            axes.plot([across], [row[y] * factor], label=f"winner, trial {row['trial']}", **STAR)


def _per_cent(rows: Sequence[dict], name: str) -> list[float]:
    return [100 * row[name] for row in rows]


def are_numbers(values: Sequence) -> bool:
    """Whether an axis of these values can be one of numbers."""
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def _scaled(values: Sequence, log: bool) -> list[float]:
    """Numbers between 0 and 1; what is no number gets a place of its own."""
    if not are_numbers(values):
        words = sorted({str(one) for one in values})
        values = [words.index(str(one)) for one in values]
    elif log and min(values) > 0:
        values = np.log(values).tolist()
    low, high = min(values), max(values)
    return [(one - low) / (high - low) if high > low else 0.5 for one in values]


def _write_values(axes: "Axes", place: int, values: Sequence, name: str) -> None:
    """The lowest and the highest number at the ends of an axis; of what is no number, all where they are few."""
    if are_numbers(values):
        ends = [min(values), max(values)] if min(values) < max(values) else [values[0]]
        accuracy = name in (CLEAN, ROBUST)
        words = [f"{100 * one:.1f} %" if accuracy else setting_word(one) for one in ends]
    else:
        every = sorted({str(one) for one in values})
        words = [setting_word(one) for one in every]
    for i, word in enumerate(words):
        height = i / (len(words) - 1) if len(words) > 1 else 0.5
        if len(words) <= MOST_WORDS or i in (0, len(words) - 1):
            end = {0.0: "top", 1.0: "bottom", 0.5: "bottom" if len(words) == 1 else "center"}.get(height, "center")
            shift = {"top": -0.025, "bottom": 0.025}.get(end, 0)
            paper = {"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.8}
            axes.text(place, height + shift, plain(word), ha="center", va=end, fontsize=7.5, zorder=99, bbox=paper)


def setting_word(value: object) -> str:
    """A setting, short enough to stand in a plot."""
    if isinstance(value, float):
        return shown_radius(value)
    word = str(value).strip("{}").replace('"', "")
    return word if len(word) <= 20 else f"{word[:19]}…"


def field_word(path: str) -> str:
    """A field or a column, short enough to stand beside an axis."""
    for part in ("objective.attack.", "objective.threat.", "objective."):
        path = path.removeprefix(part)
    return path.replace("_accuracy", " accuracy")

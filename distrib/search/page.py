"""The interactive page of a search: Optuna's figures of it in one HTML file, which loads nothing from anywhere.

The figures are of the finished trials: what a stopped one reached in fewer epochs is not what the others reached. It is
among the learning curves and in the table.
"""

import html
import shlex
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import TrialState

from distrib.config.job import Tune
from distrib.config.search import Domain, LogUniform
from distrib.plots import COLOURS
from distrib.search.plots import (
    CLEAN,
    CLEAN_LABEL,
    ROBUST,
    ROBUST_LABEL,
    are_numbers,
    field_word,
    setting_word,
)
from distrib.tracking.page import figure_in_page, page

OPTUNA_STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
SCALE = [[0.0, COLOURS[0]], [0.5, COLOURS[5]], [1.0, COLOURS[1]]]
"""From the lowest value to the highest, legible on both papers: Optuna's own blues vanish in one of them."""
INFEASIBLE = "#cccccc"
"""Optuna's colour of a trial that breaks a constraint."""


def search_page(job: Tune, about: str, rows: Sequence[dict], table: Sequence[dict], shares: dict[str, float]) -> bytes:
    """The page; ``rows`` are those that are drawn, ``table`` has every trial, ``shares`` are the fields' importance."""
    winner = next(row for row in rows if row["winner"])
    states = [row["state"] for row in table]
    divided = {path: by for path, domain in job.space.items() if (by := getattr(domain, "divided_by", None))}
    figures = [
        (title, note, wide, _written(made, wide, first=not i))
        for i, (title, note, wide, made) in enumerate(_figures(job, rows, shares))
    ]
    return page(
        "search", title=f"Search {job.name}", about=about, job=job, winner=winner, figures=figures,
        states={state: states.count(state) for state in ("finished", "stopped", "failed")},
        settings={path: next(one[path] for one in table if one["trial"] == winner["trial"]) for path in job.space},
        divided=divided, start=shlex.join(["distrib", "run", f"{job.storage}/{job.name}/search/best.yaml"]),
        columns={name: field_word(name) for name in table[0]}, table=table,
    )  # fmt: skip


def _figures(job: Tune, rows: Sequence[dict], shares: dict[str, float]) -> list[tuple[str, str, int, go.Figure]]:
    """(title, note, least width in pixels, figure) of each that these trials can fill."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = _names(job)
    study = _study(job, rows, lambda row: [100 * row[ROBUST]])
    floor = job.score.min_clean_accuracy
    under = f" Grey or dotted: clean accuracy under {100 * floor:g} %, which counts for nothing." if floor else ""
    curves = visualization.plot_intermediate_values(study)
    _restyle_curves(curves, {row["trial"]: row for row in rows})
    found = [
        ("Learning curves", "A line a trial; stopped ones are grey and end early, the winner is thick.", 0, curves)
    ]
    done = [row for row in rows if row["state"] == "finished"]
    if done:
        history = visualization.plot_optimization_history(study, target_name=ROBUST_LABEL)
        history.update_traces(selector={"name": "Best Value"}, name="best so far", line={"shape": "hv"})
        history.update_xaxes(title="trial", dtick=_whole(max(row["trial"] for row in rows)))
        found.insert(0, ("History", f"Each finished trial, and the best of them so far.{under}", 0, history))
        both = _study(job, rows, lambda row: [100 * row[CLEAN], 100 * row[ROBUST]])
        front = visualization.plot_pareto_front(both, target_names=[CLEAN_LABEL, ROBUST_LABEL])
        note = f"On the front are those that no other finished trial beats in both.{under}"
        found.append(("Clean against robust accuracy", note, 0, front))
        lines = visualization.plot_parallel_coordinate(study, target_name="robust, %")
        _recolour_lines(lines, [row[ROBUST] for row in done])
        found.append(
            ("Settings and what they came to", f"A line a finished trial.{under}", 130 * len(names) + 240, lines)
        )
        slices = visualization.plot_slice(study, target_name=ROBUST_LABEL)
        slices.update_layout(showlegend=False)
        found.append(("Each field by itself", f"A dot a finished trial.{under}", 230 * len(names) + 80, slices))
        varied = [names[path] for path in shares or names if _varied([row[path] for row in done])][:2]
        if len(varied) == 2:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                plane = visualization.plot_rank(study, varied, target_name=ROBUST_LABEL)
            plane.update_traces(marker={"size": 10, "line": {"color": COLOURS[5], "width": 1}})
            found.append(
                ("Two fields together", "Each finished trial, coloured by its rank in robust accuracy.", 0, plane)
            )
    if shares:
        note = "What the differences in robust accuracy go with. "
        note += f"Of {len(rows)} trials, stopped ones too, it is a hint, no finding."
        found.append(("Importance", note, 0, _bars({names[path]: share for path, share in shares.items()})))
    return found


def _names(job: Tune) -> dict[str, str]:
    """What each field is called in the figures: in short, unless two would be called alike."""
    short = {path: field_word(path) for path in job.space}
    return short if len(set(short.values())) == len(short) else {path: path for path in short}


def _bars(shares: dict[str, float]) -> go.Figure:
    names = list(shares)[::-1]
    bars = go.Bar(
        x=[shares[name] for name in names], y=names, orientation="h", textposition="outside", cliponaxis=False,
        text=[f"{100 * shares[name]:.0f} %" for name in names],
    )  # fmt: skip
    return go.Figure(bars, go.Layout(xaxis={"title": "share (fANOVA)", "range": (0, 1.12)}, yaxis={"automargin": True}))


def _whole(most: int) -> int | None:
    """The distance of an axis' ticks, where plotly would put some between two whole numbers."""
    return 1 if most <= 12 else None


def _restyle_curves(figure: go.Figure, rows: dict[int, dict]) -> None:
    """The winner thick, those that were stopped grey and dashed."""
    figure.update_layout(yaxis_title=ROBUST_LABEL, showlegend=False)
    figure.update_xaxes(title="epoch", dtick=_whole(max(row["epochs"] for row in rows.values())))
    traces: Any = figure.data
    for trace in traces:
        row = rows[int(trace.name.removeprefix("Trial"))]
        stopped = row["state"] == "stopped"
        colour = COLOURS[1] if row["winner"] else COLOURS[5] if stopped else COLOURS[0]
        line = {"color": colour, "dash": "dot" if stopped else "solid", "width": 3.5 if row["winner"] else 1.2}
        trace.update(line=line, marker={"color": colour, "size": 4, "symbol": "x" if stopped else "circle"})


def _varied(values: Sequence) -> bool:
    return are_numbers(values) and min(values) < max(values)


def _study(job: Tune, rows: Sequence[dict], values: Callable[[dict], list[float]]) -> optuna.Study:
    """The search as Optuna holds one, to be drawn: trials have their own numbers, settings are words or numbers."""
    names = _names(job)
    shown = {names[path]: _values([one[path] for one in rows]) for path in job.space}
    distributions = {names[path]: _distribution(domain, shown[names[path]]) for path, domain in job.space.items()}
    floor = job.score.min_clean_accuracy
    study = optuna.create_study(directions=[StudyDirection.MAXIMIZE] * len(values(rows[0])))
    for i, row in enumerate(rows):
        while len(study.trials) < row["trial"]:  # numbers begin at 0 there, and those that failed are missing here
            study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
        study.add_trial(optuna.trial.create_trial(
            state=OPTUNA_STATES[row["state"]],
            values=values(row),
            params={name: column[i] for name, column in shown.items()},
            distributions=distributions,
            intermediate_values={epoch: 100 * one for epoch, one in enumerate(row["curve"], 1)},
            constraints={"clean accuracy": floor - row[CLEAN]} if floor else None,
        ))  # fmt: skip
    return study


def _values(settings: Sequence) -> list[float] | list[str]:
    """A field's settings as numbers where all of them are, else as words; plotly takes a ``<`` in one for a tag."""
    if are_numbers(settings):
        return [float(one) for one in settings]
    words = {str(one): setting_word(one) for one in settings}
    if len(set(words.values())) < len(words):  # two that begin alike would be one
        words = {one: one for one in words}
    return [html.escape(words[str(one)]) for one in settings]


def _distribution(domain: Domain, values: Sequence) -> BaseDistribution:
    if not are_numbers(values):
        return CategoricalDistribution(sorted(set(values)))
    return FloatDistribution(min(values), max(values), log=isinstance(domain, LogUniform))


def _recolour_lines(figure: go.Figure, values: Sequence[float]) -> None:
    """Gives the lines of a parallel-coordinate figure, one for each of these values, the colours of ``SCALE``."""
    from plotly.colors import sample_colorscale

    traces: Any = figure.data
    low, high = min(values), max(values)
    for line, value in zip(traces, values, strict=False):
        place = (value - low) / (high - low) if high > low else 0.5
        line.update(line={"color": sample_colorscale(SCALE, place)[0], "width": 1.8}, opacity=0.85)
    for trace in traces[len(values) :]:
        if trace.marker.showscale:
            trace.marker.update(colorscale=SCALE, reversescale=False, colorbar={"title": {"side": "right"}})
        trace.update(line={"color": COLOURS[5]}, name={"Feasible": "counts", "Infeasible": "does not"}.get(trace.name))
    figure.update_layout(plot_bgcolor=None)
    figure.update_annotations(font={"color": None})


def _written(figure: go.Figure, wide: int, first: bool) -> str:
    """The figure as a part of a page; the first one brings plotly."""
    for trace in figure.data:
        if isinstance(trace, go.Scatter):
            _recolour_dots(trace)
    return figure_in_page(figure, first)


def _recolour_dots(dots: Any) -> None:
    """Takes away the colours by the number of a trial, which tell nothing and vanish in one of the papers."""
    best = "Best Trial" in (dots.hovertemplate or "")
    if dots.marker.color == INFEASIBLE:
        dots.marker.update(color=COLOURS[5], symbol="x")
    elif dots.marker.colorbar.title.text in ("Trial", "Best Trial"):
        name, symbol = ("on the front", "diamond") if best else ("finished", "circle")
        dots.update(name=name, showlegend=best or None)
        dots.marker.update(
            color=COLOURS[1] if best else COLOURS[0], showscale=False, symbol=symbol, size=10 if best else 7
        )

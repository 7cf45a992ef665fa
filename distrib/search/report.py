"""The files that a search leaves: its trials and rungs as tables, plots of them, and one page of it all."""

import csv
import io
import json
import math

from distrib.checkpoints import ROBUST
from distrib.config.job import Tune, dump
from distrib.config.search import Asha, LogUniform
from distrib.search import plots
from distrib.search.page import search_page
from distrib.search.sampler import importance
from distrib.search.trials import TrialOutcome, Trials, best_trial, front
from distrib.values import parse_fraction, shown_radius, table_cell

EPSILON, WIDTH = "objective.threat.epsilon", "model.width"
STEP_SIZES = ("objective.attack.step_size", "objective.attack.step_size.of_epsilon")


def report_files(job: Tune, trials: Trials, outcomes: list[TrialOutcome], images: int) -> dict[str, bytes]:
    """The content of every table and plot, by file name; ``images`` is the number of held-out ones that judged."""
    table, told = trial_table(job, trials), about_search(job, images)
    found = {"trials.csv": _csv(table), "trials.json": trials_json(job, trials)}
    if isinstance(job.stopping, Asha):
        found["rungs.csv"] = _csv(rungs(job, trials))
    rows = plot_rows(job, trials, outcomes)
    best = [one.trial.number for one in front(outcomes, ("robust", "clean"))]
    logs = [path for path, domain in job.space.items() if isinstance(domain, LogUniform)]
    drawn = {
        "history.svg": plots.plot_history(rows, told),
        "learning_curves.svg": plots.plot_learning(rows, told),
        "pareto.svg": plots.pareto(rows, best, told),
        "parallel.svg": plots.parallel(rows, [*job.space, plots.CLEAN, plots.ROBUST], logs, told),
    }
    numeric = [path for path in job.space if plots.are_numbers([one[path] for one in rows])]
    step = next((path for path in STEP_SIZES if path in numeric), None)
    if EPSILON in numeric and step:
        drawn["epsilon_step_size.svg"] = plots.pairs(rows, EPSILON, step, job.score.threat.epsilon, told)
    if WIDTH in numeric:
        drawn["width.svg"] = plots.against(rows, WIDTH, told)
    shares = importance(job.space, outcomes)
    if shares:
        drawn["importance.svg"] = plots.bars(shares, len(outcomes), told)
        found["importance.json"] = json.dumps(shares, indent=2).encode()
    return found | drawn | {"report.html": search_page(job, told, rows, table, shares)}


def about_search(job: Tune, images: int) -> str:
    """What was measured, on what, in which run: a line below the title of every plot."""
    model, threat = dump(job.train.model), job.score.threat
    network = " ".join(str(model[key]) for key in ("arch", "name", "factory") if model.get(key))
    searched = [path for path in job.space if path.partition(".")[0] == "model"]
    if "model" in searched or "model.arch" in searched:
        network = "several networks"
    elif "model.width" not in searched and model.get("width", 1) != 1:
        network += f", width {model['width']:g}"
    epsilon = shown_radius(threat.epsilon)
    return (
        f"{network} · {threat.title} {epsilon}, {job.score.attack.name} · {images} validation images · run {job.name}"
    )


MOST_TOLD = 10
"""Trials of a description; the tables and the page have all."""


def describe_search(job: Tune, outcomes: list[TrialOutcome], images: int) -> str:
    """The winner and the trials next to it, in Markdown: the description of the search's MLflow run."""
    top = best_trial(outcomes)
    others = sorted((one for one in outcomes if one is not top), key=lambda one: -one.score)
    names = [*job.space, "clean", "robust", "epochs", ""]
    lines = [
        "| " + " | ".join([str(one.trial.number), *(table_cell(_plain(one.trial.settings[path])) for path in job.space),
                           f"{one.clean_accuracy:.2%}", f"{one.robust_accuracy:.2%}", str(one.epochs),
                           "**winner**" if one is top else one.trial.state]) + " |"
        for one in [top, *others][:MOST_TOLD]
    ]  # fmt: skip
    return "\n".join([
        f"# Search {job.name}", "", f"Trial {top.trial.number} has {top.robust_accuracy:.2%} robust and "
        f"{top.clean_accuracy:.2%} clean accuracy at its best epoch: {about_search(job, images)}. These are figures of "
        "the validation, by one attack: no evaluation.", "", f"| trial | {' | '.join(names)} |",
        "|---:" + "|---" * len(names) + "|", *lines, "",
        f"`distrib run {job.storage}/{job.name}/search/best.yaml` trains and judges it.",
    ])  # fmt: skip


def plot_rows(job: Tune, trials: Trials, outcomes: list[TrialOutcome]) -> list[dict]:
    """The rows that are drawn: fractions are numbers, and each trial has its curve and whether it is the winner."""
    winner = best_trial(outcomes).trial.number
    return [
        row(job, one)
        | {path: _number(_plain(value)) for path, value in one.trial.settings.items()}
        | {"winner": one.trial.number == winner, "curve": [epoch[ROBUST] for epoch in trials.history(one.trial.number)]}
        for one in outcomes
    ]


def row(job: Tune, one: TrialOutcome) -> dict:
    """A trial as one flat row."""
    return {
        "trial": one.trial.number,
        "state": one.trial.state,
        **{path: _plain(value) for path, value in one.trial.settings.items()},
        "epochs": one.epochs,
        "best_epoch": one.best_epoch,
        "robust_accuracy": one.robust_accuracy,
        "clean_accuracy": one.clean_accuracy,
        "score": one.score,
        "cost_hours": round(one.cost_hours, 6),
        "error": one.trial.error,
    }


def _plain(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict) else value


def _number(value: object) -> object:
    """A fraction, as ``8/255``, as the number that it is."""
    try:
        return parse_fraction(value)
    except ValueError:
        return value


def trial_table(job: Tune, trials: Trials) -> list[dict]:
    """A row for every trial, also for those that failed before their first epoch."""
    known = {one.trial.number: row(job, one) for one in trials.outcomes()}
    empty = {"epochs": 0, "best_epoch": "", "robust_accuracy": "", "clean_accuracy": "", "score": "", "cost_hours": 0}
    return [
        known.get(number)
        or {"trial": number, "state": trial.state, **{path: _plain(one) for path, one in trial.settings.items()},
            **empty, "error": trial.error}
        for number, trial in trials.items()
    ]  # fmt: skip


def trials_json(job: Tune, trials: Trials) -> bytes:
    """Every trial with its settings and the accuracies of every epoch."""
    names = ("validation_robust_accuracy", "validation_clean_accuracy", "train_loss")
    rows = [
        {
            "trial": number, "state": trial.state, "settings": trial.settings, "error": trial.error,
            "epochs": [{name: epoch[name] for name in names} for epoch in trials.history(number)],
        }
        for number, trial in trials.items()
    ]  # fmt: skip
    return json.dumps(rows, indent=2).encode()


def rungs(job: Tune, trials: Trials) -> list[dict]:
    """A row for every trial at every rung: its score there (of its best epoch so far), and whether it went on."""
    assert isinstance(job.stopping, Asha)
    places, found = [float(job.stopping.grace_epochs)], []
    while (further := places[-1] * job.stopping.reduction_factor) < job.train.optim.epochs:
        places.append(further)
    histories = {number: trials.history(number) for number in trials}
    for rung in places:
        for number, trial in trials.items():
            history = histories[number]
            if len(history) >= rung:
                at = history[: math.ceil(rung)]
                score = TrialOutcome.of(job, trial, at, trials.units).score
                # A stopped trial was stopped at the last rung it reached; an epoch more may have been under way
                ended = trial.state == "stopped" and rung == max(place for place in places if len(history) >= place)
                found.append({"rung_epoch": len(at), "trial": number, "score": score,
                              "decision": "stopped" if ended else "went on"})  # fmt: skip
    return found


def _csv(rows: list[dict]) -> bytes:
    text = io.StringIO()
    if rows:
        table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return text.getvalue().encode()

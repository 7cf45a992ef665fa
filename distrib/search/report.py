"""The files that a search leaves: its trials and rungs as tables, and plots of them."""

import csv
import io
import json
import math

from distrib.config.job import Tune
from distrib.config.search import Asha
from distrib.search import plots
from distrib.search.sampler import importance
from distrib.search.trials import TrialOutcome, Trials, front
from distrib.values import parse_fraction

EPSILON, WIDTH = "objective.threat.epsilon", "model.width"
STEP_SIZES = ("objective.attack.step_size", "objective.attack.step_size.of_epsilon")


def report_files(job: Tune, trials: Trials, outcomes: list[TrialOutcome]) -> dict[str, bytes]:
    """The content of every table and plot, by file name."""
    found = {"trials.csv": trials_csv(job, trials), "trials.json": trials_json(job, trials)}
    if isinstance(job.stopping, Asha):
        found["rungs.csv"] = _csv(rungs(job, trials))
    rows = [
        row(job, one) | {path: _number(_plain(value)) for path, value in one.trial.settings.items()} for one in outcomes
    ]
    best = front(outcomes, ("robust", "clean", "cost"))
    axes = [*job.space, "clean_accuracy", "robust_accuracy"]
    drawn = {
        "history.png": plots.plot_history(rows),
        "pareto.png": plots.pareto(rows, [one.trial.number for one in best]),
        "parallel.png": plots.parallel(rows, axes),
    }
    numeric = [path for path in job.space if all(isinstance(one[path], int | float) for one in rows)]
    step = next((path for path in STEP_SIZES if path in numeric), None)
    if EPSILON in numeric and step:
        drawn["epsilon_step_size.png"] = plots.pairs(rows, EPSILON, step, job.score.threat.epsilon)
    if WIDTH in numeric:
        drawn["width.png"] = plots.against(rows, WIDTH)
    shares = importance(job.space, outcomes)
    if shares:
        drawn["importance.png"] = plots.bars(shares, "share of the differences in robust accuracy (fANOVA)")
        found["importance.json"] = json.dumps(shares, indent=2).encode()
    return found | drawn


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


def trials_csv(job: Tune, trials: Trials) -> bytes:
    """A row for every trial, also for those that failed before their first epoch."""
    known = {one.trial.number: row(job, one) for one in trials.outcomes()}
    empty = {"epochs": 0, "best_epoch": "", "robust_accuracy": "", "clean_accuracy": "", "score": "", "cost_hours": 0}
    return _csv([
        known.get(number)
        or {"trial": number, "state": trial.state, **{path: _plain(one) for path, one in trial.settings.items()},
            **empty, "error": trial.error}
        for number, trial in trials.items()
    ])  # fmt: skip


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

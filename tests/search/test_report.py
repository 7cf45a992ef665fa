"""What a search leaves in tables and plots."""

import csv
import io
import json
from pathlib import Path

from searches import EPSILON, WIDTH, Kept, epoch, tune

from distrib.config.search import Asha
from distrib.search import report
from distrib.search.space import known_settings
from distrib.search.trials import Trial, TrialOutcome, Trials

HISTORIES = [
    ("finished", [epoch(0.1), epoch(0.3), epoch(0.5), epoch(0.4)]),
    ("stopped", [epoch(0.1), epoch(0.2), epoch(0.2)]),  # an epoch more was under way
    ("failed", []),
]


def test_tables_hold_every_trial_and_every_decision(tmp_path: Path):
    job = tune({"stopping": {"stop": "asha", "grace_epochs": 2, "reduction_factor": 2}})
    assert isinstance(job.stopping, Asha)
    trials = Kept(job, tmp_path, HISTORIES)
    found = report.report_files(job, trials, [one for one in trials.outcomes() if one.trial.state != "failed"])
    rows = list(csv.DictReader(io.StringIO(found["trials.csv"].decode())))
    assert [row["state"] for row in rows] == ["finished", "stopped", "failed"]
    assert (rows[0]["robust_accuracy"], rows[0]["best_epoch"], rows[0]["epochs"]) == ("0.5", "3", "4")
    assert rows[2]["error"] == "it broke" and rows[2]["robust_accuracy"] == ""
    rungs = list(csv.DictReader(io.StringIO(found["rungs.csv"].decode())))
    assert [(row["rung_epoch"], row["trial"], row["decision"]) for row in rungs] == [
        ("2", "1", "went on"), ("2", "2", "stopped")
    ]  # fmt: skip
    assert [len(row["epochs"]) for row in json.loads(found["trials.json"])] == [4, 3, 0]
    drawn = {name for name in found if name.endswith(".png")}
    assert drawn == {"history.png", "pareto.png", "parallel.png", "epsilon_step_size.png", "width.png"}
    assert all(found[name].startswith(b"\x89PNG") for name in drawn)


def test_plots_are_drawn_of_one_trial_and_of_settings_that_are_no_numbers(tmp_path: Path):
    job = tune({"space": {"model": {"choice": [{"arch": "small_cnn"}, {"arch": "paper_cnn"}]}}})
    trials = Trials(job, tmp_path, 1)
    only = TrialOutcome.of(job, Trial(1, {"model": {"arch": "paper_cnn"}}, "finished"), [epoch(0.5)], 1)
    found = report.report_files(job, trials, [only])
    assert {"history.png", "pareto.png", "parallel.png"} <= found.keys() and "width.png" not in found


def test_fractions_are_drawn_as_numbers_and_mappings_are_no_reason_to_lose_a_search(tmp_path: Path):
    size = "objective.attack.step_size"
    space = {
        EPSILON: {"grid": ["8/255", "51/255"]},
        size: {"grid": [{"of_epsilon": 0.25}]},
        WIDTH: {"grid": ["1/2", 1]},
    }
    job = tune({"space": space, "search": {"method": "grid"}})
    found = [
        TrialOutcome.of(job, Trial(number, settings, "finished"), [epoch(0.1 * number)], 1)
        for number, settings in enumerate(known_settings(job) or (), 1)
    ]
    files = report.report_files(job, Trials(job, tmp_path, 1), found)
    assert "width.png" in files and "epsilon_step_size.png" not in files
    absolute = tune({"space": {EPSILON: space[EPSILON], size: {"grid": ["2/255", 0.01]}}, "search": {"method": "grid"}})
    found = [
        TrialOutcome.of(absolute, Trial(number, settings, "finished"), [epoch(0.1 * number)], 1)
        for number, settings in enumerate(known_settings(absolute) or (), 1)
    ]
    assert "epsilon_step_size.png" in report.report_files(absolute, Trials(absolute, tmp_path, 1), found)


def test_a_trial_is_stopped_at_the_last_rung_it_reached(tmp_path: Path):
    stopping = {"stop": "asha", "grace_epochs": 1, "reduction_factor": 2}
    job = tune({"stopping": stopping, "train.optim.epochs": 8})
    trials = Kept(job, tmp_path, [("stopped", [epoch(0.1), epoch(0.3), epoch(0.2)]), ("finished", [epoch(0.5)] * 8)])
    found = [(row["rung_epoch"], row["trial"], row["decision"]) for row in report.rungs(job, trials)]
    assert found == [
        (1, 1, "went on"), (1, 2, "went on"), (2, 1, "stopped"), (2, 2, "went on"), (4, 2, "went on")
    ]  # fmt: skip

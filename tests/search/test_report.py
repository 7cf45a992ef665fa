"""What a search leaves in tables and plots."""

import csv
import io
import json
from pathlib import Path

from searches import EPSILON, WIDTH, Kept, epoch, outcome, tune

from distrib.config.search import Asha
from distrib.search import report
from distrib.search.space import known_settings

HISTORIES = [
    ("finished", [epoch(0.1), epoch(0.3), epoch(0.5), epoch(0.4)]),
    ("stopped", [epoch(0.1), epoch(0.2), epoch(0.2)]),  # an epoch more was under way
    ("failed", []),
]


def test_tables_hold_every_trial_and_every_decision(tmp_path: Path):
    job = tune({"stopping": {"stop": "asha", "grace_epochs": 2, "reduction_factor": 2}})
    assert isinstance(job.stopping, Asha)
    trials = Kept(job, tmp_path, HISTORIES)
    found = report.report_files(job, trials, trials.with_result(), 99)
    rows = list(csv.DictReader(io.StringIO(found["trials.csv"].decode())))
    assert [row["state"] for row in rows] == ["finished", "stopped", "failed"]
    assert (rows[0]["robust_accuracy"], rows[0]["best_epoch"], rows[0]["epochs"]) == ("0.5", "3", "4")
    assert rows[2]["error"] == "it broke" and rows[2]["robust_accuracy"] == ""
    rungs = list(csv.DictReader(io.StringIO(found["rungs.csv"].decode())))
    assert [(row["rung_epoch"], row["trial"], row["decision"]) for row in rungs] == [
        ("2", "1", "went on"), ("2", "2", "stopped")
    ]  # fmt: skip
    assert [len(row["epochs"]) for row in json.loads(found["trials.json"])] == [4, 3, 0]
    drawn = {name for name in found if name.endswith(".svg")}
    assert drawn == {
        "history.svg", "learning_curves.svg", "pareto.svg", "parallel.svg", "epsilon_step_size.svg", "width.svg"
    }  # fmt: skip
    assert all(b"</svg>" in found[name] for name in drawn) and b"it broke" in found["report.html"]


def test_plots_are_drawn_of_one_trial_and_of_settings_that_are_no_numbers(tmp_path: Path):
    job = tune({"space": {"model": {"choice": [{"arch": "small_cnn"}, {"arch": "paper_cnn"}]}}})
    trials = Kept(job, tmp_path, [("finished", [epoch(0.5)])], [{"model": {"arch": "paper_cnn"}}])
    found = report.report_files(job, trials, trials.outcomes(), 99)
    assert {"history.svg", "pareto.svg", "parallel.svg"} <= found.keys() and "width.svg" not in found


def test_fractions_are_drawn_as_numbers_and_mappings_are_no_reason_to_lose_a_search(tmp_path: Path):
    size = "objective.attack.step_size"
    space = {
        EPSILON: {"grid": ["8/255", "51/255"]},
        size: {"grid": [{"of_epsilon": 0.25}]},
        WIDTH: {"grid": ["1/2", 1]},
    }

    def files(space: dict, folder: Path) -> dict[str, bytes]:
        job = tune({"space": space, "search": {"method": "grid"}})
        settings = known_settings(job) or []
        ended = [("finished", [epoch(0.1 * number)]) for number in range(1, len(settings) + 1)]
        folder.mkdir()
        trials = Kept(job, folder, ended, settings)
        return report.report_files(job, trials, trials.outcomes(), 99)

    found = files(space, tmp_path / "a")
    assert "width.svg" in found and "epsilon_step_size.svg" not in found
    absolute = {EPSILON: space[EPSILON], size: {"grid": ["2/255", 0.01]}}
    assert "epsilon_step_size.svg" in files(absolute, tmp_path / "b")


def test_a_plot_says_what_was_measured():
    assert report.about_search(tune({"train.model.width": 2}), 99) == (
        "small_cnn · Linf 0.2, pgd-5 · 99 validation images · run search"
    ), "the width is searched"
    fixed = tune({"space": {EPSILON: {"uniform": [0.1, 0.2]}}, "train.model.width": 2, "score.threat.epsilon": "8/255"})
    assert report.about_search(fixed, 99).startswith("small_cnn, width 2 · Linf 8/255,")
    networks = tune({"space": {"model": {"choice": [{"arch": "small_cnn"}, {"arch": "paper_cnn"}]}}})
    assert report.about_search(networks, 99).startswith("several networks · ")


def test_what_is_drawn_of_a_trial(tmp_path: Path):
    trials = Kept(tune(), tmp_path, HISTORIES)
    first, second = report.plot_rows(tune(), trials, trials.with_result())
    assert (first["winner"], second["winner"]) == (True, False) and first["curve"] == [0.1, 0.3, 0.5, 0.4]


def test_a_trial_is_stopped_at_the_last_rung_it_reached(tmp_path: Path):
    stopping = {"stop": "asha", "grace_epochs": 1, "reduction_factor": 2}
    job = tune({"stopping": stopping, "train.optim.epochs": 8})
    trials = Kept(job, tmp_path, [("stopped", [epoch(0.1), epoch(0.3), epoch(0.2)]), ("finished", [epoch(0.5)] * 8)])
    found = [(row["rung_epoch"], row["trial"], row["decision"]) for row in report.rungs(job, trials)]
    assert found == [
        (1, 1, "went on"), (1, 2, "went on"), (2, 1, "stopped"), (2, 2, "went on"), (4, 2, "went on")
    ]  # fmt: skip


def test_a_search_is_described_by_its_winner_and_the_next_trials():
    job = tune()
    found = [outcome(number, 0.01 * number, state="finished") for number in range(1, 15)]
    told = report.describe_search(job, found, 100)
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| ") and "%" in line]
    assert len(rows) == report.MOST_TOLD and rows[0][0] == "| 14" and rows[0][-1] == "**winner** |"
    assert [row[0] for row in rows] == [f"| {number}" for number in range(14, 4, -1)]
    assert "Trial 14 has 14.00% robust and 90.00% clean" in told and "no evaluation" in told
    assert f"distrib run {job.storage}/{job.name}/search/best.yaml" in told

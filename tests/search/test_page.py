"""The page of a search: Optuna's figures of it, in one file that loads nothing."""

import json
import re
from pathlib import Path

import optuna
import pytest
from searches import EPSILON, STEP, WIDTH, Kept, epoch, tune

from distrib.config.job import Tune
from distrib.search import page, report

SPACE = {
    EPSILON: {"uniform": [0.05, 0.3]}, "optim.lr": {"loguniform": [1e-3, 1e-1]},
    "optim.name": {"choice": ["sgd", "adam"]},
}  # fmt: skip
HEADINGS = [
    "History", "Learning curves", "Clean against robust accuracy", "Settings and what they came to",
    "Each field by itself", "Two fields together", "Importance",
]  # fmt: skip


def made(folder: Path, ended: list[tuple[str, list[dict]]], job: Tune | None = None, settings: list | None = None):
    """The page, and its rows."""
    job = job or tune({"space": SPACE, "search": {"method": "random", "num_trials": len(ended)}})
    drawn = [{EPSILON: 0.01 * i, "optim.lr": 0.001 * i, "optim.name": ("sgd", "adam")[i % 2]} for i in range(5, 99)]
    trials = Kept(job, folder, ended, settings or drawn)
    outcomes = trials.with_result()
    rows = report.plot_rows(job, trials, outcomes)
    shares = report.importance(job.space, outcomes)
    about, table = report.about_search(job, 99), report.trial_table(job, trials)
    return page.search_page(job, about, rows, table, shares).decode(), rows, job


def finished(*accuracies: float) -> list[tuple[str, list[dict]]]:
    return [("finished", [epoch(one / 2), epoch(one)]) for one in accuracies]


def headings(text: str) -> list[str]:
    return re.findall("<h2>([^<]*)</h2>", text)[1:-1]


def around_plotly(text: str) -> str:
    """The page without plotly's own code, which has addresses in it that it loads only for maps."""
    longest = max(re.findall(r"<script[^>]*>.*?</script>", text, re.DOTALL), key=len)
    assert len(longest) > 1_000_000
    return text.replace(longest, "")


def test_the_page_has_every_figure_and_every_trial(tmp_path: Path):
    ended = [*finished(*(0.05 * i for i in range(1, 9))), ("stopped", [epoch(0.1)]), ("failed", [])]
    text, _, _ = made(tmp_path, ended)
    assert headings(text) == HEADINGS
    assert "10 trials: 8 finished, 1 stopped early, 1 failed." in text and "it broke" in text
    assert "<h2>The winner: trial 8</h2>" in text and "★ 8" in text and "This is no evaluation." in text
    assert "<code>distrib run runs/search/search/best.yaml</code>" in text
    assert "small_cnn · Linf 0.2, pgd-5 · 99 validation images · run search" in text


def test_plotly_is_in_it_once_and_nothing_is_loaded(tmp_path: Path):
    text, _, _ = made(tmp_path, finished(0.1, 0.2, 0.3))
    assert len(re.findall(r"\* plotly\.js v", text)) == 1 and text.count("Plotly.newPlot(") > 4
    rest = around_plotly(text)
    assert not re.search(r"(?i)(src|href|action)\s*=\s*.?\s*(https?:)?//|@import|url\(|<link|<iframe", rest)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None and "default-src 'none'" in policy[1] and "http" not in policy[1]


def test_names_and_settings_are_text(tmp_path: Path):
    job = tune({"space": {"model.factory": {"choice": ["<script>x</script>", "<b>y"]}, EPSILON: SPACE[EPSILON]}})
    settings = [{"model.factory": one, EPSILON: 0.1} for one in ("<script>x</script>", "<b>y")]
    text, _, _ = made(tmp_path, finished(0.1, 0.2), job, settings)
    assert "<script>x" not in text and "<b>y" not in text and "&lt;b&gt;y" in text
    assert "&lt;script&gt;x" in re.sub(r"\\u003[ce]", "", text)


@pytest.mark.parametrize(
    ("ended", "shown"),
    [
        (finished(0.5), HEADINGS[:5]),
        ([("stopped", [epoch(0.1)]), ("stopped", [epoch(0.2)])], ["Learning curves"]),
        (finished(*[0.5] * 9), HEADINGS[:6]),
        ([("failed", []), *finished(0.5, 0.4)], HEADINGS[:6]),
    ],
    ids=["one", "all stopped", "equal", "the first failed"],
)
def test_what_the_trials_cannot_fill_is_left_out(tmp_path: Path, ended: list, shown: list[str]):
    assert headings(made(tmp_path, ended)[0]) == shown


def test_equal_settings_and_mappings_are_drawn(tmp_path: Path):
    size = "objective.attack.step_size"
    choices = {"choice": [{"of_epsilon": 0.25}, {"of_epsilon": 0.5}]}
    job = tune({"space": {size: choices, WIDTH: {"choice": ["1/2", 1]}, EPSILON: {"choice": ["8/255"]}}})
    settings = [{size: {"of_epsilon": 0.25}, WIDTH: width, EPSILON: "8/255"} for width in ("1/2", 1, 1)]
    text, _, _ = made(tmp_path, finished(0.1, 0.2, 0.2), job, settings)
    assert headings(text) == HEADINGS[:5] and "of_epsilon: 0.25" in text and "8/255" in text


def test_trials_have_their_own_numbers_and_states_in_optuna_s_study(tmp_path: Path):
    """Optuna counts from 0; a trial that failed has no result, but a number."""
    _, rows, job = made(tmp_path, [*finished(0.25), ("failed", []), ("stopped", [epoch(0.125)])])
    study = page._study(job, rows, lambda row: [row["robust_accuracy"]])
    states = optuna.trial.TrialState
    assert [one.state for one in study.trials] == [states.FAIL, states.COMPLETE, states.FAIL, states.PRUNED]
    assert study.trials[1].value == study.best_value == 0.25 and study.trials[1].intermediate_values == {1: 12.5, 2: 25}
    assert study.trials[3].params == {"epsilon": 0.07, "optim.lr": 0.007, "optim.name": "adam"}
    assert study.trials[1].distributions["optim.lr"].log and not study.trials[1].distributions["epsilon"].log


def test_an_accuracy_under_the_floor_is_not_the_best(tmp_path: Path):
    job = tune({"space": SPACE, "score.min_clean_accuracy": 0.5, "search": {"method": "random", "num_trials": 2}})
    ended = [("finished", [epoch(0.75, 0.25)]), ("finished", [epoch(0.25, 0.75)])]
    text, rows, _ = made(tmp_path, ended, job)
    study = page._study(job, rows, lambda row: [row["robust_accuracy"]])
    assert study.best_trial.number == 2 and "under 50 %, which counts for nothing" in text


def test_fields_keep_their_paths_where_the_short_ones_would_be_alike():
    space = {"objective.attack.x": SPACE[EPSILON], "objective.threat.x": SPACE[EPSILON]}
    job = tune().model_copy(update={"space": tune({"space": SPACE}).space | dict.fromkeys(space)})
    assert page._names(job)["objective.attack.x"] == "objective.attack.x"
    assert page._names(tune())[STEP] == "step_size.of_epsilon"


def test_the_figures_have_a_face_for_each_screen(tmp_path: Path):
    text, _, _ = made(tmp_path, finished(0.1, 0.2))
    found = re.search(r"const faces = (.*?), dark = ", text)
    assert found is not None
    papers = {name: face["layout"]["paper_bgcolor"] for name, face in json.loads(found[1]).items()}
    assert papers == {"light": "#ffffff", "dark": "#14161a"} and "prefers-color-scheme: dark" in text


def test_settings_that_begin_alike_are_not_one(tmp_path: Path):
    choices = [{"of_epsilon": 0.25, "then": "a" * 30}, {"of_epsilon": 0.25, "then": "a" * 29 + "b"}]
    assert len(set(page._values([json.dumps(one) for one in choices]))) == 2
    assert page._values(["$a$"]) == ["$a$"], "plotly knows no formulas"


def test_a_step_that_is_divided_says_so(tmp_path: Path):
    step = "objective.attack.step_size.of_epsilon"
    space = {step: {"uniform": [1, 2.5], "divided_by": "objective.attack.num_steps"}}
    job = tune({"space": space, "search": {"method": "random", "num_trials": 2}})
    text, _, _ = made(tmp_path, finished(0.1, 0.2), job, [{step: 1.5}, {step: 2.0}])
    assert "as drawn: in the job it is divided by objective.attack.num_steps" in text

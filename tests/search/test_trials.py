"""What a search remembers, whom it calls best, and what it leaves in tables."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from searches import EPSILON, STEP, WIDTH, Kept, epoch, outcome, tune

from distrib.config.search import Asha, Choice, Integers, LogUniform, Optuna, Uniform
from distrib.errors import InputError, JobError
from distrib.search import report, sampler
from distrib.search.space import drawn, trial_job
from distrib.search.trials import Trial, TrialOutcome, Trials, best_trial, front
from distrib.tracking.display import Display
from distrib.tracking.mlflow_run import MLflowRun


def test_books_are_found_again_as_they_were_left(tmp_path: Path):
    job = tune()
    books = Trials(job, tmp_path, 1)
    assert books.add(*(drawn(job) or ())).number == 3
    books.note(2, "stopped")
    books.note(3, "failed", "because")
    again = Trials(job, tmp_path, 1)
    assert again.trials == books.trials and [one.number for one in again.trials.values()] == [1, 2, 3]
    assert [one.ended for one in again.trials.values()] == [False, True, True]
    assert again.trials[3].error == "because" and again.outcomes() == []
    assert again.add({WIDTH: 1}).number == 4
    (tmp_path / "trials.json").write_text("[{]")
    with pytest.raises(InputError, match=r"trials\.json: damaged"):
        Trials(job, tmp_path, 1)


def test_a_trial_is_worth_its_best_epoch_and_costs_all_of_them():
    found = outcome(1, 0.3, 0.5, 0.4)
    assert (found.best_epoch, found.robust_accuracy, found.epochs) == (2, 0.5, 3)
    assert found.cost_hours == pytest.approx(3 * 36 * 2 / 3600) and found.score == 0.5


def test_a_trial_below_the_floor_ranks_behind_all_above_it():
    job = tune({"score.min_clean_accuracy": 0.8})
    poor, worse, sound = (
        outcome(1, 0.7, clean=0.79, job=job), outcome(2, 0.9, clean=0.5, job=job), outcome(3, 0.01, clean=0.8, job=job)
    )  # fmt: skip
    assert sound.score > 0 > poor.score > worse.score
    assert best_trial([poor, worse, sound]) == sound and best_trial([worse, poor]) == poor
    equal = [outcome(1, 0.5, 0.5), outcome(2, 0.5)]
    assert best_trial(equal).trial.number == 2, "the cheaper of equals"


def test_a_trials_best_epoch_is_one_above_the_floor():
    """The most robust epoch is below it: neither the search nor the trial's own checkpoints take that one."""
    job = tune({"score.min_clean_accuracy": 0.8})
    found = TrialOutcome.of(job, Trial(1, {}, "finished"), [epoch(0.4, 0.85), epoch(0.6, 0.7)], units=2)
    assert (found.best_epoch, found.robust_accuracy, found.clean_accuracy, found.score) == (1, 0.4, 0.85, 0.4)
    assert trial_job(job, 1, {EPSILON: 0.1, STEP: 1.0, WIDTH: 1}).validation.min_clean_accuracy == 0.8


def test_the_front_is_what_nothing_beats():
    first, second, third = outcome(1, 0.5, clean=0.9), outcome(2, 0.4, clean=0.95), outcome(3, 0.4, clean=0.9)
    assert front([first, second, third], ("robust", "clean")) == [first, second]
    assert front([first, second, third], ("robust",)) == [first]
    twin = outcome(4, 0.5, clean=0.9)
    assert front([first, twin], ("robust", "clean")) == [first, twin], "neither beats the other"
    longer = outcome(5, 0.5, 0.5, clean=0.9)
    assert front([first, longer], ("robust", "clean", "cost")) == [first]


@pytest.mark.parametrize(
    ("domain", "settings"),
    [
        (Choice(choice=(1, {"arch": "x"}, True)), (1, {"arch": "x"})),
        (Integers(integers=(2, 8), step=2), (2, 6)),
        (Uniform(uniform=(0.1, 0.4)), (0.1, 0.25)),
        (Uniform(uniform=("2/255", "16/255"), step=0.00784314), (0.0156863, 0.0470588)),
        (LogUniform(loguniform=("4/255", "16/255")), (0.0156863, 0.0627451)),
        (LogUniform(loguniform=(1e-4, 1e-1)), (1e-4, 0.02)),
    ],
)
def test_settings_go_to_optuna_and_back(domain, settings):
    for value in settings:
        given = sampler.raw({"a": domain}, {"a": value})
        known = sampler.distributions({"a": domain})
        optuna.trial.create_trial(params=given, distributions=known, value=0.0)  # raises if it is none of its values
        assert sampler.settings_of({"a": domain}, given) == {"a": value}


def test_importance_finds_the_field_that_matters():
    draw = np.random.default_rng(0)
    space = {EPSILON: Uniform(uniform=(0.05, 0.3)), WIDTH: Choice(choice=(0.25, 0.5))}
    found = []
    for number in range(1, 31):
        settings = {EPSILON: float(draw.uniform(0.05, 0.3)), WIDTH: (0.25, 0.5)[int(draw.integers(2))]}
        robust = settings[EPSILON] + 0.01 * settings[WIDTH]
        found.append(TrialOutcome.of(tune(), Trial(number, settings, "finished"), [epoch(robust)], 1))
    shares = sampler.importance(space, found)
    assert shares[EPSILON] > 0.9 > 0.1 > shares[WIDTH] and sum(shares.values()) == pytest.approx(1)
    assert sampler.importance(space, found[:5]) == {}, "too few to say"
    flat = [TrialOutcome.of(tune(), one.trial, [epoch(0.5)], 1) for one in found]
    assert sampler.importance(space, flat) == {}, "nothing to explain"


def test_optuna_asks_first_for_what_was_begun_and_knows_what_ended():
    job = tune({"search": {"method": "optuna", "num_trials": 9}})
    left = [Trial(7, {EPSILON: 0.123, STEP: 1.5, WIDTH: 0.5})]
    memory = sampler.memory(job, [outcome(1, 0.3), outcome(2, 0.6)], left)
    assert isinstance(job.search, Optuna)
    study = optuna.load_study(study_name=sampler.STUDY, storage=memory, sampler=sampler.sampler(job.search, False, 2))
    assert [one.value for one in study.trials[:2]] == [0.3, 0.6] and study.best_value == 0.6
    asked = study.ask(sampler.distributions(job.space))
    assert sampler.settings_of(job.space, asked.params) == left[0].settings


HISTORIES = [
    ("finished", [epoch(0.1), epoch(0.3), epoch(0.5), epoch(0.4)]),
    ("stopped", [epoch(0.1), epoch(0.2), epoch(0.2)]),  # an epoch more was under way
    ("failed", []),
]


def test_tables_hold_every_trial_and_every_decision(tmp_path: Path):
    job = tune({"stopping": {"stop": "asha", "grace_epochs": 2, "reduction_factor": 2}})
    assert isinstance(job.stopping, Asha)
    books = Kept(job, tmp_path, HISTORIES)
    found = report.report_files(job, books, [one for one in books.outcomes() if one.trial.state != "failed"])
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
    books = Trials(job, tmp_path, 1)
    only = TrialOutcome.of(job, Trial(1, {"model": {"arch": "paper_cnn"}}, "finished"), [epoch(0.5)], 1)
    found = report.report_files(job, books, [only])
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
        for number, settings in enumerate(drawn(job) or (), 1)
    ]
    files = report.report_files(job, Trials(job, tmp_path, 1), found)
    assert "width.png" in files and "epsilon_step_size.png" not in files
    absolute = tune({"space": {EPSILON: space[EPSILON], size: {"grid": ["2/255", 0.01]}}, "search": {"method": "grid"}})
    found = [
        TrialOutcome.of(absolute, Trial(number, settings, "finished"), [epoch(0.1 * number)], 1)
        for number, settings in enumerate(drawn(absolute) or (), 1)
    ]
    assert "epsilon_step_size.png" in report.report_files(absolute, Trials(absolute, tmp_path, 1), found)


def test_optuna_hears_nothing_of_a_trial_that_failed(tmp_path: Path):
    """Dying early is cheap: it would be on the front of robust, clean and cost."""
    from optuna.trial import TrialState

    from distrib.search.tune import ERROR, Chosen, worth

    job = tune({"search": {"method": "optuna", "num_trials": 3}, "score.objectives": ["robust", "clean", "cost"]})
    books = Trials(job, tmp_path, 1)
    chosen = Chosen(job, books, lambda trial: {"number": trial.number}, [])
    for name in ("whole", "failed", "unbegun"):
        books.run(chosen.suggest(name)["number"]).mkdir(parents=True)
    (books.run(2) / ERROR).write_text("it broke")
    for name in ("whole", "failed"):
        chosen.on_trial_complete(name, worth(job.score, [epoch(0.3)], 1))
    chosen.on_trial_complete("unbegun", {"done": True})
    study = chosen._ot_study
    assert [one.state for one in study.get_trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]


def test_every_trial_gets_its_run_and_one_that_is_closed_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The server is away while the first trial begins; later the search is started anew."""
    from distrib.search.run import Watch

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = tune({"tracking.uri": uri})
    parent = MLflowRun(uri, job.tracking.experiment, job.name, None, {})
    books = Kept(job, tmp_path, [("finished", []), ("stopped", [])])
    watch = Watch(job, books, parent, Display())
    with monkeypatch.context() as patch:
        patch.setattr(MLflowRun, "__init__", lambda *values: 1 / 0)
        watch.started(books.trials[1])
    for number in (1, 2):
        watch.ended(books.trials[number])
    watch.settle()

    def runs() -> dict[str, tuple]:
        found = parent.client.search_runs([parent.client.get_run(parent.run_id).info.experiment_id])
        return {one.info.run_name: (one.info.status, one.info.end_time) for one in found}

    before = runs()
    assert [before[books.name(number)][0] for number in (1, 2)] == ["FINISHED", "KILLED"]
    Watch(job, books, parent, Display()).settle()
    assert runs() == before


def test_a_stopped_trial_wins_only_where_none_was_finished():
    """The rule called another better; and what is taken as winner is trained to its end."""
    ahead = TrialOutcome.of(tune(), Trial(1, {WIDTH: 0.5}, "stopped"), [epoch(0.9)], 1)
    assert best_trial([ahead, outcome(2, 0.5)]).trial.number == 2 and best_trial([ahead]) == ahead


def test_a_trial_is_stopped_at_the_last_rung_it_reached(tmp_path: Path):
    stopping = {"stop": "asha", "grace_epochs": 1, "reduction_factor": 2}
    job = tune({"stopping": stopping, "train.optim.epochs": 8})
    books = Kept(job, tmp_path, [("stopped", [epoch(0.1), epoch(0.3), epoch(0.2)]), ("finished", [epoch(0.5)] * 8)])
    found = [(row["rung_epoch"], row["trial"], row["decision"]) for row in report.rungs(job, books)]
    assert found == [
        (1, 1, "went on"), (1, 2, "went on"), (2, 1, "stopped"), (2, 2, "went on"), (4, 2, "went on")
    ]  # fmt: skip


def test_no_more_trials_at_a_time_than_the_cluster_holds():
    from distrib.cluster.session import Node, Resources
    from distrib.search.run import slots

    eight, gpus = Resources((Node(8),), True), Resources((Node(64, 4),), True)
    assert slots(tune({"cluster": {"num_workers": 3}}), eight, False) == 2
    assert slots(tune({"cluster": {"num_workers": 2}}), gpus, True) == 2, "the GPUs are what is short"
    assert slots(tune({"cluster": {"num_workers": 2}, "concurrent": 3}), eight, False) == 3
    with pytest.raises(JobError, match=r"concurrent: 3 trials x 3 workers x 1 CPUs = 9 CPUs, .* at most 2"):
        slots(tune({"cluster": {"num_workers": 3}, "concurrent": 3}), eight, False)
    sharing = tune({"cluster": {"num_workers": 2, "workers_per_gpu": 2}})
    assert slots(sharing, gpus, True) == 4, "a trial takes one GPU"
    with pytest.raises(JobError, match=r"= 10 CPUs and 5 GPUs, but the cluster has 64 CPUs and 4 GPUs; at most 4"):
        slots(sharing.model_copy(update={"concurrent": 5}), gpus, True)


def test_no_more_trials_at_a_time_than_there_is_memory_for_unless_the_job_says_so():
    from distrib.cluster.resources import Node, Resources
    from distrib.search.run import slots

    small, tiny = Resources((Node(16, 0, 4e9), Node(16, 0, 2e9)), False), Resources((Node(16, 0, 1e9),), True)
    assert slots(tune({}), small, False) == 4, "3 and 1 processes of 1.25 GB"
    assert slots(tune({}), tiny, False) == 1
    assert slots(tune({"concurrent": 9}), small, False) == 9


@pytest.mark.parametrize(
    ("memories", "concurrent", "share"),
    [
        ([64e9] * 4, 24, 1_250_000_000), ([2e9], 1, 1_250_000_000), ([2e9], 2, 625_000_000),
        ([1e9, 0, 4e9], 5, 625_000_000), ([0], 3, 1),
    ],
)  # fmt: skip
def test_a_trial_s_process_reserves_the_memory_that_it_takes(memories: list[float], concurrent: int, share: int):
    """Of 24 that reserved a byte each, one of four nodes got all."""
    from distrib.search.tune import reserved

    assert reserved(memories, concurrent) == {"memory": share}


def test_a_search_asks_ray_tune_for_the_memory_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import ray

    from distrib.search import tune as door

    class Asked(Exception):
        """Raised in the place of the experiment."""

    def start(trainable: object, resources: dict) -> None:
        raise Asked(resources["memory"])

    node = {"Alive": True, "Resources": {"CPU": 8, "memory": 64e9}}
    monkeypatch.setattr(ray, "nodes", lambda: [node] * 4)
    monkeypatch.setattr(door.tune, "with_parameters", lambda function, **values: function)
    monkeypatch.setattr(door.tune, "with_resources", start)
    job, nobody = tune({}), Any
    books = Trials(job, tmp_path, 2)
    books.add(*(drawn(job) or ()))
    with pytest.raises(Asked, match="1250000000"):
        door.search(job, books, tmp_path, 24, False, nobody, nobody)  # pyright: ignore[reportArgumentType]

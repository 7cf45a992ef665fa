"""What a search remembers, and which trial it calls best."""

from pathlib import Path

import pytest
from searches import EPSILON, STEP, WIDTH, epoch, outcome, tune

from distrib.errors import InputError
from distrib.search.space import known_settings, trial_job
from distrib.search.trials import Trial, TrialOutcome, Trials, best_trial, front


def test_books_are_found_again_as_they_were_left(tmp_path: Path):
    job = tune()
    trials = Trials(job, tmp_path, 1)
    assert trials.add(*(known_settings(job) or ())).number == 3
    trials.note(2, "stopped")
    trials.note(3, "failed", "because")
    again = Trials(job, tmp_path, 1)
    assert again == trials and [one.number for one in again.values()] == [1, 2, 3]
    assert [one.ended for one in again.values()] == [False, True, True]
    assert again[3].error == "because" and again.outcomes() == []
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


def test_a_stopped_trial_wins_only_where_none_was_finished():
    """The rule called another better; and what is taken as winner is trained to its end."""
    ahead = TrialOutcome.of(tune(), Trial(1, {WIDTH: 0.5}, "stopped"), [epoch(0.9)], 1)
    assert best_trial([ahead, outcome(2, 0.5)]).trial.number == 2 and best_trial([ahead]) == ahead


def test_a_stopped_trial_is_never_on_the_front_and_keeps_none_from_it():
    stopped = outcome(1, 0.9, clean=0.99, state="stopped")
    assert front([stopped, outcome(2, 0.5)], ("robust", "clean")) == [outcome(2, 0.5)]
    assert front([stopped], ("robust", "clean")) == []

"""Stopping rules, also after a restart."""

from pathlib import Path

from searches import Kept, epoch, tune

from distrib.search.trials import trial_metrics


def test_a_stopping_rule_knows_the_trials_of_before_a_restart(tmp_path: Path):
    """Three reached the rung at 2 epochs with 0.5, 0.4 and 0.2; half shall go on: the cutoff is their median."""
    from ray.tune.schedulers import TrialScheduler

    from distrib.search.stopping import EndedTrial, stopping_rule

    job = tune({"stopping": {"stop": "asha", "grace_epochs": 2, "reduction_factor": 2}})
    ended = [("finished", [epoch(0.1), epoch(one), epoch(one), epoch(one)]) for one in (0.5, 0.4)]
    trials = Kept(job, tmp_path, [*ended, ("stopped", [epoch(0.1), epoch(0.2)]), ("running", [epoch(0.9), epoch(0.9)])])
    decisions = {}
    for robust in (0.39, 0.41):
        rule, trial = stopping_rule(trials), EndedTrial("new")
        rule.on_trial_add(None, trial)
        assert rule.on_trial_result(None, trial, trial_metrics(job.score, [epoch(0.1)], 1)) == TrialScheduler.CONTINUE
        decisions[robust] = rule.on_trial_result(None, trial, trial_metrics(job.score, [epoch(0.1), epoch(robust)], 1))
    assert decisions == {0.39: TrialScheduler.STOP, 0.41: TrialScheduler.CONTINUE}


def test_the_median_rule_bears_what_it_is_told_after_a_restart(tmp_path: Path):
    """It refuses more of a trial that it would have stopped, and trips over one that failed before its first epoch."""
    from ray.tune.schedulers import TrialScheduler

    from distrib.search.stopping import EndedTrial, stopping_rule

    job = tune({"stopping": {"stop": "median", "grace_epochs": 2, "min_trials": 2}})
    ended = [("finished", [epoch(one)] * 4) for one in (0.5, 0.6)]
    trials = Kept(job, tmp_path, [*ended, ("stopped", [epoch(0.1), epoch(0.1), epoch(0.2)]), ("failed", [])])
    rule, failed, trial = stopping_rule(trials), EndedTrial("failed"), EndedTrial("new")
    for one in (failed, trial):
        rule.on_trial_add(None, one)
    rule.on_trial_complete(None, failed, {})
    rule.on_trial_result(None, trial, trial_metrics(job.score, [epoch(0.1)], 1))
    assert rule.on_trial_result(None, trial, trial_metrics(job.score, [epoch(0.1)] * 2, 1)) == TrialScheduler.STOP


def test_a_resumed_trial_is_not_judged_again_at_a_rung_it_has_passed(tmp_path: Path):
    from types import SimpleNamespace

    from ray.tune.schedulers import TrialScheduler

    from distrib.search.stopping import stopping_rule

    job = tune({"stopping": {"stop": "asha", "grace_epochs": 1, "reduction_factor": 3}})
    better = [("finished", [epoch(0.5)] * 4)] * 3
    trials = Kept(job, tmp_path, [*better, ("running", [epoch(0.1), epoch(0.1)])])
    rule, trial = stopping_rule(trials), SimpleNamespace(trial_id="resumed", config={"number": 4})
    rule.on_trial_add(None, trial)
    third = trial_metrics(job.score, [epoch(0.1)] * 3, 1)
    assert rule.on_trial_result(None, trial, third) == TrialScheduler.STOP, "the rung at 3 is new to it"
    other = SimpleNamespace(trial_id="other", config={"number": 4})
    rule.on_trial_add(None, other)
    assert rule.on_trial_result(None, other, third | {"epoch": 2}) == TrialScheduler.CONTINUE, "that at 1 is not"
    (tmp_path / "newest").mkdir()
    trials = Kept(job, tmp_path / "newest", [*better, ("running", [epoch(0.1)])])
    rule, trial = stopping_rule(trials), SimpleNamespace(trial_id="unheard", config={"number": 4})
    rule.on_trial_add(None, trial)
    second = trial_metrics(job.score, [epoch(0.1)] * 2, 1)
    assert rule.on_trial_result(None, trial, second) == TrialScheduler.STOP, "of its newest nobody knows"


def test_the_median_rule_stops_and_never_pauses(tmp_path: Path):
    """It would pause where it knows too little, and a paused training cannot go on."""
    from types import SimpleNamespace

    from ray.tune.schedulers import TrialScheduler

    from distrib.search.stopping import EndedTrial, stopping_rule

    job = tune({"stopping": {"stop": "median", "grace_epochs": 2, "min_trials": 2}})
    pending = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])
    for known, expected in (([], TrialScheduler.CONTINUE), ([0.5, 0.6], TrialScheduler.STOP)):
        folder = tmp_path / str(len(known))
        folder.mkdir()
        trials = Kept(job, folder, [("finished", [epoch(one)] * 4) for one in known])
        rule, trial = stopping_rule(trials), EndedTrial("new")
        rule.on_trial_add(pending, trial)
        rule.on_trial_result(pending, trial, trial_metrics(job.score, [epoch(0.1)], 1))
        assert rule.on_trial_result(pending, trial, trial_metrics(job.score, [epoch(0.1), epoch(0.1)], 1)) == expected

"""What Optuna hears from Ray Tune."""

from pathlib import Path

from searches import epoch, tune

from distrib.search.process import ERROR_FILE
from distrib.search.trials import Trials, trial_metrics


def test_optuna_hears_nothing_of_a_trial_that_failed(tmp_path: Path):
    """Dying early is cheap: it would be on the front of robust, clean and cost."""
    from optuna.trial import TrialState

    from distrib.search.suggest import RecordedOptuna

    job = tune({"search": {"method": "optuna", "num_trials": 3}, "score.objectives": ["robust", "clean", "cost"]})
    trials = Trials(job, tmp_path, 1)
    chosen = RecordedOptuna(trials, lambda trial: {"number": trial.number}, [])
    for name in ("whole", "failed", "unbegun"):
        trials.run(chosen.suggest(name)["number"]).mkdir(parents=True)
    (trials.run(2) / ERROR_FILE).write_text("it broke")
    for name in ("whole", "failed"):
        chosen.on_trial_complete(name, trial_metrics(job.score, [epoch(0.3)], 1))
    chosen.on_trial_complete("unbegun", {"done": True})
    study = chosen._ot_study
    assert [one.state for one in study.get_trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]

"""A small search, its trials and what they came to, made up for tests of what is done with them."""

from pathlib import Path

from documents import TUNE, changed

from distrib.config.file import parse
from distrib.config.job import Tune
from distrib.search.trials import Trial, TrialOutcome, Trials

EPSILON, STEP, WIDTH = "objective.threat.epsilon", "objective.attack.step_size.of_epsilon", "model.width"


def tune(changes: dict | None = None) -> Tune:
    job = parse(changed(TUNE, changes or {}), [], "here")
    assert isinstance(job, Tune)
    return job.resolved()


def epoch(robust: float, clean: float = 0.9) -> dict:
    return {
        "validation_robust_accuracy": robust, "validation_clean_accuracy": clean, "train_loss": 1.0,
        "train_seconds": 30.0, "validation_seconds": 6.0,
    }  # fmt: skip


def outcome(
    number: int, *robust: float, clean: float = 0.9, job: Tune | None = None, state: str = "finished"
) -> TrialOutcome:
    settings = {EPSILON: 0.05 * number, STEP: 1 + 0.1 * number, WIDTH: (0.25, 0.5)[number % 2]}
    history = [epoch(one, clean) for one in robust]
    return TrialOutcome.of(job or tune(), Trial(number, settings, state), history, units=2)


class Kept(Trials):
    """Trials that have these histories instead of checkpoints, and these settings, if any are given."""

    def __init__(
        self, job: Tune, folder: Path, histories: list[tuple[str, list[dict]]], settings: list[dict] | None = None
    ):
        super().__init__(job, folder, 2)
        self.known = {}
        for number, (state, history) in enumerate(histories, 1):
            drawn = {EPSILON: 0.05 * number, STEP: 1 + 0.1 * number, WIDTH: (0.25, 0.5)[number % 2]}
            self.add(settings[number - 1] if settings else drawn)
            self.note(number, state, "it broke" if state == "failed" else "")
            self.known[number] = history

    def history(self, number: int) -> list[dict]:
        return self.known[number]

    def with_result(self) -> list[TrialOutcome]:
        return [one for one in self.outcomes() if one.trial.state != "failed"]

"""distrib.commands.progress: an evaluation's bar moves with every attack of every shard."""

import pytest

from distrib.cluster.messages import AttackBegins, Note
from distrib.commands.progress import ShardProgress
from distrib.evaluation.attacks import AutoAttack, EvaluationPlan, Fgsm, Pgd
from distrib.threat import Linf

PLAN = EvaluationPlan(
    threat=Linf(epsilon=0.1), shard_size=100,
    attacks=(Fgsm(attack="fgsm"), Pgd(attack="pgd", num_steps=20), AutoAttack(attack="autoattack")),
)  # fmt: skip


class Bar:
    """Remembers what it was told."""

    def __init__(self):
        self.shown: list[tuple] = []
        self.said: list[str] = []

    def advance(self, title: str, done: float, total: float, detail: str, rough: bool = False) -> None:
        self.shown.append((done, total, detail.partition(" images")[0], rough))

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def bar() -> Bar:
    return Bar()


def test_the_bar_moves_within_a_shard_and_names_the_attack(bar: Bar):
    progress = ShardProgress(bar, PLAN, "x")  # type: ignore[arg-type]
    progress.judged(0, 200, None)
    for name in ("fgsm", "pgd-20", "autoattack"):
        progress.hear("0", AttackBegins(name))
    progress.hear("100", AttackBegins("fgsm"))
    progress.judged(100, 200, 0)
    done = [shown[0] for shown in bar.shown]
    assert done == sorted(done) and 0 < done[2] < done[3] < 100 == done[-1]
    assert [shown[2] for shown in bar.shown] == [
        "0 of 200", "fgsm: 0 of 200", "pgd-20: 0 of 200", "autoattack: 0 of 200", "autoattack, fgsm: 0 of 200",
        "fgsm: 100 of 200",
    ]  # fmt: skip
    assert [shown[3] for shown in bar.shown] == [True] * 5 + [False], "rough until a shard is judged"


def test_what_was_judged_before_a_restart_tells_nothing_of_the_time_left(bar: Bar):
    progress = ShardProgress(bar, PLAN, "x")  # type: ignore[arg-type]
    progress.judged(100, 300, None)
    progress.hear("100", AttackBegins("autoattack"))
    progress.judged(200, 300, 100)
    assert [shown[3] for shown in bar.shown] == [True, True, False]


def test_no_more_is_shown_than_there_is_and_notes_are_said(bar: Bar):
    progress = ShardProgress(bar, PLAN, "x")  # type: ignore[arg-type]
    progress.judged(0, 30, None)  # fewer images than a shard has room for
    progress.hear("0", AttackBegins("autoattack"))
    progress.judged(30, 30, 0)
    progress.hear("", Note("late"))
    assert bar.shown[1][0] < 30 and bar.shown[-1][0] == 30 and bar.said == ["late"]

"""Width against the adversary: the trainings, the shards, and the paper's claims on made-up counts."""

from dataclasses import replace
from pathlib import Path

from adversaries import lengths
from studies import CAPACITY, FACTS, Linear, task

from distrib.config.file import parse
from distrib.config.job import Study
from distrib.data.beton import open_split
from distrib.studies import capacity
from distrib.studies.run import paper_study


def test_every_cell_of_a_capacity_study_is_a_training_of_its_own():
    job = parse(CAPACITY, [], "here")
    assert isinstance(job, Study)
    jobs = paper_study(job.study).models(job)
    assert list(jobs) == ["natural-0.25", "natural-1", "fgsm-0.25", "fgsm-1", "pgd-0.25", "pgd-1"]
    assert [one.model.width for one in jobs.values()] == [0.25, 1.0] * 3
    assert [one.objective.method for one in jobs.values()] == ["natural"] * 2 + ["madry"] * 4
    one_step = jobs["fgsm-1"].objective.attack
    assert (lengths(one_step, job.study.threat), one_step.random_start) == ([0.1], False)
    assert jobs["pgd-1"].objective.attack == job.study.attack.resolved(job.study.threat)
    assert jobs["pgd-1"].examiner.threat == job.study.threat


def cell(clean: int, fgsm: int, pgd: int, classes: list[int] | None = None) -> dict:
    return {"images": 100, "clean": clean, "fgsm": fgsm, "pgd": pgd, "classes": classes or [0, 1, 2]}


def test_the_papers_claims_on_capacity_are_asked_one_by_one():
    study = paper_study(parse(CAPACITY, [], "here").study)
    counts = {
        "natural-0.25": cell(90, 5, 0), "natural-1": cell(99, 20, 0), "fgsm-0.25": cell(80, 70, 60),
        "fgsm-1": cell(95, 97, 2), "pgd-0.25": cell(11, 11, 11, [1]), "pgd-1": cell(95, 80, 75),
    }  # fmt: skip
    losses = dict(zip(counts, (0.2, 0.1, 0.5, 0.1, 2.3, 0.4), strict=True))
    outcome = study.conclude({(name, 0): one for name, one in counts.items()}, replace(FACTS, training_losses=losses))
    assert [one.met for one in outcome.expectations] == [True] * 5
    assert [row["collapsed"] for row in outcome.rows] == [False] * 4 + [True, False]
    counts["pgd-0.25"], counts["fgsm-1"], losses["pgd-1"] = cell(50, 45, 80), cell(95, 60, 58), 2.4
    outcome = study.conclude({(name, 0): one for name, one in counts.items()}, replace(FACTS, training_losses=losses))
    assert [one.met for one in outcome.expectations] == [True, False, False, False, False]
    counts["fgsm-0.25"] = counts["fgsm-1"] = cell(11, 11, 11, [1])
    outcome = study.conclude({(name, 0): one for name, one in counts.items()}, replace(FACTS, training_losses=losses))
    assert outcome.expectations[1].met is None, "nets that learnt nothing say nothing of FGSM"


def test_a_claim_that_cannot_be_told_is_not_met():
    """One image more is chance; where the widest net collapsed, or all did, or there is one width, nothing is shown."""

    def met(collapsed: dict[str, bool], pgd: dict[str, int]) -> list[bool | None]:
        changes = ["study.methods=[pgd]", f"study.widths={list(map(float, pgd))}"]
        study = paper_study(parse(CAPACITY, changes, "here").study)
        found = {
            (f"pgd-{width}", 0): cell(90, 80, hits, [3] if collapsed[width] else None) for width, hits in pgd.items()
        }
        losses = {name: 1 / len(name) for name, _ in found}
        outcome = study.conclude(found, replace(FACTS, training_losses=losses))
        weak, _, better = outcome.expectations
        return [weak.met, better.met]

    nobody = {"0.25": False, "0.5": False, "1": False}
    assert met(nobody, {"0.25": 50, "0.5": 50, "1": 51}) == [False, None]
    assert met(nobody, {"0.25": 50, "0.5": 60, "1": 80}) == [False, True]
    assert met(nobody | {"0.25": True}, {"0.25": 10, "0.5": 60, "1": 80}) == [True, True]
    assert met(nobody | {"1": True}, {"0.25": 50, "0.5": 60, "1": 10}) == [False, False]
    assert met(dict.fromkeys(nobody, True), {"0.25": 10, "0.5": 10, "1": 10}) == [None, False]
    assert met(nobody, {"1": 80}) == [False, None]


def test_shards_of_a_capacity_study_see_collapse_only_if_all_agree(digits: Path):
    study = paper_study(parse(CAPACITY, [], "here").study)
    constant = Linear()
    constant.weight.data.zero_()
    one = study.part(task(digits, **{"pgd-1": constant}), ("pgd-1", 0))
    assert one["classes"] == [0] and one["clean"] == one["pgd"] == one["fgsm"] < one["images"]
    assert open_split(digits, "test", "evaluation").card.count >= one["images"]


def test_each_attack_and_each_method_has_a_mark_of_its_own_and_a_collapse_is_marked():
    rows = [
        {"method": method, "width": width, "clean": 0.5, "fgsm": 0.25, "pgd": 0.125, "train_loss": width,
         "collapsed": width == 1}
        for method in ("natural", "pgd") for width in (2, 1)
    ]  # fmt: skip
    natural, _, losses = capacity._plot.__wrapped__(rows, "").axes
    marks = {one.get_label(): one.get_marker() for one in natural.lines}
    assert len(set(marks.values())) == 4 and list(natural.lines[3].get_xdata()) == [1]
    assert list(natural.lines[0].get_xdata()) == [1, 2], "widths ascend"
    assert len({one.get_marker() for one in losses.lines}) == 2

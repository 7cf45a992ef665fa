"""Black-box transfer between linear models, and what is asked of it."""

from dataclasses import replace
from pathlib import Path

import pytest
from studies import CAPACITY, FACTS, THREAT, Linear, carried_out, clean_accuracy, labelled, read, task

from distrib.config.file import parse
from distrib.errors import JobError
from distrib.studies import transfer
from distrib.studies.transfer import must_have_black_box

ANY_JOB = parse(CAPACITY, [], "here")
"""The addresses of a transfer study do not depend on the job around it."""


def test_transfer_counts_every_cell_and_knows_the_white_box(fitted: Linear, digits: Path):
    study = read(
        of="transfer", sources=labelled(a="x", b="y"), targets=labelled(a="x", c="z"), threat=THREAT, n=40,
        shard_size=25, attacks=[{"attack": "fgsm"}, {"attack": "pgd", "num_steps": 5}],
    )  # fmt: skip
    parts = study.parts(450)
    assert len(parts) == (1 + 2 * 2) * 2 and list(study.models(ANY_JOB).values()) == ["x", "y", "x", "z"]
    other = Linear(1)
    identities = {"source:a": "1", "source:b": "2", "target:a": "1", "target:c": "3"}
    models = {"source:a": fitted, "source:b": other, "target:a": fitted, "target:c": other}
    found = carried_out(study, task(digits, **models), parts)
    outcome = study.conclude(found, replace(FACTS, fingerprints=identities))
    assert len(outcome.rows) == 2 + 2 * 2 * 2 and all(row["n"] == 40 for row in outcome.rows)
    cell = {(row["attack"], row["source"], row["target"]): row for row in outcome.rows}
    assert cell["clean", "", "a"]["accuracy"] == pytest.approx(clean_accuracy(fitted, digits, 40))
    assert cell["fgsm", "a", "a"]["white_box"] and not cell["fgsm", "b", "a"]["white_box"]
    assert cell["pgd-5", "a", "a"]["accuracy"] < cell["pgd-5", "b", "a"]["accuracy"]
    first, second = outcome.expectations
    assert first.met is True and second.met is None, "c was attacked from other models only"


@pytest.mark.parametrize(("source", "told"), [("mnist", {"robust": True, "weaker": False}), ("digits", {})])
def test_the_papers_figures_are_asked_of_robust_models_alone(source: str, told: dict[str, bool]):
    targets = {"robust": 96, "weaker": 90, "natural": 45}
    study = read(
        of="transfer", sources=labelled(b="x"), targets=labelled(**dict.fromkeys(targets, "y")),
        threat=THREAT | {"epsilon": 0.3}, n=100, attacks=[{"attack": "fgsm"}],
    )  # fmt: skip
    found = {part: {"images": 100, "hits": targets} for part in study.parts(100)}
    identities = {label: label for label in study.models(ANY_JOB)}
    outcome = study.conclude(found, replace(FACTS, source=source, fingerprints=identities))
    papers = {one.achieved.split(":")[0]: one.met for one in outcome.expectations if "95.7" in one.target}
    assert papers == told


def test_a_model_alone_is_no_black_box():
    with pytest.raises(JobError, match="one and the same model; name another"):
        must_have_black_box({"source:a": "1", "target:b": "1"})
    must_have_black_box({"source:a": "1", "target:b": "2"})


def test_numbers_are_read_on_their_cells_and_a_white_box_is_named():
    """WCAG AA asks for a contrast of 4.5 between text and what is behind it."""
    from matplotlib import colormaps

    def light(colour: tuple) -> float:
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in colour[:3]]
        return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    rows = [
        {"attack": "fgsm", "source": f"s{i}", "target": "t", "accuracy": i / 100, "white_box": i == 7}
        for i in range(101)
    ]  # fmt: skip
    cells, bar = transfer._matrices.__wrapped__(rows, "").axes
    assert bar.get_ylabel() == "accuracy of the target, %" and len(cells.texts) == 101
    for text in cells.texts:
        value, *more = text.get_text().split("\n")
        ink = light((1, 1, 1) if text.get_color() == transfer.ON_DARK else (0, 0, 0))
        low, high = sorted((ink, light(colormaps["viridis"](float(value) / 100))))
        assert (high + 0.05) / (low + 0.05) > 4.4, value
        assert more == (["white box"] if value == "7.0" else [])

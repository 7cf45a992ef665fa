"""What a worker takes up, and how a study is sent to it."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from states import small_cnn
from studies import CAPACITY, FACTS, THREAT, Linear, fields, labelled, task

from distrib.data.beton import open_split
from distrib.data.order import chosen
from distrib.studies.run import paper_study
from distrib.studies.task import starts, study_part


@pytest.mark.parametrize(
    ("count", "n", "size", "expected"),
    [(60, None, 25, [0, 25, 50]), (60, 50, 25, [0, 25]), (60, 51, 25, [0, 25, 50]), (60, 90, 30, [0, 30])],
)
def test_shards_begin_where_the_one_before_ends(count: int, n: int | None, size: int, expected: list[int]):
    assert list(starts(count, n, size)) == expected


def test_a_batch_holds_the_images_that_n_and_seed_choose(digits: Path):
    found = task(digits, m=Linear())
    order = chosen(open_split(digits, "test", "evaluation").card.count, 40, 3)
    whole = found.batch(40, 3, 0, 40)
    assert np.array_equal(whole.index.numpy(), order) and len(whole.y) == 40
    last = found.batch(40, 3, 30, 60)
    assert torch.equal(last.x, whole.x[30:]) and torch.equal(last.index, whole.index[30:]), "the last shard is shorter"


def test_a_model_that_is_taken_up_is_in_evaluation_mode(digits: Path):
    assert not task(digits, m=Linear().train()).model("m").training


def test_a_model_that_is_taken_up_has_the_quick_gradient(digits: Path, quick_gradients: list[str]):
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    task(digits, m=small_cnn().requires_grad_(False)).model("m")(x).sum().backward()
    assert x.grad is not None and quick_gradients


EVERY_STUDY = {
    "landscape": {"models": labelled(m="-"), "threat": THREAT},
    "curves": {"models": labelled(m="-"), "linf": [0.1]},
    "transfer": {"sources": labelled(m="-"), "targets": labelled(m="-"), "threat": THREAT},
    "capacity": {name: value for name, value in CAPACITY["study"].items() if name != "of"},
}


@pytest.mark.parametrize("kind", EVERY_STUDY)
def test_every_study_can_be_sent_to_a_worker(kind: str):
    study = paper_study(fields(of=kind, **EVERY_STUDY[kind]))
    sent, function = pickle.loads(pickle.dumps((study, study_part)))
    assert sent == study and function is study_part
    parts = study.parts(450)
    assert parts == sent.parts(450) and len(set(parts)) == len(parts) > 0


def test_what_was_measured_is_told_in_a_line():
    facts = dataclasses.replace(FACTS, name="s")
    assert facts.about("Linf 0.1", "9 test images") == "Linf 0.1 · 9 test images · digits · run s"

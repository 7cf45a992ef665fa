"""Held-out images: every class in proportion, none in both parts, a function of the arguments alone."""

import numpy as np
import pytest

from distrib.data import split as split_module
from distrib.data.packing import prepare
from distrib.data.samples import in_memory
from distrib.data.source import Digits
from distrib.data.split import stratified
from distrib.errors import DataError

CASES = {
    "balanced": np.repeat(np.arange(10), 100),
    "shuffled": np.random.default_rng(0).permutation(np.repeat(np.arange(10), 37)),
    "uneven": np.repeat([0, 1, 2], [11, 200, 999]),
    "gaps in the labels": np.repeat([3, 7, 100], [50, 60, 70]),
    "two classes, two each": np.array([0, 1, 0, 1]),
}
cases = pytest.mark.parametrize("labels", CASES.values(), ids=CASES.keys())


@cases
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_two_parts_tile_the_whole_in_proportion(labels: np.ndarray, fraction: float):
    if len(labels) == 4:
        fraction = 0.5
    train, validation = stratified(labels, fraction, 0)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    for part in (train, validation):
        assert (np.diff(part) > 0).all() and part.dtype.kind == "i"
    for label in np.unique(labels):
        whole, held = (labels == label).sum(), (labels[validation] == label).sum()
        assert abs(held - whole * fraction) <= 0.5 and 0 < held < whole


@cases
def test_the_same_arguments_give_the_same_parts_and_another_seed_others(labels: np.ndarray):
    before, state = labels.copy(), np.random.get_state()[1].copy()
    first, again = stratified(labels, 0.5, 3), stratified(labels, 0.5, 3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.array_equal(labels, before), "the labels were changed in place"
    assert np.array_equal(np.random.get_state()[1], state), "numpy's global state was drawn from"
    others = {tuple(stratified(labels, 0.5, seed)[1]) for seed in range(20)}
    assert len(others) > 1 and (len(labels) < 100 or len(others) == 20)


def test_every_image_has_the_same_chance():
    """Held out in a quarter of the seeds, wherever it stands in the file."""
    labels = np.repeat(np.arange(2), 20)
    hits = np.zeros(40)
    for seed in range(400):
        hits[stratified(labels, 0.25, seed)[1]] += 1
    assert hits.sum() == 400 * 10 and np.abs(hits - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_classes_are_drawn_apart():
    """Not the same places in every class: that would hold out the same writer, or the same film, throughout."""
    labels = np.repeat(np.arange(2), 100)
    validation = stratified(labels, 0.5, 0)[1]
    assert not np.array_equal(validation[validation < 100], validation[validation >= 100] - 100)


@pytest.mark.parametrize(
    ("labels", "fraction", "phrase"),
    [
        ([0, 0, 0, 1], 0.5, "0.5 of the 1 images of class 1"),
        ([0] * 4 + [1] * 100, 0.1, "0.1 of the 4 images of class 0"),
        ([5] * 4 + [1] * 100, 0.9, "0.9 of the 4 images of class 5"),
    ],
)
def test_a_class_that_cannot_be_cut_is_refused(labels: list[int], fraction: float, phrase: str):
    with pytest.raises(
        DataError, match=rf"data\.validation: {phrase} leaves none on one side; choose another fraction"
    ):
        stratified(np.array(labels), fraction, 0)


@cases
def test_a_limit_takes_the_same_share_of_every_class(labels: np.ndarray):
    for limit in {len(labels) // 2, len(labels) - 1, len(labels), 10 * len(labels)} - {1, 2, 3}:
        chosen = split_module.limited(labels, limit, 0)
        assert (np.diff(chosen) > 0).all() and abs(len(chosen) - min(limit, len(labels))) <= len(np.unique(labels)) / 2
        for label in np.unique(labels):
            share = (labels == label).sum() * min(1, limit / len(labels))
            assert abs((labels[chosen] == label).sum() - share) <= 0.5
    half = len(labels) // 2
    assert np.array_equal(split_module.limited(labels, half, 3), split_module.limited(labels, half, 3))
    assert len(labels) < 100 or not np.array_equal(
        split_module.limited(labels, half, 3), split_module.limited(labels, half, 4)
    )


def test_a_limit_is_blamed_on_the_field_that_was_given():
    """It was "data.validation: 0.0364 of the 4 images", which nobody had written."""
    data = Digits.model_validate({"source": "digits", "limit": 10})
    images = np.arange(1104, dtype=np.uint8)[:, None, None, None]
    labels = np.array([0] * 4 + [1] * 1100)
    whole = in_memory("x", images.repeat(4, 1), labels, "ab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "open", lambda *_: whole)
        with pytest.raises(
            DataError, match=r"^data\.limit: 10 of 1104 images leaves none of the 4 of class 0; raise it"
        ):
            prepare(data.model_copy(update={"store": "/nowhere"}), "memory", {}, "", print)

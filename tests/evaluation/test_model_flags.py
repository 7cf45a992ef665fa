"""distrib.evaluation.model_flags: what logits, labels and the function of the image say, and when they are silent."""

import pytest
from shards import CALM, FGSM, flag_names, probed, quiet, result_of, shard

from distrib.evaluation.outcomes import ShardResult


@pytest.mark.parametrize(
    ("labels", "predicted", "collapsed"),
    [
        ([0] * 76 + [1] * 24, [0] * 100, True),
        ([0] * 97 + [1] * 3, [0] * 100, True),
        ([0] * 98 + [1] * 2, [0] * 100, False),
        ([0] * 76 + [1] * 24, [0] * 98 + [1] * 2, True),
        ([0] * 76 + [1] * 24, [0] * 80 + [1] * 20, False),
        ([0] * 98 + [1] * 2, [0] * 98 + [1] * 2, False),
        ([0] * 100, [0] * 100, False),
    ],
)
def test_a_model_that_says_one_class_has_collapsed_however_often_that_is_right(labels, predicted, collapsed):
    told = result_of(shard("1" * 100, fgsm="1" * 100, label=labels, predicted=predicted), attacks=(FGSM,), classes=2)
    assert ("constant_output" in flag_names(told)) is collapsed, told.flags


def test_one_shard_suffices_except_for_softmax():
    """Logits that happen to be probabilities in one small shard are no softmax; all of them are."""
    calm = shard(**CALM)

    def other(**fields) -> ShardResult:
        return shard(**CALM, position=list(range(200, 400)), probes=quiet(200, **fields))

    assert flag_names(result_of(calm, other(repeat_change=1.0))) == {"randomised_output"}
    assert flag_names(result_of(calm, other(company_change=1.0))) == {"batch_dependent_output"}
    assert flag_names(result_of(calm, other(probabilities=True))) == set()
    assert flag_names(result_of(probed(probabilities=True), other(probabilities=True))) == {"softmax_output"}


def test_a_model_that_answers_with_one_class_has_collapsed():
    one = shard(**CALM | {"predicted": [3] * 200})
    assert flag_names(result_of(one)) >= {"constant_output"}


def test_classes_in_another_order_are_told():
    """Two of ten swapped: 80 % clean, 100 % if they are renamed."""
    places = range(200)
    swapped = [{2: 5, 5: 2}.get(place % 10, place % 10) for place in places]
    (flag,) = result_of(shard(**CALM | {"predicted": swapped})).flags
    assert flag.name == "wrong_labels" and flag.blocking and "2 -> 5, 5 -> 2" in flag.detail
    assert "80.0%, but 100.0%" in flag.detail


def test_a_class_that_is_taken_for_another_one_is_no_other_order():
    """An undertrained model calls 2 an 8, and 8 an 8: no renaming mends that; labels that count from 1 are one."""
    places = range(200)
    merged = [{2: 8}.get(place % 10, place % 10) for place in places]
    assert flag_names(result_of(shard(**CALM | {"predicted": merged}))) == set()
    ahead = {"label": [place % 9 + 1 for place in places], "predicted": [place % 9 for place in places]}
    (flag,) = result_of(shard(**CALM | ahead)).flags
    assert flag.name == "wrong_labels" and "1 -> 0, 2 -> 1" in flag.detail


def test_classes_in_another_order_are_told_also_where_one_is_seldom_right():
    """2 and 5 swapped in the labels, by a model that knows 5 in nine of twenty cases."""
    places = range(200)
    label = [{2: 5, 5: 2}.get(place % 10, place % 10) for place in places]
    predicted = [place % 10 if place % 10 != 5 or place // 10 < 9 else 7 for place in places]
    (flag,) = result_of(shard(**CALM | {"label": label, "predicted": predicted})).flags
    assert flag.name == "wrong_labels" and "5 -> 2" in flag.detail


def test_logits_that_are_not_numbers_have_a_flag_of_their_own():
    nan, minus = [True] * 3 + [False] * 197, [True] * 10 + [False] * 190
    (flag,) = result_of(shard(**CALM, lost=nan, infinite=minus)).flags
    assert (flag.name, flag.blocking, flag.examples) == ("nonfinite_logits", True, (1000, 1001, 1002))
    (flag,) = result_of(shard(**CALM, infinite=minus)).flags
    assert (flag.name, flag.blocking) == ("nonfinite_logits", False) and flag.detail.startswith("10 images")


@pytest.mark.parametrize("n", [2, 5])
def test_on_a_handful_of_images_no_share_is_judged(n: int):
    """Two images, one of them misclassified, read as "100 % if classes are renamed"; none right as "chance"."""
    half = shard("0" + "1" * (n - 1), fgsm="0" * n)
    none = shard("0" * n, fgsm="0" * n, probes=quiet(n, epsilon_curve=[(1.0, 1, n)]))
    flat = shard("1" * n, fgsm="0" * n, probes=quiet(n, zero_gradient=[True] + [False] * (n - 1)))
    one = shard("1" + "0" * (n - 1), fgsm="0" * n, predicted=[0] * n)
    for some in (half, none, flat, one):
        assert result_of(some, attacks=(FGSM,), classes=100).flags == ()

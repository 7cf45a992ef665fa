"""Paired figures: the interval of a difference, against truths and against its own promise."""

from math import comb

import pytest

from distrib.errors import RegistryError
from distrib.evaluation.result import wilson
from distrib.registry.paired import interval, paired


@pytest.mark.parametrize("n", [1, 50, 10_000])
def test_where_no_image_differs_the_interval_is_that_of_no_success(n: int):
    """Tango's interval is then Wilson's of 0 in n, both ways."""
    low, high = interval(0, 0, n)
    assert (-low, high) == pytest.approx((wilson(0, n)[1],) * 2, rel=1e-6)
    found = paired(dict.fromkeys(range(n), True), dict.fromkeys(range(n), True))
    assert (found.difference, found.p, found.p_better) == (0.0, 1.0, 1.0) and found.interval == (low, high)


def test_the_interval_is_tangos():
    """His own example: of 44 pairs one differs."""
    assert interval(0, 1, 44) == pytest.approx((-0.1181, 0.0594), abs=1e-4)
    assert interval(10, 2, 50) == pytest.approx(tuple(-x for x in reversed(interval(2, 10, 50))))
    assert interval(50, 0, 50)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(("only_a", "only_b"), [(0.1, 0.1), (0.05, 0.02), (0.3, 0.1), (0.01, 0.01)])
def test_it_holds_the_truth_as_often_as_it_says(only_a: float, only_b: float):
    n, held = 30, 0.0
    for i in range(n + 1):
        for j in range(n + 1 - i):
            low, high = interval(i, j, n)
            if low <= only_a - only_b <= high:
                rest = (1 - only_a - only_b) ** (n - i - j)
                held += comb(n, i) * comb(n - i, j) * only_a**i * only_b**j * rest
    assert held > 0.94


def test_the_one_sided_p_is_the_tail_of_the_coin():
    """Of 6 that differ, 5 stand only in the second: (6 + 1) / 2^6."""
    a = dict(enumerate([True] + [False] * 5 + [True] * 4))
    b = dict(enumerate([False] + [True] * 5 + [True] * 4))
    assert paired(a, b).p_better == pytest.approx(7 / 64) and paired(b, a).p_better == pytest.approx(63 / 64)


def test_without_an_image_in_common_there_is_nothing_to_say():
    with pytest.raises(RegistryError, match="no image in common"):
        paired({1: True}, {2: True})

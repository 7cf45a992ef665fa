"""distrib.evaluation.published: figures that others published, for known threats alone."""

import pytest

from distrib.evaluation.published import FIGURES, published


@pytest.mark.parametrize("known", FIGURES)
def test_the_strongest_comes_first_and_none_withstands_more_than_it_gets_right(known: tuple):
    figures = published(*known)
    assert [one.robust for one in figures] == sorted((one.robust for one in figures), reverse=True)
    assert all(0 < one.robust < one.clean < 100 and one.source for one in figures)


def test_an_epsilon_that_was_rounded_is_known_and_another_threat_is_not():
    assert published("cifar10", "linf", 0.0313725) == published("cifar10", "linf", 8 / 255)
    assert published("cifar10", "linf", 0.031) == () == published("cifar10", "l2", 8 / 255)
    assert published("folder", "linf", 8 / 255) == (), "a folder of pictures may be any data set"

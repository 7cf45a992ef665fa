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


@pytest.mark.parametrize(
    ("known", "name", "clean", "robust"),
    [
        (("mnist", "linf", 0.3), "Madry et al. 2017", 98.53, 88.50),
        (("cifar10", "linf", 8 / 255), "Addepalli et al. 2022, ResNet-18", 85.71, 52.48),
        (("cifar10", "l2", 0.5), "Rice et al. 2020, PreActResNet-18", 88.67, 67.68),
        (("cifar100", "linf", 8 / 255), "Addepalli et al. 2022, ResNet-18", 65.45, 27.67),
    ],
)
def test_figures_are_those_of_their_source(known: tuple, name: str, clean: float, robust: float):
    assert (name, clean, robust) in [one[:3] for one in published(*known)]

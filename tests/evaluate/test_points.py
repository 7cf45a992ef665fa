"""Which test images are judged, and in what order."""

import numpy as np
import pytest

from distrib.evaluate.points import chosen


@pytest.mark.parametrize("n", [None, 1, 7, 50, 80])
def test_the_chosen_images_are_a_draw_without_repetition(n: int | None):
    images = chosen(50, n, 3)
    assert len(images) == min(50, n or 50) == len(set(images.tolist())) and set(images.tolist()) <= set(range(50))
    assert np.array_equal(images, chosen(50, None, 3)[: len(images)]), "a smaller n is no other draw"


def test_the_chosen_images_are_not_the_first_and_depend_on_the_seed():
    draws = {tuple(chosen(200, 20, seed).tolist()) for seed in range(50)}
    assert len(draws) == 50
    counts = np.bincount([image for draw in draws for image in draw], minlength=200)
    assert counts.max() < 20 and counts.sum() == 1000  # a mean of 5

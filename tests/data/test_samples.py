"""Images with their labels: what is no data set is refused; what comes from elsewhere stands behind."""

import numpy as np
import pytest

from distrib.data.samples import Extra, Samples, combined, in_memory
from distrib.errors import DataError


def test_arrays_that_are_no_data_set_are_refused():
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1])
    assert len(in_memory("x", images, labels, "ab")) == 4
    for pixels, numbers, classes, phrase in (
        (images[:0], labels[:0], "ab", "no images"),
        (images, labels, "a", "at least 2"),
        (images, labels + 1, "ab", r"0 \.\. 1"),
        (images, labels - 1, "ab", r"0 \.\. 1"),
    ):
        with pytest.raises(DataError, match=phrase):
            in_memory("x", pixels, numbers, classes)
    with pytest.raises(DataError, match=r"x: image 2 is float32"):
        in_memory("x", images.astype(np.float32), labels, "ab")[2]
    assert isinstance(Samples("x", ("a", "b"), labels, images.__getitem__, (2, 2, 1))[3][1], int)


def of(name: str, count: int, first: int) -> Samples:
    """Images of one pixel, each of another value."""
    images = (first + np.arange(count, dtype=np.uint8)).reshape(-1, 1, 1, 1)
    samples = in_memory(name, images, np.arange(count) % 2, "ab")
    return Samples(samples.name, samples.classes, samples.labels, samples.image, samples.shape, lambda: f"read {name}")


def test_what_is_joined_stands_behind_and_says_where_it_is_from():
    own = of("own", 4, 0)
    whole = combined(own, [of("more", 2, 100), of("most", 3, 200)])
    assert [int(whole[i][0].item()) for i in range(len(whole))] == [0, 1, 2, 3, 100, 101, 200, 201, 202]
    assert [whole[i][1] for i in range(len(whole))] == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert whole.own == 4 and whole.mixed == (Extra(name="more", count=2), Extra(name="most", count=3))
    assert whole.remark() == "read own; read more; read most" and whole.name == "own"
    assert combined(own, []) is own and own.own == 4

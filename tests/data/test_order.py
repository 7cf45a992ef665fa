"""Global batches: one order for any number of ranks, every image at most once an epoch, another order each epoch."""

from collections.abc import Iterator

import numpy as np
import pytest

from distrib.data.loader import Raw, TrainLoader
from distrib.data.order import bounds, chosen, epoch_order, global_batches
from distrib.world import World

RANKS = [1, 2, 3, 8]


class Kept:
    """A reader that keeps what it is asked for, and has nothing."""

    def read(self, order: np.ndarray, batch_size: int) -> Iterator[Raw]:
        self.asked = order.reshape(-1, batch_size)
        return iter(())


def seen_by_ranks(count: int, seed: int, epoch: int, batch_size: int, size: int) -> np.ndarray:
    """``[steps, batch_size]``: what the loaders of all ranks together ask for, step by step."""
    parts = []
    for rank in range(size):
        reader = Kept()
        list(TrainLoader(reader, count, seed, batch_size, world=World(rank, size)).epoch(epoch))
        parts.append(reader.asked)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(("count", "batch_size"), [(100, 10), (103, 10), (64, 8), (19, 19), (50, 13), (1348, 64)])
@pytest.mark.parametrize("size", RANKS)
def test_any_number_of_ranks_sees_the_same_global_batches(count: int, batch_size: int, size: int):
    one = global_batches(count, 5, 2, batch_size)
    assert np.array_equal(seen_by_ranks(count, 5, 2, batch_size, size), one)
    assert one.shape == (count // batch_size, batch_size)
    assert np.array_equal(one.flatten(), epoch_order(count, 5, 2)[: one.size])
    assert len(np.unique(one)) == one.size, "an image twice in one epoch"


@pytest.mark.parametrize("count", [1, 2, 10, 1000])
def test_an_epoch_is_a_permutation(count: int):
    order = epoch_order(count, 0, 0)
    assert order.dtype == np.int64 and np.array_equal(np.sort(order), np.arange(count))


def test_epochs_and_seeds_differ_and_repeat():
    orders = {(seed, epoch): tuple(epoch_order(100, seed, epoch)) for seed in range(6) for epoch in range(6)}
    assert len(set(orders.values())) == 36, "(1, 2) and (2, 1) must differ too"
    assert all(tuple(epoch_order(100, seed, epoch)) == order for (seed, epoch), order in orders.items())


def test_every_image_takes_every_place_alike():
    """The mean place of an image over many epochs is the middle; its first place is seldom met again."""
    orders = np.stack([epoch_order(20, 3, epoch) for epoch in range(2000)])
    counts = np.stack([(orders == image).sum(axis=0) for image in range(20)])  # [image, place]
    assert np.abs(counts - 100).max() < 5.5 * np.sqrt(2000 * 0.05 * 0.95)


def test_what_fills_no_batch_is_left_out_and_differs_from_epoch_to_epoch():
    left = [frozenset(range(103)) - set(global_batches(103, 0, epoch, 10).flatten()) for epoch in range(30)]
    assert {len(images) for images in left} == {3} and len(set(left)) > 25


@pytest.mark.parametrize("total", [0, 1, 7, 8, 64, 1000])
@pytest.mark.parametrize("size", RANKS)
def test_bounds_tile_without_overlap_and_evenly(total: int, size: int):
    cuts = [bounds(total, rank, size) for rank in range(size)]
    assert [i for start, stop in cuts for i in range(start, stop)] == list(range(total))
    sizes = [stop - start for start, stop in cuts]
    assert max(sizes) - min(sizes) <= 1


def test_an_epoch_without_a_whole_batch_is_empty():
    assert global_batches(9, 0, 0, 10).shape == (0, 10)


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

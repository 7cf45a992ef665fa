"""Global batches: one order for any number of ranks, every image at most once an epoch, another order each epoch."""

from collections.abc import Iterator

import numpy as np
import pytest

from distrib.data.loader import Raw, TrainLoader
from distrib.data.order import Portion, bounds, chosen, epoch_order, global_batches, sizes_of
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


# Mixed sources

MIXED = (Portion(1000, 0.6), Portion(7, 0.1))


def test_every_batch_has_its_share_of_every_source():
    """In 1,000 batches of 32, none of another proportion; nor is any worker's part, but for an image of each."""
    batches = np.concatenate([global_batches(320, 3, epoch, 32, MIXED) for epoch in range(100)])
    assert batches.shape == (1000, 32) and sizes_of(32, [0.6, 0.1]) == [10, 19, 3]
    source = np.digitize(batches, [320, 1320])
    assert batches.max() == 1326
    assert all((np.bincount(row, minlength=3) == [10, 19, 3]).all() for row in source)
    for part in np.split(source, 4, axis=1):
        counts = np.stack([(part == each).sum(1) for each in range(3)], axis=1)
        assert (np.abs(counts - np.array([10, 19, 3]) / 4) < 1).all()


@pytest.mark.parametrize("epochs", [1, 40])
def test_a_source_is_gone_through_whole_before_it_begins_again(epochs: int):
    batches = np.concatenate([global_batches(320, 3, epoch, 32, MIXED) for epoch in range(epochs)])
    for first, count in ((0, 320), (320, 1000), (1320, 7)):
        times = np.bincount(batches[(batches >= first) & (batches < first + count)] - first, minlength=count)
        assert times.max() - times.min() <= 1


def test_a_source_has_another_order_each_time_and_one_of_its_own():
    def of_source(mixed: tuple[Portion, ...], source: int, epoch: int) -> list[int]:
        batches = global_batches(100, 3, epoch, 100, mixed)
        first = 100 * source
        return (batches[(batches >= first) & (batches < first + 100)] - first).tolist()

    alike = (Portion(100, 0.4), Portion(100, 0.3))
    assert len({tuple(sorted(of_source(alike, 0, epoch))) for epoch in range(20)}) == 20
    assert of_source((Portion(100, 0.5),), 0, 0) != of_source((Portion(100, 0.5),), 1, 0)


@pytest.mark.parametrize("size", RANKS)
def test_any_number_of_ranks_sees_the_same_mixed_batches(size: int):
    parts = []
    for rank in range(size):
        reader = Kept()
        list(TrainLoader(reader, 320, 3, 32, world=World(rank, size), mixed=MIXED).epoch(7))
        parts.append(reader.asked)
    assert np.array_equal(np.concatenate(parts, axis=1), global_batches(320, 3, 7, 32, MIXED))


def test_without_mixed_sources_the_order_is_what_it_always_was():
    """Runs that began with an older version go on in the same order."""
    assert global_batches(10, 0, 0, 5).tolist() == [[0, 7, 8, 6, 9], [5, 1, 3, 2, 4]]


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

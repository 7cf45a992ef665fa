"""Noise depends on what it is for, never on who draws it."""

import math

import pytest
import torch
from torch import Tensor

from distrib.noise import Noise, key, mix, shift_right

SHAPES = [(), (1,), (5,), (3, 4, 4)]
DRAWS = {
    "bits": lambda noise, shape: noise.bits(shape),
    "uniform": lambda noise, shape: noise.uniform(shape),
    "normal": lambda noise, shape: noise.normal(shape),
    "integers": lambda noise, shape: noise.integers(7, shape),
}
draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


def stream(*index: int, seed: int = 0, purpose: str = "attack", epoch: int = 0) -> Noise:
    return Noise.of(torch.tensor(index, dtype=torch.int64), seed, purpose, epoch)


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()


@draws
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_do_not_depend_on_the_company(draw, shape: tuple[int, ...]):
    """Alone, in any order, in any batch: a sample meets the same numbers, call after call."""
    index = [9, 2, 700_000, 0, 41]
    together = stream(*index)
    alone = {i: stream(i) for i in index}
    backwards = stream(*reversed(index))
    for _ in range(3):
        batch = draw(together, shape)
        assert batch.shape == (5, *shape)
        assert torch.equal(batch, torch.cat([draw(alone[i], shape) for i in index]))
        assert torch.equal(batch.flip(0), draw(backwards, shape))


@draws
def test_each_call_brings_fresh_numbers_that_a_restart_repeats(draw):
    noise = stream(*range(50))
    first, second = draw(noise, (20,)), draw(noise, (20,))
    assert (first == second).float().mean() < 0.3  # 1/7 of small integers agree by chance
    again = stream(*range(50))
    assert torch.equal(draw(again, (20,)), first) and torch.equal(draw(again, (20,)), second)


def test_the_first_numbers_of_a_longer_draw_are_those_of_a_shorter():
    """Position is part of the hash: a larger image does not reshuffle a smaller one."""
    assert torch.equal(stream(3, 4).bits((10,))[:, :6], stream(3, 4).bits((2, 3)).flatten(1))


def test_some_rows_are_the_same_streams_where_they_are_now():
    noise = stream(*range(10))
    noise.uniform((3,))
    rows = torch.tensor([7, 2, 2])
    part, mask = noise[rows], noise[torch.arange(10) > 6]
    whole = noise.uniform((4,))
    assert torch.equal(part.uniform((4,)), whole[rows]) and torch.equal(mask.uniform((4,)), whole[7:])
    before = noise.calls
    part.uniform((1,))
    assert noise.calls == before, "drawing from a part moved the whole"


def test_no_samples_no_numbers():
    assert stream().uniform((3, 2)).shape == (0, 3, 2) and stream().integers(5).shape == (0,)


def test_uniform_moments_and_range():
    u = stream(*range(2000)).uniform((100,)).double()
    n = u.numel()
    assert u.min() >= 0 and u.max() < 1
    for power in (1, 2, 3, 4):  # E u^k = 1/(k+1), Var u^k = 1/(2k+1) - 1/(k+1)^2
        expected, variance = 1 / (power + 1), 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        assert abs((u**power).mean().item() - expected) < 5 * math.sqrt(variance / n), power
    counts = torch.histc(u.float(), bins=100, min=0, max=1)
    chi2 = ((counts - n / 100) ** 2 / (n / 100)).sum().item()
    assert abs(chi2 - 99) < 5 * math.sqrt(2 * 99)


def test_normal_moments_and_tails():
    z = stream(*range(2000)).normal((100,)).double()
    n = z.numel()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean().item() - expected) < 5 * math.sqrt(variance / n), power
    for bound in (0.5, 1.0, 2.0, 3.0):
        share = math.erfc(bound / math.sqrt(2))
        assert abs((z.abs() > bound).double().mean().item() - share) < 5 * math.sqrt(share / n), bound


@pytest.mark.parametrize("high", [1, 2, 3, 9, 10, 100])
def test_integers_are_uniform(high: int):
    counts = torch.bincount(stream(*range(2000)).integers(high, (10,)).flatten(), minlength=high)
    assert len(counts) == high
    assert ((counts - 20_000 / high).abs() <= 5 * math.sqrt(20_000 / high)).all()


@pytest.mark.parametrize("word", [0, -1], ids=["all bits 0", "all bits 1"])
def test_the_ends_of_the_range_give_usable_numbers(word: int, monkeypatch: pytest.MonkeyPatch):
    """Not 1, not inf, and not an integer beyond the last: float32 rounds up close to the end."""
    monkeypatch.setattr(Noise, "bits", lambda self, shape: torch.full((len(self.keys), *shape), word))
    noise = stream(0, 1)
    assert (noise.uniform((2,)) == (0.0 if word == 0 else 1 - 2**-24)).all()
    assert noise.normal((2,)).isfinite().all()
    for high in range(1, 3000):
        assert (noise.integers(high) == (0 if word == 0 else high - 1)).all(), high


SAMPLES = range(400)
STREAMS = {
    "itself": stream(*SAMPLES),
    "seed": stream(*SAMPLES, seed=1),
    "purpose": stream(*SAMPLES, purpose="augment"),
    "epoch": stream(*SAMPLES, epoch=1),
    "other samples": stream(*(i + 1000 for i in SAMPLES)),
    "fork": stream(*SAMPLES).fork(1),
    "fork 2": stream(*SAMPLES).fork(2),
    "fork of a fork": stream(*SAMPLES).fork(1).fork(2),
    "forks swapped": stream(*SAMPLES).fork(2).fork(1),
    "fork with another seed": stream(*SAMPLES, seed=1).fork(1),
}


def test_streams_for_different_things_are_unrelated():
    """Every pair: no correlation beyond chance, and no number in common but by chance."""
    drawn = torch.stack([Noise(one.keys).uniform((50,)).flatten() for one in STREAMS.values()])
    related = torch.corrcoef(drawn.double()) - torch.eye(len(STREAMS))
    assert related.abs().max() < 5 / math.sqrt(drawn.shape[1]), list(STREAMS)
    every = torch.cat([Noise(one.keys).bits((50,)).flatten() for one in STREAMS.values()])
    assert every.unique().numel() == every.numel(), "64-bit words met twice: streams overlap"


def test_neighbouring_samples_calls_and_positions_are_unrelated():
    noise = stream(*range(400))
    first, second = noise.uniform((100,)), noise.uniform((100,))
    for a, b in (
        (first[1:], first[:-1]),
        (first[:, 1:], first[:, :-1]),
        (first, second),
        (first[:, 1:], second[:, :-1]),
    ):
        assert abs(correlation(a, b)) < 5 / math.sqrt(a.numel())


def test_a_fork_stands_at_its_beginning_wherever_its_parent_is():
    noise = stream(1, 2)
    early = noise.fork(3).bits((4,))
    noise.bits((4,))
    assert torch.equal(noise.fork(3).bits((4,)), early)
    assert torch.equal(stream(2).fork(3).bits((4,)), early[1:]), "a fork depends on the company"


def test_mix_is_the_finaliser_of_splitmix64():
    """Against plain Python integers, and a bijection as far as it is tried."""

    def reference(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    words = [0, 1, 2, 2**31, 2**63 - 1, -1, -(2**63), -12345678901234567, 0x123456789ABCDEF]
    mixed = mix(torch.tensor(words)).tolist()
    assert [word % 2**64 for word in mixed] == [reference(word % 2**64) for word in words]
    assert shift_right(torch.tensor([-1, -(2**63), 8]), 3).tolist() == [2**61 - 1, 2**60, 1]
    assert mix(torch.arange(-50_000, 50_000)).unique().numel() == 100_000


def test_keys_tell_their_parts_apart():
    parts = [(1, "a"), (1, "b"), (2, "a"), ("1", "a"), (1, "a", 0), ("1a",), (11, "a"), (1, "1a"), ("a", 1)]
    assert len({key(*part) for part in parts}) == len(parts)
    assert all(-(2**63) <= key(*part) < 2**63 for part in parts)

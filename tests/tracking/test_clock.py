"""Where the time of a run went."""

import time

import pytest

from distrib.tracking.clock import Clock, now


def test_the_times_of_one_name_are_added_also_where_the_block_fails(monkeypatch: pytest.MonkeyPatch):
    seconds = iter([0.0, 1.0, 3.0, 10.0, 14.5, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    clock = Clock.start()
    with clock.measure("train"):
        pass
    with pytest.raises(ZeroDivisionError), clock.measure("train"):
        raise ZeroDivisionError
    assert clock.marks == {"train": 6.5} and clock.seconds == 20


def test_a_point_has_the_time_of_the_day_in_milliseconds():
    assert abs(now() / 1000 - time.time()) < 60

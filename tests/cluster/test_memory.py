"""A machine whose memory was full, found in what Ray says of it."""

from pathlib import Path

import pytest

from distrib.cluster.memory import Shortage, shortage

FULL = (Path(__file__).parent / "out_of_memory.txt").read_text()
"""What Ray 2.60 says where its memory monitor has ended an evaluation's task."""


def test_the_machine_and_the_largest_process_are_found():
    assert shortage(FULL) == Shortage("10.0.0.7", 2, 7.41, 7.8, "judge", 6361, 3.25)
    assert str(shortage(FULL)) == (
        "node 10.0.0.7 ran out of memory (7.41 of 7.8 GB in use), so Ray ended 2 processes there (the largest judge, "
        "pid 6361, with 3.25 GB)"
    )


@pytest.mark.parametrize(
    ("count", "name", "told"),
    [
        (1, "RayTrainWorker", r"so Ray ended 1 process there (RayTrainWorker, pid 7, with 2 GB)"),
        (3, "", "so Ray ended 3 processes there"),
    ],
)
def test_one_process_is_no_largest_and_one_without_a_name_is_not_named(count: int, name: str, told: str):
    assert str(Shortage("here", count, 7.5, 8, name, 7, 2.0)).endswith(told)


def test_another_error_tells_of_none():
    assert shortage("The actor died unexpectedly before finishing this task.") is None

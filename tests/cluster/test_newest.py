"""Workers agree on the checkpoint from which they go on, before they do."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch import nn

from distrib.checkpoints import folder_for, save_checkpoint
from distrib.cluster import train
from distrib.errors import InputError
from distrib.optim import SGD
from distrib.state import State
from distrib.world import World


@dataclass(frozen=True)
class Other(World):
    """This rank, and another one that has seen epoch 2 all along."""

    seen: list[int] = field(default_factory=list)

    def agree(self, number: int) -> bool:
        self.seen.append(number)
        return number == 2


def store(run: Path, epoch: int) -> None:
    state = State(nn.Linear(2, 2), SGD(name="sgd", lr=0.1, epochs=9), steps_per_epoch=1)
    save_checkpoint(state, folder_for(run, epoch), [{}] * epoch, {}, "digest")


def test_a_checkpoint_that_one_worker_sees_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store(tmp_path, 1)
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            store(tmp_path, 2)

    monkeypatch.setattr(train.time, "sleep", sleep)
    world = Other()
    found = train.newest(tmp_path, world, pytest.fail)
    assert found is not None and found.epoch == 2
    assert world.seen == [1, 1, 1, 2] and slept == [1, 2, 4]


def test_workers_that_never_see_the_same_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    slept = []
    monkeypatch.setattr(train.time, "sleep", slept.append)
    with pytest.raises(InputError, match=r"storage: the workers see unlike checkpoints in .*all of them see"):
        train.newest(tmp_path, Other(), pytest.fail)
    assert sum(slept) == 63, "about a minute"

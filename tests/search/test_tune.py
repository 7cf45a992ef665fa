"""What a search asks of Ray Tune."""

from pathlib import Path
from typing import Any

import pytest
from searches import tune

from distrib.search.space import known_settings
from distrib.search.trials import Trials, TrialSlots


@pytest.mark.parametrize(
    ("memories", "concurrent", "share"),
    [
        ([64e9] * 4, 24, 1_250_000_000), ([2e9], 1, 1_250_000_000), ([2e9], 2, 625_000_000),
        ([1e9, 0, 4e9], 5, 625_000_000), ([0], 3, 1),
    ],
)  # fmt: skip
def test_a_trial_s_process_reserves_the_memory_that_it_takes(memories: list[float], concurrent: int, share: int):
    """Of 24 that reserved a byte each, one of four nodes got all."""
    from distrib.search.tune import trial_resources

    assert trial_resources(memories, concurrent) == {"memory": share}


def test_a_search_asks_ray_tune_for_the_memory_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import ray

    from distrib.search import tune as door

    class Asked(Exception):
        """Raised in the place of the experiment."""

    def start(trainable: object, resources: dict) -> None:
        raise Asked(resources["memory"])

    node = {"Alive": True, "Resources": {"CPU": 8, "memory": 64e9}}
    monkeypatch.setattr(ray, "nodes", lambda: [node] * 4)
    monkeypatch.setattr(door.tune, "with_parameters", lambda function, **values: function)
    monkeypatch.setattr(door.tune, "with_resources", start)
    job, nobody = tune({}), Any
    trials = Trials(job, tmp_path, 2)
    trials.add(*(known_settings(job) or ()))
    with pytest.raises(Asked, match="1250000000"):
        door.search(trials, tmp_path, TrialSlots(24, False), nobody, nobody)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("given", [False, True])
def test_every_trial_begins_with_the_weights_of_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
):
    from distrib.search import tune as door

    class Asked(Exception):
        """Raised in the place of the experiment."""

    def grid_search(configs: list[dict]) -> None:
        raise Asked([one["work"].order.init for one in configs])

    monkeypatch.setattr(door.tune, "grid_search", grid_search)
    job, nobody = tune({"train.init.weights": "models:/natural/1"} if given else {}), Any
    trials = Trials(job, tmp_path, 2)
    trials.add(*(known_settings(job) or ()))
    with pytest.raises(Asked) as asked:
        door.search(trials, tmp_path, TrialSlots(2, False), mailbox=nobody, events=nobody)  # pyright: ignore[reportArgumentType]
    assert set(asked.value.args[0]) == {tmp_path / "init.safetensors" if given else None}

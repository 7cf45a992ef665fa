"""The parts of a study: each is kept once it is done, and belongs to one study of one set of models."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from studies import Given, Linear, labelled

from distrib.config.file import parse
from distrib.config.job import Study
from distrib.data.beton import open_split
from distrib.errors import RegistryError
from distrib.studies import run as door
from distrib.studies.run import paper_study
from distrib.tracking.display import Display

JOB = {
    "kind": "study", "name": "c", "data": {"source": "digits"},
    "study": {
        "of": "curves", "models": labelled(m="-"), "linf": [0, 0.1], "n": 30, "shard_size": 10, "num_steps": 1,
        "queries": 5,
    },
}  # fmt: skip
PARTS = [("m", "linf", epsilon, start) for epsilon in (0.0, 0.1) for start in (0, 10, 20)]


@pytest.fixture
def carried_out(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict, list]]:
    """Carries out the study in one folder, as often as it is called: what was found, and what was done for it."""
    done: list[tuple] = []

    def mapped(function: Callable, shared: object, items: list[tuple], workers: object) -> Iterator[tuple]:
        for item in reversed(items):  # parts end in whatever order
            done.append(item)
            if item in stop:
                raise KeyboardInterrupt
            yield item, function(shared, *item)

    def carry(model: Linear, interrupted_at: tuple = (), **fields: object) -> tuple[dict, list]:
        nonlocal stop
        stop, job = [interrupted_at], parse({**JOB, "study": JOB["study"] | fields}, [], "here")
        assert isinstance(job, Study)
        done.clear()
        run: Any = SimpleNamespace(
            job=job, folder=tmp_path, data=digits, test=open_split(digits, "test", "evaluation"), display=Display(),
            use_gpu=False, workers=None,
        )  # fmt: skip
        return door._carried_out(run, paper_study(job.study), {"m": Given(model)}), list(done)

    stop: list[tuple] = []
    monkeypatch.setattr(door, "map_tasks", mapped)
    return carry


def test_finished_parts_are_not_done_again(carried_out: Callable):
    model = Linear()
    with pytest.raises(KeyboardInterrupt):
        carried_out(model, interrupted_at=PARTS[2])
    found, done = carried_out(model)
    assert done == PARTS[2::-1], "the last three were done before"
    assert list(found) == PARTS and all(one["images"] == 10 for one in found.values())
    assert carried_out(model) == (found, [])


def test_parts_of_another_study_or_model_are_none_of_this_one(carried_out: Callable):
    model = Linear()
    found, _ = carried_out(model)
    assert len(carried_out(Linear(seed=1))[1]) == len(PARTS) == len(carried_out(model, seed=7)[1])
    assert carried_out(model) == (found, [])


def test_a_part_that_cannot_be_read_is_done_again(carried_out: Callable, tmp_path: Path):
    found, _ = carried_out(Linear())
    min((tmp_path / "parts").iterdir()).write_text("{")
    assert carried_out(Linear()) == (found, PARTS[:1])


def test_a_card_or_a_checkpoint_tells_what_a_model_was_trained_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "state.json").touch()
    natural = SimpleNamespace(job={"objective": {"method": "natural"}})
    robust = {"job": {"objective": {"threat": {"norm": "linf", "epsilon": "8/255"}}}}

    def card(address: str, uri: str, tier: None) -> tuple[dict, str]:
        if address.endswith("2"):
            raise RegistryError("it has no card")
        return robust, ""

    monkeypatch.setattr(door.checkpoints, "verify", lambda path: natural)
    monkeypatch.setattr(door.versions, "fetch_card", card)
    run: Any = SimpleNamespace(uri="here")
    models = {"r": "models:/m/1", "unknown": "models:/m/2", "n": str(tmp_path), "program": "model.pt2"}
    assert door._trained_within(run, models) == {"r": ("linf", 8 / 255)}

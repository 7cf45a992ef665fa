"""distrib.commands.train: what a job hands on, without Ray and MLflow."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from cards import claim
from documents import job

from distrib.checkpoints import Checkpoint
from distrib.commands import train
from distrib.data.beton import open_split
from distrib.data.loader import MemoryReader
from distrib.tracking.clock import Clock
from distrib.tracking.display import Display


def test_the_input_example_of_a_version_is_not_the_first_images_of_the_first_class(
    sorted_by_class: Path, monkeypatch: pytest.MonkeyPatch
):
    """The stored model is compared with the original on it. Beside it are test images, for whoever pulls the model."""
    examples: list[np.ndarray] = []
    shown: list[dict[str, torch.Tensor]] = []

    def register(entry, name, tracker):
        examples.append(entry.batch)
        shown.append(safetensors.torch.load(entry.files["test_images.safetensors"]))
        return train.store.Registered("t", "1", "champion")

    monkeypatch.setattr(train.store, "register", register)
    monkeypatch.setattr(train, "_weights", lambda *arguments: None)
    test = open_split(sorted_by_class, "test", "evaluation")
    run: Any = SimpleNamespace(job=job(), data=sorted_by_class, display=Display(), tracker=None, test=test)
    train._register(run, best=None, card=None, files={})  # pyright: ignore[reportArgumentType]
    reader = MemoryReader(open_split(sorted_by_class, "validation", "training"))
    images = reader.image.permute(0, 3, 1, 2).float() / 255
    labels = {int(reader.label[(images == image).flatten(1).all(1)][0]) for image in torch.from_numpy(examples[0])}
    assert len(examples[0]) == 4 and len(labels) > 1, labels
    (kept,), held = shown, MemoryReader(test)
    assert torch.equal(kept["image"], held.image[kept["index"]].permute(0, 3, 1, 2)) and len(kept["label"]) == 8
    assert torch.equal(kept["label"], held.label[kept["index"]]) and len(set(kept["label"].tolist())) > 1


@pytest.mark.parametrize(("ran", "told"), [([2.0, 1.0], 1), ([1.0, 2.0], 2), ([None, None], 4)])
def test_the_result_says_how_many_workers_ran(tmp_path: Path, ran: list[float | None], told: int):
    """Of an elastic run, in its last epoch; an older version did not keep it, and it is what was asked for."""
    asked = job(cluster__num_workers={"min": 1, "max": 4})
    epoch = {"images_per_second": 1.0, "train_seconds": 1.0, "data_wait_share": 0.0}
    history = [epoch | ({} if one is None else {"num_workers": one}) for one in ran]
    stored = Checkpoint(tmp_path, 2, 2, history, {}, "", "", "float32")
    run: Any = SimpleNamespace(job=asked, clock=Clock.start(), folder=tmp_path)
    found: Any = SimpleNamespace(result=claim(0.5), key="")
    result = train._figures(run, "robust", {"robust": train.Trained(stored, history, found)})
    assert result["num_workers"] == told and type(result["num_workers"]) is int

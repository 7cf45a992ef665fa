"""Frozen sets: what is in them is found by index; what is not a set, or cheats, is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distrib.data.loader import Batch
from distrib.errors import DataError, RunError
from distrib.evaluate import frozen
from distrib.evaluate.suite import Evaluation, Stored, Transfer
from distrib.evaluate.witness import Help, attack_shard
from distrib.models import SmallCNN
from distrib.threat import Linf


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def write(folder: Path, **tensors: Tensor) -> Path:
    save_file(tensors, folder / frozen.SET)
    return folder


def test_images_are_found_by_their_index_in_any_order(tmp_path: Path):
    x = images()
    folder = write(tmp_path, x_adv=x, index=torch.tensor([40, 10, 30, 20, 60, 50]))
    assert torch.equal(frozen.images(folder, torch.tensor([10, 60, 40])), x[[1, 4, 0]])
    assert torch.equal(frozen.images(folder / frozen.SET, torch.tensor([30])), x[[2]])
    with pytest.raises(DataError, match="holds 6 images, but not that of test image 11"):
        frozen.images(folder, torch.tensor([10, 11]))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x_adv": images().half(), "index": torch.arange(6)}, "must be float32"),
        ({"x_adv": images()[:, 0], "index": torch.arange(6)}, "must be float32"),
        ({"x_adv": images(), "index": torch.tensor([0, 1, 2, 3, 4, 4])}, "5 different indices of 6"),
        ({"x_adv": images(), "index": torch.arange(5)}, "6 images"),
        ({"x_adv": images()}, "needs the tensors x_adv and index"),
        ({"images": images(), "index": torch.arange(6)}, "needs the tensors x_adv and index"),
    ],
)
def test_what_is_no_set_is_refused(tmp_path: Path, tensors: dict[str, Tensor], words: str):
    with pytest.raises(DataError, match=words):
        frozen.images(write(tmp_path, **tensors), torch.arange(2))


def test_a_file_that_is_not_there_or_damaged_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such file"):
        frozen.identity(tmp_path)
    (tmp_path / frozen.SET).write_bytes(b"no tensors")
    with pytest.raises(DataError, match="not a set of images"):
        frozen.identity(tmp_path)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return SmallCNN(width=0.25).build((1, 8, 8), 10, [0.5], [0.3]).eval()


def judged(model: nn.Module, attack: Stored | Transfer, help: Help) -> tuple[list[int], Tensor]:
    x = images()
    with torch.no_grad():
        batch = Batch(x, model(x).argmax(dim=1), torch.arange(6))
    result, worst = attack_shard(
        model, batch, np.arange(6), Evaluation(threat=Linf(epsilon=0.3), attacks=(attack,)), help
    )
    return result.fate[attack.name], worst


def test_stored_images_are_scored_and_cheats_refused():
    model, x = network(0), images()
    for moved, fair in ((0.3, True), (0.31, False)):
        help = Help(source=network, stored=lambda path, index, moved=moved: (x[index] + moved).clamp(0, 1))
        if fair:
            fate, worst = judged(model, Stored(attack="stored", path="p"), help)
            with torch.no_grad():
                kept = model((x + 0.3).clamp(0, 1)).argmax(1) == model(x).argmax(1)
            assert fate == kept.int().tolist() and torch.equal(worst, (x + 0.3).clamp(0, 1))
        else:
            with pytest.raises(RunError, match=r"stored-p-\w{6} left the linf ball of 0\.3"):
                judged(model, Stored(attack="stored", path="p"), help)


def test_transfer_climbs_the_source_and_judges_the_model():
    """From itself it is PGD on itself; from another net it finds other images."""
    model, other = network(0), network(1)
    attack = Transfer(attack="transfer", source="a", num_steps=5)
    own, worst = judged(model, attack, Help(source=lambda address: model, stored=frozen.images))
    _, elsewhere = judged(model, attack, Help(source=lambda address: other, stored=frozen.images))
    assert sum(own) < 6 and not torch.equal(worst, elsewhere)

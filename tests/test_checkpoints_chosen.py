"""distrib.checkpoints: which stored state a run goes on from, which one is best, and which are kept."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from distrib.checkpoints import (
    CLEAN,
    ROBUST,
    best,
    best_epoch,
    folder_for,
    latest,
    prune,
    save_checkpoint,
    stored_epochs,
)
from distrib.errors import CheckpointError
from distrib.files import file_sha256
from distrib.optim import SGD
from distrib.state import State


def history(*scores: float) -> list[dict]:
    return [{ROBUST: score, CLEAN: 0.9 - score} for score in scores]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return State(nn.Linear(2, 2), SGD(name="sgd", lr=0.1, epochs=9), steps_per_epoch=1)


def fill(run: Path, state: State, *scores: float) -> list[dict]:
    """A checkpoint after each epoch; returns the history of the last."""
    for epoch in range(1, len(scores) + 1):
        state.step = epoch
        save_checkpoint(state, folder_for(run, epoch), history(*scores[:epoch]), {}, "digest")
    return history(*scores)


def damage(run: Path, epoch: int) -> None:
    path = folder_for(run, epoch) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def refuse(text: str) -> None:
    raise AssertionError(f"nothing should have been said, but: {text}")


def test_the_newest_is_found_by_number(tmp_path: Path, state: State):
    fill(tmp_path, state, *([0.5] * 11))  # so that 11 comes after 2
    found = latest(tmp_path, refuse)
    assert found is not None and (found.epoch, found.step, found.folder) == (11, 11, folder_for(tmp_path, 11))
    assert stored_epochs(tmp_path) == list(range(1, 12))


def test_without_any_checkpoint_there_is_none(tmp_path: Path):
    assert latest(tmp_path, refuse) is None
    assert latest(tmp_path / "nowhere", refuse) is None
    with pytest.raises(CheckpointError, match="no checkpoint"):
        best(tmp_path, 0.0, refuse)


def test_other_folders_are_not_checkpoints(tmp_path: Path, state: State):
    fill(tmp_path, state, 0.5)
    for name in (".epoch-00002.part", "epoch-2", "epoch-00003.old", "epoch-abcde", "epoch-000004"):
        (tmp_path / name).mkdir()
    assert stored_epochs(tmp_path) == [1]


@pytest.mark.parametrize("damaged", [[3], [3, 2]])
def test_damaged_newest_ones_are_passed_over_with_a_word(tmp_path: Path, state: State, damaged: list[int]):
    fill(tmp_path, state, 0.1, 0.2, 0.3)
    for epoch in damaged:
        damage(tmp_path, epoch)
    said: list[str] = []
    found = latest(tmp_path, said.append)
    assert found is not None and found.epoch == 3 - len(damaged)
    assert len(said) == len(damaged)
    for epoch, text in zip(damaged, said, strict=True):
        assert str(folder_for(tmp_path, epoch) / "weights.safetensors") in text and "damaged" in text


def test_a_folder_without_its_record_is_passed_over(tmp_path: Path, state: State):
    fill(tmp_path, state, 0.1)
    folder_for(tmp_path, 2).mkdir()
    said: list[str] = []
    found = latest(tmp_path, said.append)
    assert found is not None and found.epoch == 1 and "state.json" in said[0]


def test_where_all_are_damaged_the_run_does_not_start_over(tmp_path: Path, state: State):
    fill(tmp_path, state, 0.1, 0.2)
    damage(tmp_path, 1)
    damage(tmp_path, 2)
    said: list[str] = []
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        latest(tmp_path, said.append)
    assert len(said) == 2


@pytest.mark.parametrize(
    ("scores", "epoch"),
    [((0.5,), 1), ((0.1, 0.3, 0.2), 2), ((0.3, 0.3, 0.3), 3), ((0.1, 0.4, 0.4, 0.2), 3), ((0.0, 0.0, 0.1), 3)],
)
def test_the_best_epoch_is_the_last_of_the_highest(scores: tuple[float, ...], epoch: int):
    assert best_epoch(history(*scores), 0.0) == epoch


def test_an_epoch_that_was_not_validated_is_best_only_while_none_was():
    """Also against one whose clean accuracy is under the floor."""
    bare = {"train_loss": 1.0}
    for validated in ({ROBUST: 0.0, CLEAN: 0.0}, {ROBUST: 0.5, CLEAN: 0.6}):
        assert best_epoch([bare, validated, bare], 0.7) == 2
    assert best_epoch([bare, bare], 0.0) == 2, "the newest"


@pytest.mark.parametrize(("clean", "epoch"), [((0.7, 0.9, 0.8), 2), ((0.9, 0.9, 0.8), 2), ((0.9, 0.7, 0.8), 1)])
def test_of_equally_robust_epochs_the_one_with_the_higher_clean_accuracy_is_best(clean: tuple[float, ...], epoch: int):
    epochs = [{ROBUST: 0.5, CLEAN: one} for one in clean]
    assert best_epoch([*epochs, {ROBUST: 0.4, CLEAN: 1.0}], 0.0) == epoch


@pytest.mark.parametrize(("floor", "epoch"), [(0.5, 2), (0.6, 3), (0.75, 1), (0.95, 1)])
def test_an_epoch_below_the_floor_is_best_only_where_none_is_above(floor: float, epoch: int):
    """Clean accuracy is 0.8, 0.5 and 0.6; where none suffices, the one that lacks least."""
    assert best_epoch(history(0.1, 0.4, 0.3), floor) == epoch


def test_the_best_checkpoint_is_the_one_the_newest_history_names(tmp_path: Path, state: State):
    fill(tmp_path, state, 0.1, 0.4, 0.4, 0.2)
    assert best(tmp_path, 0.0, refuse).epoch == 3


@pytest.mark.parametrize(
    ("damaged", "taken"), [([3], 2), ([3, 2], 4), ([3, 4], 2), ([3, 2, 1], 4), ([4], 3), ([4, 3, 2], 1)]
)
def test_where_the_best_is_damaged_the_best_of_the_whole_ones_is_taken(
    tmp_path: Path, state: State, damaged: list[int], taken: int
):
    fill(tmp_path, state, 0.1, 0.4, 0.5, 0.2)
    for epoch in damaged:
        damage(tmp_path, epoch)
    said: list[str] = []
    assert best(tmp_path, 0.0, said.append).epoch == taken
    known = max(set(range(1, 5)) - {epoch for epoch in damaged if set(range(epoch, 5)) <= set(damaged)})
    if 3 in damaged and known > 3:
        assert len(said) == 1 and "the best epoch is 3" in said[0] and f"epoch {taken} takes" in said[0]
        assert f"{folder_for(tmp_path, 3) / 'weights.safetensors'}: damaged" in said[0]


def test_where_none_is_whole_there_is_no_best_one(tmp_path: Path, state: State):
    fill(tmp_path, state, 0.1, 0.2)
    damage(tmp_path, 1)
    damage(tmp_path, 2)
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        best(tmp_path, 0.0, lambda text: None)


def test_a_damaged_best_one_is_not_all_that_is_kept(tmp_path: Path, state: State):
    """Epoch 2 is damaged while training goes on: epoch 3, the best of the others, is not thrown away for it."""
    fill(tmp_path, state, 0.1, 0.9, 0.5)
    prune(tmp_path, history(0.1, 0.9, 0.5), 1, 0.0)
    damage(tmp_path, 2)
    for epoch, scores in ((4, (0.1, 0.9, 0.5, 0.2)), (5, (0.1, 0.9, 0.5, 0.2, 0.3))):
        state.step = epoch
        save_checkpoint(state, folder_for(tmp_path, epoch), history(*scores), {}, "digest")
        prune(tmp_path, history(*scores), 1, 0.0)
    assert stored_epochs(tmp_path) == [2, 3, 5]
    assert best(tmp_path, 0.0, lambda text: None).epoch == 3


def test_a_checkpoint_of_weights_that_are_not_finite_is_damaged(tmp_path: Path, state: State):
    """As an older version sealed it: the next step would have found the loss not finite, but the epoch was over."""
    fill(tmp_path, state, 0.1, 0.2, 0.3)
    folder = folder_for(tmp_path, 3)
    weights = {name: tensor * float("nan") for name, tensor in load_file(folder / "weights.safetensors").items()}
    save_file(weights, folder / "weights.safetensors")
    record = json.loads((folder / "state.json").read_text())
    record.pop("finite", None)
    record["sha256"]["weights.safetensors"] = file_sha256(folder / "weights.safetensors")
    (folder / "state.json").write_text(json.dumps(record))
    (folder / "state.json.sha256").write_text(file_sha256(folder / "state.json"))
    said: list[str] = []
    found = latest(tmp_path, said.append)
    assert found is not None and found.epoch == 2
    assert len(said) == 1 and "epoch-00003/weights.safetensors: damaged: its weights are not finite" in said[0]


@pytest.mark.parametrize("keep", [1, 2, 3, 9])
@pytest.mark.parametrize("scores", [(0.9, 0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.5, 0.5, 0.1, 0.1)])
def test_the_newest_and_the_best_are_kept(tmp_path: Path, state: State, scores: tuple[float, ...], keep: int):
    """Pruned after every epoch, as training does: the best so far is never among what is lost."""
    for epoch in range(1, len(scores) + 1):
        state.step = epoch
        save_checkpoint(state, folder_for(tmp_path, epoch), history(*scores[:epoch]), {}, "digest")
        prune(tmp_path, history(*scores[:epoch]), keep, 0.0)
        top = max(range(epoch), key=lambda place: (scores[place], place)) + 1
        newest = set(range(max(1, epoch - keep + 1), epoch + 1))
        assert set(stored_epochs(tmp_path)) == newest | {top}
        assert best(tmp_path, 0.0, refuse).epoch == top

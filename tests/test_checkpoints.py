"""distrib.checkpoints: what is stored is what is loaded, and damage is refused."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from states import OPTIMISERS, contents, new, small_cnn, train, with_norms
from torch import nn

from distrib.checkpoints import Checkpoint, load_checkpoint, save_checkpoint, verify
from distrib.errors import CheckpointError, NonFiniteLoss
from distrib.files import file_sha256
from distrib.models import SmallCNN, weights
from distrib.models.weights import load_weights
from distrib.optim import Optimiser
from distrib.state import State

HISTORY = [{"validation_robust_accuracy": 0.1 + 0.2, "train_loss": 1 / 3}]


def stored(state: State, folder: Path) -> Checkpoint:
    return save_checkpoint(state, folder, HISTORY, {"kind": "train"}, "digest")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# There and back


@pytest.mark.parametrize("build", [small_cnn, with_norms])
@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS)
def test_resumed_equals_never_stopped_bit_for_bit(tmp_path: Path, optim: Optimiser, build: Callable[[], nn.Module]):
    state = train(new(optim, build), 3)
    record = stored(state, tmp_path / "epoch-00001")
    at_three = contents(state)
    six = contents(train(state, 3))
    assert six != at_three

    again = new(optim, build, seed=99)
    assert contents(again) != at_three
    found = load_checkpoint(again, tmp_path / "epoch-00001")
    assert contents(again) == at_three
    laid = [
        (one.stride(), p.stride()) for p, slots in again.optimiser.state.items() for one in slots.values() if one.ndim
    ]
    assert all(own == parameter for own, parameter in laid), "fastest where both lie alike"
    assert found == record == verify(tmp_path / "epoch-00001")
    assert (found.step, found.epoch, found.history, found.job, found.job_digest) == (
        3, 1, HISTORY, {"kind": "train"}, "digest",
    )  # fmt: skip
    assert contents(train(again, 3)) == six


def test_what_is_stored_is_a_function_of_the_state(tmp_path: Path):
    state = train(new(OPTIMISERS["adamw, averaged"], with_norms), 2)
    stored(state, tmp_path / "a")
    again = new(OPTIMISERS["adamw, averaged"], with_norms, seed=1)
    load_checkpoint(again, tmp_path / "a")
    stored(again, tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_judged_weights_are_the_average_if_there_is_one(tmp_path: Path):
    for number, optim in enumerate(OPTIMISERS.values()):
        state = train(new(optim), 2)
        record = stored(state, tmp_path / str(number))
        model = small_cnn()
        load_weights(model, record.judged)
        expected = state.judged.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
        assert (state.judged is state.average) == (optim.ema is not None) == (record.judged.name[0] == "a")


# Damage


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x01
    path.write_bytes(content)


def edit(folder: Path, **fields: object) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


TENSORS = ["weights.safetensors", "average.safetensors", "optimiser.safetensors"]
DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{f"{name} missing": (name, lambda f, name=name: (f / name).unlink()) for name in [*TENSORS, "state.json"]},
    **{
        f"{name} cut short": (name, lambda f, name=name: (f / name).write_bytes((f / name).read_bytes()[:-1]))
        for name in [*TENSORS, "state.json"]
    },
    **{f"{name} empty": (name, lambda f, name=name: (f / name).write_bytes(b"")) for name in [*TENSORS, "state.json"]},
    **{
        f"{name} flipped at {place}": (name, lambda f, name=name, place=place: flip(f / name, place))
        for name in TENSORS
        for place in (0, 0.01, 0.5, 1)
    },
    "no JSON": ("state.json", lambda f: (f / "state.json").write_text("{not json")),
    "no UTF-8": ("state.json", lambda f: (f / "state.json").write_bytes(b'{"format": "\xff\xfe"}')),
    "a list": ("state.json", lambda f: (f / "state.json").write_text("[1, 2]")),
    "a number": ("state.json", lambda f: (f / "state.json").write_text("1")),
    "no keys": ("state.json", lambda f: (f / "state.json").write_text('{"format": 1}')),
    "other hashes": ("state.json", lambda f: edit(f, sha256=["a"])),
    "seal missing": ("state.json", lambda f: (f / "state.json.sha256").unlink()),
    "seal empty": ("state.json", lambda f: (f / "state.json.sha256").write_bytes(b"")),
    "seal flipped": ("state.json", lambda f: flip(f / "state.json.sha256", 0.5)),
    "seal no UTF-8": ("state.json", lambda f: (f / "state.json.sha256").write_bytes(b"\xff\xfe")),
    "another step": ("state.json", lambda f: edit(f, step=1000)),
    "no hashes": ("state.json", lambda f: edit(f, sha256={})),
    "a folder in place of a file": (
        "weights.safetensors",
        lambda f: ((f / "weights.safetensors").unlink(), (f / "weights.safetensors").mkdir()),
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint with an average; to be copied."""
    folder = tmp_path_factory.mktemp("state") / "epoch-00001"
    stored(train(new(OPTIMISERS["adamw, averaged"]), 2), folder)
    return folder


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_by_the_files_name(tmp_path: Path, whole: Path, name: str, damage: Callable[[Path], object]):
    folder = shutil.copytree(whole, tmp_path / "epoch-00001")
    verify(folder)
    damage(folder)
    state = new(OPTIMISERS["adamw, averaged"])
    before = contents(state)
    for use in (verify, lambda folder: load_checkpoint(state, folder)):
        with pytest.raises(CheckpointError) as raised:
            use(folder)
        assert str(folder / name) in str(raised.value)
        assert "delete" in str(raised.value)  # the cure
    assert contents(state) == before


def test_no_flipped_bit_of_the_record_goes_unnoticed(tmp_path: Path, whole: Path):
    """A step, an accuracy or an optimiser's number that is off by one digit would change the run in silence."""
    folder = shutil.copytree(whole, tmp_path / "epoch-00001")
    path = folder / "state.json"
    good = path.read_bytes()
    unnoticed = []
    for place in range(0, len(good), 5):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x01]) + good[place + 1 :])
        try:
            verify(folder)
        except CheckpointError as error:
            assert str(folder) in str(error)
        else:
            if json.loads(path.read_bytes()) != json.loads(good):  # what differs in spelling alone may pass
                unnoticed.append(good[max(0, place - 30) : place + 1].decode())
    assert not unnoticed, f"{len(unnoticed)} of {len(good) // 5}, such as the last character of {unnoticed[:3]}"


def test_another_format_is_refused_by_its_number(tmp_path: Path, whole: Path):
    folder = shutil.copytree(whole, tmp_path / "epoch-00001")
    edit(folder, format=99)
    (folder / "state.json.sha256").write_text(file_sha256(folder / "state.json"))  # written so, not damaged
    with pytest.raises(CheckpointError, match=r"format 99.* reads 1"):
        verify(folder)


def test_weights_of_another_model_are_refused_and_nothing_is_loaded(tmp_path: Path):
    folder = tmp_path / "epoch-00001"
    stored(train(new(), 1), folder)
    for build in (
        lambda: SmallCNN(width=0.5).build((1, 8, 8), 10, [0.5], [0.3]),  # the same names, other shapes
        lambda: SmallCNN(width=0.25).build((1, 8, 8), 7, [0.5], [0.3]),
        with_norms,  # other names
    ):
        other = new(build=build)
        before = contents(other)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors: these weights are of another model"):
            load_checkpoint(other, folder)
        assert contents(other) == before


# Interruptions


class Stop(OSError):
    """The disk is full, or the like."""


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("place", ["os.rename", "save_file", "json.dumps", "os.fsync"])
def test_an_interrupted_save_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int
):
    folder = tmp_path / "epoch-00001"
    old = stored(train(new(), 1), folder)
    before = bytes_of(folder)
    module, _, name = place.rpartition(".")
    owner = os if module == "os" else json if module == "json" else weights
    real, calls = getattr(owner, name), []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise Stop("interrupted")
        return real(*args, **kwargs)

    later = train(new(), 2)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        try:
            new_one = stored(later, folder)
        except Stop:
            assert bytes_of(folder) == before and verify(folder) == old
        else:
            assert len(calls) < call and verify(folder) == new_one != old
    assert stored(later, folder).step == 2  # what was left behind is not in the way
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00001"]


def test_an_interrupted_first_save_leaves_nothing_that_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise Stop("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(Stop):
            stored(new(), tmp_path / "epoch-00001")
    assert not list(tmp_path.glob("epoch-*"))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["weight", "running statistic", "average"])
def test_weights_that_are_not_finite_are_not_stored(tmp_path: Path, place: str, wrong: float):
    state = train(new(OPTIMISERS["adamw, averaged"], with_norms), 1)
    assert state.average is not None
    module = state.average if place == "average" else state.model
    tensor = (
        dict(module.named_buffers())["1.running_var"] if place == "running statistic" else next(module.parameters())
    )
    with torch.no_grad():
        tensor.view(-1)[0] = wrong
    with pytest.raises(NonFiniteLoss, match=r"epoch-00001: not written: the weights are no longer finite"):
        stored(state, tmp_path / "epoch-00001")
    assert not list(tmp_path.iterdir())

"""Weights that a training begins with: found wherever they may be, tried at once, kept with the run."""

import io
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from documents import TRAIN, TUNE, job
from torch import nn

from distrib.checkpoints import save_checkpoint
from distrib.commands import start
from distrib.commands.start import begun_with, must_keep_its_promises
from distrib.errors import InputError
from distrib.files import file_sha256
from distrib.models import SmallCNN
from distrib.models.weights import save_weights
from distrib.optim import SGD
from distrib.state import State
from distrib.tracking.folder import read_start, start_file


def small(width: float = 0.25, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return SmallCNN(width=width).build((1, 8, 8), 10, [0.3], [0.4])


def program(module: nn.Module) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about its own internals
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        torch.export.save(torch.export.export(module.eval(), (torch.rand(4, 1, 8, 8),), dynamic_shapes=shapes), file)
    return file.getvalue()


def begin(data: Path, folder: Path, weights: Path | str, **changes: object) -> Path | None:
    """What a training of a small CNN on ``data``, whose run is in ``folder``, begins with."""
    folder.mkdir(exist_ok=True)
    asked = job(**{"model__width": 0.25, "init__weights": str(weights)} | changes)
    run: Any = SimpleNamespace(job=asked, folder=folder, data=data, uri="", display=SimpleNamespace(say=lambda _: None))
    return begun_with(run)


def told(file: Path | None) -> dict[str, torch.Tensor]:
    assert file is not None
    return start.load_file(file)


def in_file(path: Path) -> tuple[Path, str]:
    save_weights(small(), path / "w.safetensors")
    return path / "w.safetensors", file_sha256(path / "w.safetensors")


def in_state_dict(path: Path) -> tuple[Path, str]:
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in small().state_dict().items()}}, path / "w.pt")
    return path / "w.pt", file_sha256(path / "w.pt")


def in_checkpoint(path: Path) -> tuple[Path, str]:
    """One with an average, which is what counts."""
    state = State(small(seed=2), SGD(name="sgd", lr=0.1, epochs=1, batch_size=8, ema=0.9), 1)
    assert state.average is not None
    state.average.load_state_dict(small().state_dict())
    stored = save_checkpoint(state, path / "run" / "robust" / "epoch-00001", [{}], {}, "")
    return stored.folder, stored.weights_sha256


def in_program(path: Path) -> tuple[Path, str]:
    (path / "w.pt2").write_bytes(program(small()))
    return path / "w.pt2", file_sha256(path / "w.pt2")


@pytest.mark.parametrize("stored", [in_file, in_state_dict, in_checkpoint, in_program])
def test_weights_are_found_and_kept_with_the_run(tmp_path: Path, digits: Path, stored):
    path, sha256 = stored(tmp_path)
    folder = tmp_path / "begun"
    kept = {name.removeprefix("module."): tensor for name, tensor in told(begin(digits, folder, path)).items()}
    own = small().state_dict()
    assert kept.keys() == own.keys() and all(torch.equal(kept[name], own[name]) for name in own)
    assert read_start(folder) == {"weights": str(path), "sha256": sha256}


def test_without_init_there_is_nothing(tmp_path: Path):
    run: Any = SimpleNamespace(job=job(), folder=tmp_path)
    assert begun_with(run) is None and not list(tmp_path.iterdir())


def test_a_search_names_its_field_and_keeps_one_file(tmp_path: Path, digits: Path):
    run: Any = SimpleNamespace(
        job=job(TUNE, train__init__weights=str(tmp_path / "no.pt")), folder=tmp_path, data=digits
    )
    with pytest.raises(InputError, match=r"^train\.init\.weights: .*no\.pt: there is no such model"):
        begun_with(run)


def test_a_run_that_is_begun_keeps_what_it_began_with(tmp_path: Path, digits: Path):
    """Whatever becomes of the place that it came from, unless its own copy is gone and that has changed."""
    path, _ = in_file(tmp_path)
    folder = tmp_path / "begun"
    begin(digits, folder, path)
    save_weights(small(seed=5), path)
    newer, own = told(begin(digits, folder, path)), small(seed=5).state_dict()
    assert all(torch.equal(newer[name], own[name]) for name in own), "nothing was done yet"
    (folder / "robust" / "epoch-00001").mkdir(parents=True)
    before = file_sha256(start_file(folder))
    save_weights(small(seed=6), path)
    begin(digits, folder, path)
    assert file_sha256(start_file(folder)) == before
    start_file(folder).unlink()
    with pytest.raises(
        InputError, match=r"init\.weights: .* holds other weights than those that the run .* began with"
    ):
        begin(digits, folder, path)
    save_weights(small(seed=5), path)
    begin(digits, folder, path)
    assert file_sha256(start_file(folder)) == before


class Runs:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple:
        return print, ("code was run",)


def pickled(path: Path) -> Path:
    (path / "w.pt").write_bytes(pickle.dumps(Runs(), protocol=4))  # not torch's own, of which its reader warns
    return path / "w.pt"


def whole_module(path: Path) -> Path:
    torch.save(small(), path / "w.pth")
    return path / "w.pth"


def no_tensors(path: Path) -> Path:
    torch.save({"a": 1}, path / "w.pt")
    return path / "w.pt"


def damaged(path: Path) -> Path:
    (path / "w.safetensors").write_bytes(b"none")
    return path / "w.safetensors"


def wider(path: Path) -> Path:
    save_weights(small(width=0.5), path / "w.safetensors")
    return path / "w.safetensors"


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (pickled, r"w\.pt: holds more than tensors, .*torch\.save\(network\.state_dict"),
        (whole_module, r"w\.pth: holds more than tensors"),
        (no_tensors, r"w\.pt: is no state dict"),
        (damaged, r"w\.safetensors: cannot be read"),
        (wider, r"w\.safetensors does not fit: .* must be .*; set model to the network"),
        (lambda path: path / "none", "there is no such model"),
        (lambda path: "pretrained", "pretrained is for networks of torchvision and timm"),
    ],
    ids=["code", "module", "no tensors", "damaged", "wider", "nowhere", "pretrained"],
)
def test_what_cannot_be_begun_with_is_refused_at_once(
    tmp_path: Path, digits: Path, capfd: pytest.CaptureFixture, stored, words: str
):
    with pytest.raises(InputError, match=f"^init\\.weights: .*{words}"):
        begin(digits, tmp_path / "run", stored(tmp_path))
    assert not list((tmp_path / "run").iterdir()) and "code was run" not in capfd.readouterr().out


FACTORY = """
from torch import nn

def build(image, num_classes, hidden=8):
    channels, height, width = image
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.Linear(hidden, num_classes))

def seven(image, num_classes):
    return build(image, 7)
"""


@pytest.mark.parametrize("base", [TRAIN, TUNE], ids=["train", "tune"])
def test_a_network_of_one_s_own_is_tried_before_anything_starts(digits: Path, base: dict):
    path = "train__model" if base is TUNE else "model"
    space = {"space": {"optim.lr": {"uniform": [0.1, 0.2]}}} if base is TUNE else {}
    for factory in ("mine:build", "mine:seven"):
        model = {"arch": "custom", "factory": factory, "source": FACTORY, "batch_norm": False}
        run: Any = SimpleNamespace(job=job(base, **{path: model}, **space), data=digits)
        if factory == "mine:build":
            must_keep_its_promises(run)
            continue
        with pytest.raises(
            InputError, match=r"model: the network returns \(3, 7\) for 3 images, not \(3, 10\)"
        ) as refused:
            must_keep_its_promises(run)
        assert str(refused.value).startswith("train.model:" if base is TUNE else "model:")

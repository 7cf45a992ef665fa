"""The model of an address: what is not one, or was made for other images, is refused before anything starts."""

import io
import warnings
from pathlib import Path

import pytest
import torch
from documents import job
from torch import nn

from distrib.checkpoints import save_checkpoint
from distrib.commands.models import ModelFinder
from distrib.config.job import Train, dump
from distrib.data.beton import Beton, open_split
from distrib.errors import CheckpointError, InputError
from distrib.evaluation.models import in_folder
from distrib.state import State


@pytest.fixture(scope="module")
def split(digits: Path) -> Beton:
    return open_split(digits, "test", "evaluation")


class Net(nn.Module):
    """Images of any size to so many classes."""

    def __init__(self, classes: int, channels: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, classes, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean(dim=(2, 3))


def program(module: nn.Module, channels: int = 1, dynamic: bool = True) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about its own internals
        shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
        exported = torch.export.export(module, (torch.rand(4, channels, 8, 8),), dynamic_shapes=shapes)
        torch.export.save(exported, file)
    return file.getvalue()


def found(path: Path, split: Beton, trusted: bool = False):
    return ModelFinder(split, "memory", "sqlite:///none.db", trusted, print).at(str(path))


def test_a_program_that_fits_is_taken(tmp_path: Path, split: Beton):
    (tmp_path / "net.pt2").write_bytes(program(Net(10)))
    for path in (tmp_path / "net.pt2", tmp_path):
        module = found(path, split).load(torch.device("cpu"))
        assert module(torch.rand(7, 1, 8, 8)).shape == (7, 10)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: program(Net(7)), r"gives \(2, 7\) for 2 images, not \[2, 10\]"),
        (lambda: program(Net(10, 3), 3), r"does not take float32 images \[B, 1, 8, 8\]"),
        (lambda: program(Net(10), dynamic=False), "export it for any batch size"),
        (lambda: b"no program", "cannot be read"),
    ],
    ids=["other classes", "other channels", "a fixed batch", "damaged"],
)
def test_a_program_that_does_not_fit_is_refused(tmp_path: Path, split: Beton, build, words: str):
    (tmp_path / "net.pt2").write_bytes(build())
    with pytest.raises(InputError, match=words):
        found(tmp_path / "net.pt2", split)


def test_a_pickle_is_loaded_only_if_trusted(tmp_path: Path, split: Beton):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="trust_pickle: true"):
        found(tmp_path / "net.pt", split)
    assert found(tmp_path / "net.pt", split, trusted=True).load(torch.device("cpu"))(torch.rand(3, 1, 8, 8)).shape == (
        3,
        10,
    )
    torch.save({"a": 1}, tmp_path / "dict.pth")
    with pytest.raises(CheckpointError, match=r"is a dict, not a torch module.*load_state_dict.*torch\.export\.save"):
        found(tmp_path / "dict.pth", split, trusted=True)
    (tmp_path / "bad.pt").write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        found(tmp_path / "bad.pt", split, trusted=True)


def test_what_is_no_model_is_named(tmp_path: Path, split: Beton):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no model"):
        found(tmp_path / "empty", split)
    with pytest.raises(CheckpointError, match=r"nowhere: there is no such model; name models:/NAME/VERSION"):
        found(tmp_path / "nowhere", split)


class Particular(nn.Module):
    """Takes images that are not all black and lie in memory as a new tensor does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.any():
            raise ValueError("black images")
        return x.view(x.size(0), -1)[:, :10]


def test_a_model_is_tried_on_the_images_that_it_will_be_judged_on(tmp_path: Path, split: Beton):
    torch.save(Particular(), tmp_path / "net.pt")
    assert found(tmp_path / "net.pt", split, trusted=True)


def test_of_two_models_none_is_chosen_silently(tmp_path: Path):
    (tmp_path / "a").mkdir()
    for name in ("a/first.pt2", "second.pt2"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds 2 models, a/first\.pt2, second\.pt2; name the one"):
        in_folder(tmp_path, False)
    (tmp_path / "second.pt2").rename(tmp_path / "second.pth")
    with pytest.raises(CheckpointError, match=r"holds 2 models"):
        in_folder(tmp_path, True)


def test_mlflow_s_own_place_holds_its_model(tmp_path: Path):
    for folder in ("data", "extra_files"):
        (tmp_path / folder).mkdir()
    (tmp_path / "MLmodel").touch()
    (tmp_path / "data" / "model.pt2").write_bytes(b"the model")
    (tmp_path / "extra_files" / "a.pt2").write_bytes(b"another one")
    assert in_folder(tmp_path, True).content() == b"the model"


def test_code_that_lies_in_a_checkpoint_is_run_only_if_trusted(tmp_path: Path, split: Beton):
    source = (
        "from torch import nn\nprint('code was run')\n"
        "def build(image, num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    asked = job(model={"arch": "custom", "factory": "mine:build", "source": source})
    assert isinstance(asked, Train)
    net = asked.model.build((1, 8, 8), 10, (), ())
    state = State(net, asked.optim, 1)
    stored = save_checkpoint(state, tmp_path / "run" / "robust" / "epoch-00001", [{}], dump(asked), "")
    with pytest.raises(CheckpointError, match=r"built by code that is kept with it .*trust_pickle: true"):
        found(stored.folder, split)
    assert found(stored.folder, split, trusted=True).load(torch.device("cpu"))(torch.rand(3, 1, 8, 8)).shape == (3, 10)

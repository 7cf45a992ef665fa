"""What tests of several parts share: one thread, no addresses, data, picture trees, a linear model, what was quick."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from drive import INHERITED
from torch import Tensor, nn

from distrib.convolution import _FewChannels
from distrib.data.packing import prepare
from distrib.data.source import Digits, Folder
from distrib.data.writer import ffcv_usable
from distrib.evaluation.models import Weights
from distrib.models import SmallCNN
from distrib.models.weights import save_weights

LIMIT = 300
"""Of the digits: 270 to train on and 30 held out; the test part is whole (450)."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums do not depend on the machine's cores, and tests that run side by side do not fight for them."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_addresses() -> Iterator[None]:
    """No test finds an address in the environment, nor leaves one there: MLflow sets its own in the process."""
    before = dict(os.environ)
    for name in INHERITED:
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


def digits_at(store: Path, **fields: object) -> Digits:
    """The digits that tests use, kept in ``store``."""
    return Digits(source="digits", store=str(store), **({"limit": LIMIT} | fields))


@pytest.fixture(scope="session")
def digits_source() -> Callable[..., Digits]:
    """``digits_source(store, ...)``: the source of the fixture ``digits``, kept elsewhere (or otherwise different)."""
    return digits_at


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared digits, packed for the in-memory loader (no ffcv needed); to be read only."""
    return prepare(digits_at(tmp_path_factory.mktemp("memory-store")), "memory", {}, "digest", print)


@pytest.fixture(scope="session")
def digits_beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same digits, packed for FFCV; to be read only."""
    if not ffcv_usable():
        pytest.skip("ffcv cannot be imported here")
    return prepare(digits_at(tmp_path_factory.mktemp("ffcv-store")), "ffcv", {}, "digest", print)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A network for digits that was never trained."""
    torch.manual_seed(0)
    value = SmallCNN(width=0.25)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(value.build((1, 8, 8), 10, [0.3], [0.4]), path)
    return Weights(value.model_dump(mode="json"), (8, 8, 1), 10, path)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's SQLite file as it is made, with nothing in it. To be copied: MLflow takes more than a second for it."""
    from distrib.tracking.database import make

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    make(file)
    return file


@pytest.fixture(scope="session")
def database(empty_database: Path) -> Callable[[Path], str]:
    """``database(folder)``: the address of an empty MLflow database there."""
    return lambda folder: f"sqlite:///{shutil.copy(empty_database, folder)}"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> str:
    """An MLflow database of the module's own."""
    return f"sqlite:///{shutil.copy(empty_database, tmp_path_factory.mktemp('mlflow'))}"


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Path]:
    """``pictures(root, sizes, ...)`` makes ROOT/train|test/CLASS/n.png|jpg with PIL: smooth, each one different."""
    from PIL import Image

    def make(
        root: Path, sizes: list[tuple[int, int]], classes: tuple[str, ...] = ("cat", "dog"), kind: str = "png",
        grey: bool = False, parts: tuple[str, ...] = ("train", "test"),
    ) -> Path:  # fmt: skip
        draw = np.random.default_rng(0)
        for part in parts:
            for name in classes:
                folder = root / part / name
                folder.mkdir(parents=True)
                for number, (width, height) in enumerate(sizes):
                    rows, columns = np.mgrid[0:height, 0:width]
                    slopes = draw.uniform(-1, 1, size=(3, 2)) * 100
                    planes = [128 + a * rows / height + b * columns / width for a, b in slopes]
                    pixels = np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)
                    picture = Image.fromarray(pixels[..., 0] if grey else pixels)
                    picture.save(folder / f"{number:03d}.{kind}")
        return root

    return make


@pytest.fixture(scope="session")
def sorted_by_class(tmp_path_factory: pytest.TempPathFactory, pictures: Callable[..., Path]) -> Path:
    """Packed pictures of five classes, six of each held out; a folder's are sorted by class. To be read only."""
    room = tmp_path_factory.mktemp("sorted")
    root = pictures(room / "images", [(8, 8)] * 12, ("ant", "bee", "cat", "dog", "elk"))
    data = Folder(source="folder", root=str(root), store=str(room), size=8, validation=0.5)
    return prepare(data, "memory", {}, "digest", print)


@pytest.fixture(scope="session")
def linear() -> Callable[..., nn.Module]:
    """``linear(weight [K, D], bias [K])``: the model whose logits are ``weight @ pixels + bias``."""

    def build(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
        return nn.Sequential(nn.Flatten(), layer)

    return build


@pytest.fixture
def quick_gradients(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every gradient that distrib.convolution computes: its number format."""
    calls, plain = [], _FewChannels.backward

    def backward(ctx: object, gradient: Tensor) -> tuple:
        calls.append(str(gradient.dtype))
        return plain(ctx, gradient)

    monkeypatch.setattr(_FewChannels, "backward", staticmethod(backward))
    return calls

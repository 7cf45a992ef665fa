"""Frozen sets: what is in them is found by index; what is not a set, or cheats, is refused."""

import io
import json
import os
import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distrib.data.loader import Batch
from distrib.errors import DataError, RunError
from distrib.evaluation import frozen
from distrib.evaluation.attacks import Evaluation, Stored, Transfer
from distrib.evaluation.shard import AttackInputs, attack_shard
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
    assert torch.equal(frozen.stored_images(folder, torch.tensor([10, 60, 40])), x[[1, 4, 0]])
    assert torch.equal(frozen.stored_images(folder / frozen.SET, torch.tensor([30])), x[[2]])
    with pytest.raises(DataError, match="holds 6 images, but not that of test image 11"):
        frozen.stored_images(folder, torch.tensor([10, 11]))


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
        frozen.stored_images(write(tmp_path, **tensors), torch.arange(2))


def test_a_file_that_is_not_there_or_damaged_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such file"):
        frozen.identity(tmp_path)
    (tmp_path / frozen.SET).write_bytes(b"no tensors")
    with pytest.raises(DataError, match="not a set of images"):
        frozen.identity(tmp_path)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return SmallCNN(width=0.25).build((1, 8, 8), 10, [0.5], [0.3]).eval()


def judged(model: nn.Module, attack: Stored | Transfer, help: AttackInputs) -> tuple[list[int], Tensor]:
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
        help = AttackInputs(source=network, stored=lambda path, index, moved=moved: (x[index] + moved).clamp(0, 1))
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
    own, worst = judged(model, attack, AttackInputs(source=lambda address: model, stored=frozen.stored_images))
    _, elsewhere = judged(model, attack, AttackInputs(source=lambda address: other, stored=frozen.stored_images))
    assert sum(own) < 6 and not torch.equal(worst, elsewhere)


class Marks:
    """What makes a folder where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["model.pt2", "folder"])
def test_the_script_of_a_set_runs_no_code_of_a_model(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    room = Path(frozen.__file__).parent
    shutil.copy(room / "frozen_validate.py", tmp_path / "validate.py")
    if (room / "program.py").exists():
        shutil.copy(room / "program.py", tmp_path)
    x = images()
    columns = {"x": (x * 255).byte(), "index": torch.arange(6), "label": torch.zeros(6, dtype=torch.int64)}
    write(tmp_path, x_adv=(x * 255).byte() / 255, **columns)
    (tmp_path / frozen.SPEC).write_text(json.dumps({"norm": "linf", "epsilon": 0.1}))
    file = io.BytesIO()
    torch.save(Marks(tmp_path / "mark"), file)
    if name == "folder":
        data = tmp_path / name / "data"  # as MLflow lays out a pickled module
        data.mkdir(parents=True)
        flavour = f"flavors: {{pytorch: {{model_data: data, pytorch_version: {torch.__version__}}}}}"
        (tmp_path / name / "MLmodel").write_text(flavour)
        (data / "pickle_module_info.txt").write_text("mlflow.pytorch.pickle_module")
        (data / "model.pth").write_bytes(file.getvalue())
    else:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("archive/archive_version", "0")
            archive.writestr("archive/.data/version", "6")
            archive.writestr("archive/byteorder", "little")
            for member in ("weights/model.pt", "constants/model.pt", "sample_inputs/model.pt"):
                archive.writestr(f"archive/data/{member}", file.getvalue())
            archive.writestr("archive/models/model.json", "{}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["validate.py", str(tmp_path / name)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(tmp_path / "validate.py"), run_name="__main__")
    sys.modules.pop("program", None)
    assert not (tmp_path / "mark").exists(), "code of the model was run"
    assert left.value.code == 1 and "--trust-pickle" in capsys.readouterr().out

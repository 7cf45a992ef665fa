"""distrib.evaluation.frozen_validate: the script of an exported set runs no code of the model that it scores."""

import io
import json
import os
import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distrib.evaluation import frozen


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def write(folder: Path, **tensors: Tensor) -> Path:
    save_file(tensors, folder / frozen.SET)
    return folder


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

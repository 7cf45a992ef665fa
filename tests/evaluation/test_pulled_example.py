"""distrib.evaluation.pulled_example: the script beside a pulled model runs the model, and no code that lies in it."""

import ast
import io
import json
import runpy
import shutil
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from distrib.evaluation import frozen


@pytest.fixture
def pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as ``distrib pull`` lays it out, of a network for images 2x3x4 and the classes a and b."""
    room = Path(frozen.__file__).parent
    shutil.copy(room / "pulled_example.py", tmp_path / "example.py")
    shutil.copy(room / "program.py", tmp_path)
    card = {"image": {"channels": 2, "height": 3, "width": 4}, "classes": ["a", "b"]}
    (tmp_path / "card.json").write_text(json.dumps(card))
    layer = nn.Linear(24, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([0.0, 1.0]))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about its own internals
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        network = nn.Sequential(nn.Flatten(), layer)
        torch.export.save(torch.export.export(network, (torch.rand(4, 2, 3, 4),), dynamic_shapes=shapes), file)
    data = tmp_path / "model" / "data"
    data.mkdir(parents=True)
    (data / "model.pt2").write_bytes(file.getvalue())
    monkeypatch.syspath_prepend(tmp_path)  # as Python does for a script's own folder
    return tmp_path


def run(folder: Path) -> None:
    try:
        runpy.run_path(str(folder / "example.py"), run_name="__main__")
    finally:
        sys.modules.pop("program", None)


def test_it_names_the_class_of_each_image(pulled: Path, capsys: pytest.CaptureFixture):
    run(pulled)
    assert ast.literal_eval(capsys.readouterr().out) == ["b"] * 4


def test_it_refuses_a_model_that_could_run_code(pulled: Path):
    program = pulled / "model" / "data" / "model.pt2"
    module = pulled / "model" / "module.pt"
    torch.save(nn.Linear(2, 2), module)
    with zipfile.ZipFile(program) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(program, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, module.read_bytes() if name.endswith("sample_inputs/model.pt") else part)
    with pytest.raises(ValueError, match="would be unpickled"):
        run(pulled)

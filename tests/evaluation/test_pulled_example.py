"""distrib.evaluation.pulled_example: the script beside a pulled model runs the model, and no code that lies in it."""

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
from safetensors.torch import save_file
from torch import nn

from distrib.evaluation import frozen

WEIGHTS = torch.tensor([[-1.0] * 24, [1.0] * 24])
"""Of the classes a and b: b is predicted where the pixels' mean is more than a half."""
LIGHT = [0.45, 0.52, 0.56, 0.9]
"""Each image's grey, of classes a, b, b and a (a mistake)."""


def lay_out(folder: Path, norm: str, epsilon: float) -> Path:
    """The folder as ``distrib pull`` leaves it, of a network for images 2x3x4 and the classes a and b."""
    room = Path(frozen.__file__).parent
    shutil.copy(room / "pulled_example.py", folder / "example.py")
    shutil.copy(room / "program.py", folder)
    claim = {"norm": norm, "epsilon": epsilon, "robust_accuracy": 0.5, "n": 100}
    card = {"image": {"channels": 2, "height": 3, "width": 4}, "classes": ["a", "b"], "claim": claim}
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "job.json").write_text(json.dumps({"model": {"arch": "small_cnn"}}))
    image = (torch.tensor(LIGHT).view(4, 1, 1, 1) * 255).round().byte().expand(4, 2, 3, 4).contiguous()
    save_file({"image": image, "label": torch.tensor([0, 1, 1, 0])}, folder / "test_images.safetensors")
    layer = nn.Linear(24, 2)
    with torch.no_grad():
        layer.weight.copy_(WEIGHTS)
        layer.bias.copy_(torch.tensor([12.0, -12.0]))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about its own internals
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        network = nn.Sequential(nn.Flatten(), layer)
        torch.export.save(torch.export.export(network, (torch.rand(4, 2, 3, 4),), dynamic_shapes=shapes), file)
    data = folder / "model" / "data"
    data.mkdir(parents=True)
    (data / "model.pt2").write_bytes(file.getvalue())
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)  # as Python does for a script's own folder
    try:
        runpy.run_path(str(folder / "example.py"), run_name="__main__")
    finally:
        for name in ("program", "model"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_shows_what_each_test_image_is_and_how_it_fares_under_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, norm: str
):
    """The images lie 0.05, 0.02 and 0.06 off the boundary: in each pixel, or the root of 24 times that in all."""
    length = 0.04 * (1 if norm == "linf" else 24**0.5)
    run(lay_out(tmp_path, norm, length), monkeypatch)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["is", "predicted"]
    assert head.split()[4::3] == [f"{length / 2:.3g}", f"{length:.3g}", f"{2 * length:.3g}"]
    assert [row.split() for row in rows[:4]] == [
        ["a", "a", "a", "a", "b"],
        ["b", "b", "b", "a", "a"],
        ["b", "b", "b", "b", "a"],
        ["a", "b", "b", "b", "b"],
    ]
    assert "card.md has it, 50.00% of 100 withstood every attack" in rows[5]
    assert len(rows) == 6, "there is no model.py"


def test_a_radius_is_written_as_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    run(lay_out(tmp_path, "linf", 8 / 255), monkeypatch)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[4::3] == ["4/255", "8/255", "16/255"] and rows[5].endswith("every attack at 8/255")
    shutil.rmtree(tmp_path / "model")
    run(lay_out(tmp_path, "linf", 0.2), monkeypatch)  # which is 51/255
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[4::3] == ["0.1", "0.2", "0.4"] and rows[5].endswith("every attack at 0.2")


def test_under_l1_it_only_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    run(lay_out(tmp_path, "l1", 3.0), monkeypatch)
    assert [row.split() for row in capsys.readouterr().out.splitlines()[:3]] == [
        ["is", "predicted"],
        ["a", "a"],
        ["b", "b"],
    ]


def test_it_says_what_the_network_in_torch_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    (lay_out(tmp_path, "linf", 0.1) / "model.py").write_text("import no_such_library")
    run(tmp_path, monkeypatch)
    words = "model.py: No module named 'no_such_library'; the program does without"
    assert capsys.readouterr().out.splitlines()[-1] == words


@pytest.mark.parametrize(
    ("factor", "words"), [(1, "gives the same logits"), (1.01, "gives OTHER logits; do not use it")]
)
def test_it_says_whether_the_network_in_torch_is_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, factor: float, words: str
):
    lay_out(tmp_path, "linf", 0.1)
    text = f"def load():\n    return lambda x: ({factor} * (x.flatten(1).sum(1, keepdim=True) - 12)) * one\n"
    (tmp_path / "model.py").write_text(f"import torch\none = torch.tensor([-1.0, 1.0])\n{text}")
    run(tmp_path, monkeypatch)
    assert capsys.readouterr().out.splitlines()[-1] == f"model.py: load() {words}"


def test_it_calls_no_code_of_the_model_s_author(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    (lay_out(tmp_path, "linf", 0.1) / "model.py").write_text("raise SystemExit('called')")
    (tmp_path / "job.json").write_text(json.dumps({"model": {"arch": "custom", "factory": "mine:build"}}))
    run(tmp_path, monkeypatch)
    assert "look at it before you do" in capsys.readouterr().out.splitlines()[-1]


def test_it_refuses_a_model_that_could_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pulled = lay_out(tmp_path, "linf", 0.1)
    program = pulled / "model" / "data" / "model.pt2"
    module = pulled / "model" / "module.pt"
    torch.save(nn.Linear(2, 2), module)
    with zipfile.ZipFile(program) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(program, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, module.read_bytes() if name.endswith("sample_inputs/model.pt") else part)
    with pytest.raises(ValueError, match="would be unpickled"):
        run(pulled, monkeypatch)

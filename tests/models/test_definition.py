"""The text of model.py: run where distrib cannot be imported, it gives the network that was trained."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distrib.errors import JobError
from distrib.models import CustomNet, Model, PaperCNN, PreActResNet, SmallCNN, TimmNet, TorchvisionNet, WideResNet
from distrib.models.definition import definition
from distrib.models.weights import save_weights

NETS: list[tuple[Model, tuple[int, int, int]]] = [
    (SmallCNN(width=0.3), (1, 9, 11)),
    (PaperCNN(width=0.1), (3, 8, 8)),
    (PreActResNet(depth=12, stem_stride=2, activation="silu", width=0.1), (3, 16, 16)),
    (PreActResNet(depth=18, width=1 / 64), (1, 8, 8)),
    (WideResNet(depth=16, width=1.0, activation="leaky_relu", normalisation="per_image"), (3, 8, 8)),
    (WideResNet(depth=10, width=2.0), (2, 8, 8)),
    (TorchvisionNet(name="resnet18", resize=40), (1, 8, 8)),
    (TorchvisionNet(name="googlenet"), (3, 64, 64)),
    (TimmNet(name="convnext_atto", resize=64, args={"drop_path_rate": 0.5}), (3, 32, 32)),
    (TimmNet(name="vit_tiny_patch16_224", args={"depth": 1}), (3, 64, 48)),
]
WITHOUT = """
import sys
sys.modules["distrib"] = None
import torch
from model import build, load
net = load()
assert not net.training and isinstance(net, torch.nn.Module)
net.train().eval()
torch.save({"logits": net(torch.load("x.pt")).detach(), "new": sorted(build().state_dict())}, "out.pt")
"""


@pytest.mark.parametrize(("model", "image"), NETS, ids=[f"{m.arch} {getattr(m, 'name', '')}" for m, _ in NETS])
def test_it_gives_the_network_where_distrib_is_not(model: Model, image: tuple[int, int, int], tmp_path: Path):
    torch.manual_seed(1)
    mean, std = [0.1 + 0.2 * i for i in range(image[0])], [0.3 - 0.05 * i for i in range(image[0])]
    net = model.build(image, 7, mean, std)
    x = torch.rand(5, *image)
    for _ in range(3):
        net(x)  # BatchNorm has seen some
    save_weights(net, tmp_path / "weights.safetensors")
    (tmp_path / "model.py").write_text(text := definition(model, image, 7, mean, std))
    torch.save(x, tmp_path / "x.pt")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out.pt")
    torch.testing.assert_close(found["logits"], net.eval()(x))
    assert found["new"] == sorted(net.state_dict())
    assert "distrib." not in text and max(map(len, text.splitlines())) <= 130


def test_an_import_is_there_where_it_is_used_alone():
    """Of the plainest network: no Callable, no functional, no other library."""
    tree = ast.parse(definition(SmallCNN(), (1, 8, 8), 10, [0.5], [0.5]))
    named = {name.name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names}
    assert named == {"OrderedDict", "Sequence", "Path", "torch", "load_file", "Tensor", "nn"}


SOURCE = "from torch import nn\n\ndef build(image, num_classes, hidden):\n    return nn.Sequential(nn.Flatten(),"
SOURCE += " nn.Linear(image[0] * image[1] * image[2], hidden), nn.Linear(hidden, num_classes))\n"


def test_one_s_own_network_is_called_and_its_text_not_written(tmp_path: Path):
    """It came with the job, from whoever registered it: the reader looks at it first."""
    model = CustomNet(factory="mine:build", source=SOURCE, args={"hidden": 3})
    net = model.build((1, 4, 4), 5, [0.5], [0.5])
    text = definition(model, (1, 4, 4), 5, [0.5], [0.5])
    assert (
        "nn.Linear" not in text and "needs torch, safetensors and mine (its text is model.source of job.json)" in text
    )
    save_weights(net, tmp_path / "weights.safetensors")
    (tmp_path / "model.py").write_text(text)
    (tmp_path / "mine.py").write_text(SOURCE)
    torch.save(x := torch.rand(2, 1, 4, 4), tmp_path / "x.pt")
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "out.pt")["logits"], net.eval()(x))


def test_what_cannot_be_built_is_told(monkeypatch: pytest.MonkeyPatch):
    model = TimmNet(name="convnext_atto")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(JobError, match="timm cannot be imported"):
        definition(model, (3, 32, 32), 10, [0.5] * 3, [0.5] * 3)


def test_what_a_job_says_is_never_code_in_it():
    """Its record comes with the model, from whoever registered it."""
    hostile = "x=__import__('os').abort(), y"
    text = definition(TimmNet(name="convnext_atto", args={hostile: None}), (3, 32, 32), 10, [0.5] * 3, [0.5] * 3)
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
    assert not {name for name in called if "import" in name or "abort" in name}
    for factory in ("class:build", "mine:def"):
        with pytest.raises(ValueError, match="expected MODULE:FUNCTION"):
            CustomNet(factory=factory)

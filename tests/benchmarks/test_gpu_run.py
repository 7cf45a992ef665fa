"""The run on a GPU, at a toy size on the CPU, on a machine without Ray, FFCV and MLflow; parts of it that fail."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distrib.data.beton import open_split
from distrib.data.loader import MemoryReader

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks import gpu  # noqa: E402
from benchmarks.on_gpu import images, parity  # noqa: E402
from benchmarks.on_gpu.report import Report  # noqa: E402
from benchmarks.on_gpu.setting import Setting  # noqa: E402

ABSENT = ("ray", "mlflow", "ffcv", "optuna", "torchattacks")
"""What a bare machine has not."""


def setting(room: Path) -> Setting:
    return Setting(torch.device("cpu"), True, room, str(ROOT / "jobs" / "cifar10-fast.yaml"), [], 1.0, 8)


def test_everything_runs_at_a_toy_size_on_a_bare_machine(tmp_path: Path):
    code = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
sys.argv = ["gpu", "--out", {str(tmp_path)!r}, "--device", "cpu", "--quick", "--autoattack", "8", "--seconds", "250"]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found["parts"]) == list(gpu.PARTS) and not any("error" in part for part in found["parts"].values())
    rows = {
        block["title"]: block["rows"]
        for part in found["parts"].values()
        for block in part["blocks"]
        if isinstance(block, dict) and "rows" in block
    }
    assert all(row["holds"] for row in rows["Device against CPU"]) and len(rows["Device against CPU"]) > 30
    assert len({row["step"] for row in rows["Steps"]}) == 11
    experiments = [row for row in rows["Steps"] if "experiment" in row["step"]]
    assert {(row["%_of_pixels_unlike_eager"], row["loss_over_eager's"]) for row in experiments} == {(0.0, 1.0)}
    assert [row["n"] for row in rows["All test images"]] == [40, 40] and rows["Square"][-1]["n"] == 8
    assert found["facts"]["PGD_20_%"] == 100 * min(row["robust_accuracy"] for row in rows["All test images"])
    text = (tmp_path / "results.md").read_text()
    assert all(f"## {part}" in text for part in gpu.PARTS) and "Self CPU" in text


def test_a_part_that_fails_or_hangs_says_so_and_costs_no_other(tmp_path: Path):
    def raises(setting: Setting, report: Report) -> None:
        report.fact("seen_before", 7)
        raise ValueError("no such kernel")

    report = partial(Report, tmp_path, began=time.monotonic())
    until = Setting(torch.device("cpu"), False, tmp_path, "", [], 1.0, 8, time.monotonic() + 60)
    first = gpu.started(partial(gpu.carried_out, gpu.Part(raises, 60), until, report("first")))
    assert gpu.ended(first, 60) == "its process ended with status 1"
    assert "is ended" in (gpu.ended(gpu.started(partial(time.sleep, 60)), 0.2) or "")
    assert gpu.ended(gpu.started(lambda: None), 60) is None
    report("second").row("Table", a=1, b=0.25)
    report("second").row("Table", a=2, c=True)
    whole = report("third")
    assert whole.failed == ["first"] and whole.known("seen_before") == 7
    text = (tmp_path / "results.md").read_text()
    assert "ValueError: no such kernel" in text and "- seen before: 7" in text
    assert "| a | b | c |\n| --- | --- | --- |\n| 1 | 0.25 |  |\n| 2 |  | yes |" in text


def test_an_archive_of_pictures_is_packed_as_it_is(tmp_path: Path):
    colour = {"cat": 40, "dog": 200}
    for part, count in (("train", 20), ("test", 3)):
        for label, level in colour.items():
            folder = tmp_path / "pictures" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((6, 5, 3), level + i, np.uint8)).save(folder / f"{i:02}.png")
    archive = tmp_path / "pictures.tar.xz"
    subprocess.run(["tar", "-cJf", archive, "-C", tmp_path / "pictures", "train", "test"], check=True)
    images.unpack(archive, tmp_path / "data", 0.1)
    sizes = {"train": 36, "validation": 4, "test": 6}
    seen = []
    for split, count in sizes.items():
        beton = open_split(tmp_path / "data", split, "evaluation")
        reader = MemoryReader(beton)
        assert beton.card.classes == ("cat", "dog") and beton.card.image == (6, 5, 3)
        assert beton.card.count == count == len(reader.label)
        level = torch.tensor([40, 200])[reader.label]
        shade = reader.image.flatten(1).float()
        assert ((shade.amin(dim=1) >= level) & (shade.amax(dim=1) < level + 20)).all()
        seen += [int(one) for one in shade[:, 0]] if split != "test" else []
    assert sorted(seen) == sorted(level + i for level in colour.values() for i in range(20))
    train = MemoryReader(open_split(tmp_path / "data", "train", "training")).image.double() / 255
    card = open_split(tmp_path / "data", "train", "training").card
    assert card.mean == pytest.approx(train.mean((0, 1, 2)).tolist())
    assert card.std == pytest.approx(train.std((0, 1, 2), correction=0).tolist())
    (tmp_path / "pictures" / "train").rename(tmp_path / "pictures" / "other")
    subprocess.run(["tar", "-cf", tmp_path / "half.tar", "-C", tmp_path / "pictures", "other", "test"], check=True)
    with pytest.raises(ValueError, match="expected pictures at train/CLASS"):
        images.unpack(tmp_path / "half.tar", tmp_path / "none", 0.1)


def test_parity_sees_a_device_that_computes_otherwise(tmp_path: Path):
    class Other(parity.Side):
        def model(self, setting: Setting, norms: bool = True) -> torch.nn.Module:
            model = super().model(setting, norms)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter *= 1 + 1e-3 * torch.randn_like(parameter)
            return model

    here = parity.Side(parity.CPU)
    same = list(parity.objectives(setting(tmp_path), here, here))
    assert len(same) >= 8 and all(found == 0 <= bound for _, found, bound in same)
    other = list(parity.objectives(setting(tmp_path), here, Other(parity.CPU)))
    assert all(found > bound for what, found, bound in other if "gradient" in what)


def test_bad_words_are_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture):
    for words, told in (
        (["--parts", "machine,steeps"], "--parts: there is no 'steeps'; choose from machine, parity"),
        (["--parts", "training"], "--images: is missing; name the archive"),
    ):
        with pytest.raises(SystemExit):
            gpu.main(["--out", str(tmp_path / "out"), *words])
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

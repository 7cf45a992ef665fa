"""Every example runs in a process of its own, as a reader would start it, and says what it should."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def told(name: str, tmp_path: Path, *arguments: str) -> dict[str, float]:
    """The accuracies that an example prints, by their name."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
    return {name: float(share) / 100 for name, share in re.findall(r"accuracy,? ?(.*?):? ([\d.]+)%", done.stdout)}


def test_an_attack_breaks_an_ordinary_model(tmp_path: Path):
    found = told("attack_a_model.py", tmp_path)
    assert found["clean"] > 0.9 > 0.6 > found["PGD-20"]


@pytest.mark.parametrize("name", ["train_without_ray.py", "add_an_objective.py"])
def test_training_in_this_process_makes_a_model_that_withstands_more_than_chance(name: str, tmp_path: Path):
    found = told(name, tmp_path, "3")
    assert found["clean"] >= found["PGD-5"] > 0.15


def test_a_card_is_printed_of_a_plain_module(tmp_path: Path):
    command = [sys.executable, "-W", "error", str(EXAMPLES / "judge_your_model.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pgd-20" in done.stdout and "robust accuracy" in done.stdout and "no flag forbids its use" in done.stdout


def test_the_notebook_runs_from_top_to_bottom_and_its_cells_show_cards():
    """Cell after cell, as a kernel does: what the last line of a cell gives is shown."""
    notebook = json.loads((EXAMPLES / "distrib.ipynb").read_text())
    given, cards = {}, []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, "kept without what it shows"
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "cell", "exec"), given)
            if last is not None:
                shown = eval(compile(ast.Expression(last.value), "cell", "eval"), given)
                cards += [shown] if hasattr(shown, "_repr_html_") else []
    natural, robust = cards
    assert robust.robust_accuracy > natural.robust_accuracy and "pgd-20" in robust._repr_html_()


def test_every_example_is_run_here():
    here = Path(__file__).read_text()
    assert all(path.name in here for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")])

"""Imports go one way: a module imports only modules of a lower rank, and each foreign tool has one door."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import distrib

ROOT = Path(distrib.__file__).parent

RANKS = {
    "errors": 0, "address": 0, "files": 0, "values": 0, "world": 0, "noise": 0, "explain": 0, "processor": 0,
    "precision": 1,
    "threat": 1, "models": 1, "optim": 1, "data.source": 1, "data.split": 1, "data.order": 1, "data.augment": 1,
    "data.staging": 1,
    "data.pictures": 0.5, "data.survey": 1.5, "data.writer": 1.5,
    "attack": 2, "data.beton": 2,
    "objective": 3, "data.loader": 3, "evaluate.suite": 3, "state": 3,
    "evaluate.reference": 4, "evaluate.logits": 3,
    "evaluate.frozen": 2, "evaluate.subject": 4, "evaluate.geometry": 4,
    "evaluate.probes": 5, "evaluate.harder": 7, "checkpoints": 4,
    "plots": 8, "evaluate.witness": 6, "evaluate.suspicion": 7, "evaluate.claim": 8, "evaluate.card": 9,
    "evaluate.frozen_validate": 1, "evaluate.program": 0, "evaluate.pulled_example": 1,
    "job": 5, "jobfile": 6, "step": 6, "trainer": 7, "progress": 7, "report": 7, "doctor": 7, "preparation": 9,
    "search.values": 4, "search.space": 6, "search.books": 9, "search.cost": 8, "search.sampler": 10,
    "search.plots": 9, "search.tables": 11, "cluster.tune": 11, "search.run": 13,
    "clock": 0, "provenance": 0, "runs": 8, "journal": 9,
    "tracking": 8, "paired": 8, "artifacts": 7, "limits": 0, "cards": 9, "promotion": 10, "registry": 11, "compare": 12,
    "database": 1,
    "cluster.board": 8, "cluster.session": 8, "cluster.network": 8, "cluster.train": 9, "cluster.evaluate": 10,
    "cluster.spread": 9, "judgement": 12, "record": 10, "training": 10, "study.run": 13, "run": 14, "export": 13,
    "evaluate.points": 4, "data.stage": 3, "cluster.preflight": 9, "cluster.submit": 9,
    "study.values": 4, "study.sheet": 1, "study.task": 7, "study.landscape": 9,
    "study.curves": 9, "study.transfer": 9, "study.capacity": 9, "plan": 14, "cli": 15, "cluster.resources": 7,
    "cluster.memory": 7, "cluster.local": 6,
}  # fmt: skip

DOORS = {
    "ffcv": {"data.writer", "data.loader"},
    "ray": {
        "cluster.board",
        "cluster.network",
        "cluster.session",
        "cluster.local",
        "cluster.train",
        "cluster.spread",
        "cluster.tune",
        "cluster.preflight",
        "cluster.submit",
    },
    "mlflow": {"database", "tracking", "registry", "cards", "evaluate.frozen_validate"},
    "torchvision": {"data.source", "models.zoo"},
    "pyautoattack": {"evaluate.reference"},
    "jinja2": {"evaluate.card"},
    "scipy": {"evaluate.suspicion", "paired"},
    "sklearn": {"data.source"},
    "matplotlib": {"plots", "search.plots"},
    "optuna": {"search.sampler"},
    "rich": {"progress", "report"},
    "yaml": {"jobfile"},
    "argparse": {"cli", "evaluate.frozen_validate"},
}


def modules() -> list[str]:
    paths = sorted(ROOT.rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__").removesuffix("__init__") for name in names]


def tree(name: str) -> ast.Module:
    path = ROOT / Path(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text())


def imports(node: ast.AST) -> set[str]:
    """Every module that is imported anywhere inside, in full."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom) and part.module:
            names = {f"{part.module}.{alias.name}" for alias in part.names}
            inside = {name for name in names if name.startswith("distrib.") and exists(name.removeprefix("distrib."))}
            found |= inside or {part.module}
    return found


def exists(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


ROOMS = ("data", "evaluate", "cluster", "study", "search")
"""Folders whose modules have ranks of their own; those of models/ share one."""


def rank(name: str) -> int | None:
    """The rank of a module, or of the room that it stands in."""
    return RANKS.get(name, RANKS.get(name.split(".")[0]))


NAMED = [name for name in modules() if name and name not in ROOMS]


@pytest.mark.parametrize("name", NAMED)
def test_a_module_imports_only_lower_ranks(name: str):
    own = rank(name)
    assert own is not None, f"{name} has no rank: give it one in RANKS"
    for imported in imports(tree(name)):
        if imported.startswith("distrib."):
            other = imported.removeprefix("distrib.")
            room = name.split(".")[0] == other.split(".")[0] and name.split(".")[0] not in (
                "data",
                "evaluate",
                "cluster",
            )
            assert room or rank(other) < own, f"{name} (rank {own}) imports {other} (rank {rank(other)})"


def test_every_rank_belongs_to_a_module():
    assert set(RANKS) - set(modules()) == set()


@pytest.mark.parametrize("name", NAMED)
def test_each_foreign_tool_has_one_door(name: str):
    for imported in imports(tree(name)):
        tool = imported.split(".")[0]
        assert name in DOORS.get(tool, {name}), f"{name} imports {tool}, whose doors are {DOORS[tool]}"


def test_only_world_and_data_parallel_training_use_torch_distributed():
    users = {name for name in NAMED if "torch.distributed" in imports(tree(name))}
    assert users == {"world"}


@pytest.mark.parametrize("name", [name for name in NAMED if rank(name) < 8])
def test_the_core_is_imported_without_heavy_tools(name: str):
    eager = [node for node in tree(name).body if isinstance(node, ast.Import | ast.ImportFrom)]
    tools = {imported.split(".")[0] for node in eager for imported in imports(node)}
    assert not tools & {"ray", "mlflow", "ffcv", "torchvision", "sklearn", "matplotlib"}


def test_help_imports_no_heavy_library():
    code = "import sys, distrib.cli.main; print(sorted({'torch', 'ray', 'mlflow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", NAMED)
def test_every_public_name_says_what_it_is(name: str):
    root = tree(name)
    assert ast.get_docstring(root), f"{name} has no docstring"
    classes = [node for node in root.body if isinstance(node, ast.ClassDef)]
    methods = [node for owner in classes if not owner.name.startswith("_") for node in owner.body]
    for node in [*root.body, *methods]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            said = ast.get_docstring(node) or node.name == "forward"  # torch's own contract
            assert said, f"{name}: {node.name} has no docstring"


def test_no_module_is_longer_than_400_lines():
    lengths = {path: len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert not {path: length for path, length in lengths.items() if length > 400}

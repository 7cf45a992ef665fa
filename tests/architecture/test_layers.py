"""The plan of the house: rooms in one order, no circle inside a room, one door for each foreign tool."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import distrib

ROOT = Path(distrib.__file__).parent
TESTS = Path(__file__).parents[1]

ORDER = """
    errors files noise world values processor precision convolution plots  threat attack objective models muon optim
    data state checkpoints step trainer  evaluation config tracking cluster registry commands search studies cli
""".split()  # noqa: SIM905
"""A module imports only from its own room and from rooms that are named before it. docs/architecture.md draws it."""

DOORS = {
    "ffcv": {"data.writer", "data.loader"},
    "ray": {
        "cluster.messages", "cluster.network", "cluster.session", "cluster.local", "cluster.train", "cluster.map",
        "cluster.preflight", "cluster.dashboard", "cluster.submit",
        "search.process", "search.callback", "search.stopping", "search.suggest", "search.tune",
    },
    "mlflow": {
        "tracking.client", "tracking.mlflow_run", "tracking.database", "registry.store", "registry.versions",
        "registry.cards", "registry.push", "evaluation.frozen_validate",
    },
    "torchvision": {"data.named", "models.torchvision"},
    "timm": {"models.timm"},
    "huggingface_hub": {"models.timm", "data.parquet"},
    "pyarrow": {"data.parquet"},
    "pyautoattack": {"evaluation.autoattack"},
    "jinja2": {"evaluation.card", "tracking.page"},
    "scipy": {"data.blend", "evaluation.attack_flags", "evaluation.model_flags", "registry.paired"},
    "sklearn": {"data.named"},
    "matplotlib": {"plots"},
    "optuna": {"search.sampler", "search.page"},
    "plotly": {"search.page", "studies.chart"},
    "rich": {"tracking.display", "cli.text"},
    "yaml": {"config.file"},
    "argparse": {"cli.parser", "evaluation.frozen_validate"},
}  # fmt: skip
"""The modules that may import a foreign tool."""

SCRIPTS = {"evaluation.frozen_validate", "evaluation.pulled_example", "evaluation.program"}
"""Files that are also written beside what is exported or pulled, where there is no distrib: they repeat its names."""

PROVED_ELSEWHERE = {
    "cli.__main__": "tests/cli starts the command in a process of its own",
}
"""Modules without a test file of their own name, and where they are proved."""


def modules() -> list[str]:
    """Every module of the package but the ``__init__`` of the package itself; a room's ``__init__`` by its name."""
    paths = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if name != "__init__"]


def path_of(name: str) -> Path:
    """The file of a module."""
    path = ROOT / Path(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def tree(name: str) -> ast.Module:
    """A module, parsed."""
    return ast.parse(path_of(name).read_text())


def room(name: str) -> str:
    """The room that a module stands in."""
    return name.split(".")[0]


MODULES = modules()


def imports(node: ast.AST) -> set[str]:
    """Every module that is imported anywhere inside, in full."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom) and part.module:
            names = {f"{part.module}.{alias.name}" for alias in part.names}
            inside = {name for name in names if name.removeprefix("distrib.") in MODULES}
            found |= inside or {part.module}
    return found


def own_imports(name: str) -> set[str]:
    """The modules of this package that a module imports, anywhere in it."""
    return {one.removeprefix("distrib.") for one in imports(tree(name)) if one.startswith("distrib.")}


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str):
    assert room(name) in ORDER, f"{room(name)} is no room of the plan: give it a place in ORDER"
    late = [one for one in own_imports(name) if ORDER.index(room(one)) > ORDER.index(room(name))]
    assert not late, f"{name} imports {late}, which come after {room(name)} in ORDER"


def test_there_is_no_circle_inside_a_room():
    arrows = {name: [one for one in own_imports(name) if room(one) == room(name) != one] for name in MODULES}

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        for one in arrows[name]:
            walk(one, (*way, name))

    for name in MODULES:
        walk(name, ())


def test_every_room_of_the_plan_is_there():
    assert {room(name) for name in MODULES} == set(ORDER)


def test_the_top_of_the_package_is_seen_at_a_glance():
    entries = [path.name for path in ROOT.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 30, sorted(entries)


def public(root: ast.Module) -> list[str]:
    """The public names that a module defines at its top."""
    names = []
    for node in root.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def test_a_public_name_is_defined_once():
    names = Counter(name for module in MODULES if module not in SCRIPTS for name in public(tree(module)))
    twice = {name for name, count in names.items() if count > 1}
    assert not twice


def test_every_module_has_a_test_of_its_name():
    names = {".".join(path.relative_to(TESTS).with_suffix("").parts) for path in TESTS.rglob("test_*.py")}
    mirrored = {".".join([*rooms, last.removeprefix("test_")]) for *rooms, last in (name.split(".") for name in names)}
    files = {name for name in MODULES if path_of(name).name != "__init__.py"}
    assert files - mirrored == set(PROVED_ELSEWHERE)


@pytest.mark.parametrize("name", MODULES)
def test_each_foreign_tool_has_one_door(name: str):
    for imported in imports(tree(name)):
        tool = imported.split(".")[0]
        assert name in DOORS.get(tool, {name}), f"{name} imports {tool}, whose doors are {DOORS[tool]}"


def test_every_door_is_used():
    for tool, doors in DOORS.items():
        assert {name for name in doors if tool in {one.split(".")[0] for one in imports(tree(name))}} == doors


def test_only_world_uses_torch_distributed():
    assert {name for name in MODULES if "torch.distributed" in imports(tree(name))} == {"world"}


@pytest.mark.parametrize("name", [name for name in MODULES if ORDER.index(room(name)) < ORDER.index("tracking")])
def test_the_core_is_imported_without_heavy_tools(name: str):
    eager = [node for node in tree(name).body if isinstance(node, ast.Import | ast.ImportFrom)]
    tools = {imported.split(".")[0] for node in eager for imported in imports(node)}
    assert not tools & {"ray", "mlflow", "ffcv", "torchvision", "timm", "pyarrow", "sklearn", "matplotlib"}


def test_help_imports_no_heavy_library():
    code = "import sys, distrib.cli.main; print(sorted({'torch', 'ray', 'mlflow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_says_what_it_is(name: str):
    root = tree(name)
    assert ast.get_docstring(root), f"{name} has no docstring"
    classes = [node for node in root.body if isinstance(node, ast.ClassDef)]
    methods = [node for owner in classes if not owner.name.startswith("_") for node in owner.body]
    for node in [*root.body, *methods]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            said = ast.get_docstring(node) or node.name == "forward"  # torch's own contract
            assert said, f"{name}: {node.name} has no docstring"


def test_only_one_module_knows_the_files_of_a_run_s_folder():
    """tracking/folder.py draws, reads and writes them; what has these names elsewhere is an artifact of MLflow."""
    files, artifacts = {"job.json", "data.json", "result.json", "trials.json", "replaced.json", ".key"}, {
        "commands.opened", "registry.store", "registry.versions", "search.report", "evaluation.pulled_example",
    }  # fmt: skip
    texts = {name: {node.value for node in ast.walk(tree(name)) if isinstance(node, ast.Constant)} for name in MODULES}
    knowing = {name for name in MODULES if texts[name] & files}
    assert knowing - artifacts <= {"tracking.folder", "commands.export", "search.trials"}, "in errors alone"


@pytest.mark.parametrize("name", MODULES)
def test_a_function_takes_at_most_five_parameters(name: str):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef):
            taken = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            taken = taken[1:] if taken[:1] in (["self"], ["cls"]) else taken
            assert len(taken) <= 5, f"{name}.{node.name}: {taken}"


def test_no_module_is_longer_than_400_lines():
    lengths = {path: len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert not {path: length for path, length in lengths.items() if length > 400}

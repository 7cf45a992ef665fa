"""What ``import distrib`` offers: the public names, each there, each said what it is, none of them at any cost."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import distrib

NAMES = {name: module for module, names in distrib.PUBLIC.items() for name in names.split()}


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_its_module_defines_and_says_what_it_is(name: str):
    found = getattr(distrib, name)
    assert inspect.getdoc(found)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__module__.startswith(f"distrib.{NAMES[name]}")


def test_nothing_else_is_public():
    assert dir(distrib) == sorted([*NAMES, "__version__"]) and distrib.__all__ == sorted(NAMES)
    with pytest.raises(AttributeError, match="module 'distrib' has no attribute 'Linfinity'"):
        distrib.Linfinity  # noqa: B018
    names = [name for names in distrib.PUBLIC.values() for name in names.split()]
    assert len(names) == len(set(names))


def test_editors_are_told_the_same_names():
    tree = ast.parse(Path(distrib.__file__).read_text())
    told = {
        alias.name: (node.module or "").removeprefix("distrib.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distrib.")
        for alias in node.names
    }
    assert told == NAMES


def test_the_import_itself_brings_nothing_heavy():
    code = (
        "import sys, distrib; print(sorted({'torch', 'pydantic', 'numpy', 'ray', 'mlflow', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

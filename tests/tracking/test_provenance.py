"""What a result was made with is told in full, also where there is no git."""

import os
import platform
import subprocess
from importlib.metadata import version

import pytest

from distrib.tracking.provenance import code, environment, starter


@pytest.mark.parametrize(("changed", "said"), [("", "False"), (" M distrib/step.py\n", "True")])
def test_the_code_is_told_by_its_commit_and_whether_it_was_changed(
    changed: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    def git(command: list, **options: object) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess(command, 0, {"rev-parse": "c0ffee\n", "status": changed}[command[3]])

    monkeypatch.setattr(subprocess, "run", git)
    assert code() == {"mlflow.source.git.commit": "c0ffee", "distrib.code_changed": said}


@pytest.mark.parametrize("failure", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 5), None])
def test_without_git_the_code_is_not_told(failure: Exception | None, monkeypatch: pytest.MonkeyPatch):
    """Nor where it is no checkout: an installed package, an image."""

    def git(command: list, **options: object) -> subprocess.CompletedProcess:
        if failure is not None:
            raise failure
        return subprocess.CompletedProcess(command, 128, "")

    monkeypatch.setattr(subprocess, "run", git)
    assert code() == {}


def test_the_environment_names_python_and_every_package():
    lines = environment().splitlines()
    assert lines[0] == f"python {platform.python_version()}" and lines[2].endswith(" cores")
    assert f"torch=={version('torch')}" in lines and len(lines) > 50


def test_a_run_says_who_started_it_also_where_the_user_has_no_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOGNAME", "ann")
    assert starter("train") == {
        "mlflow.user": "ann", "mlflow.source.name": "distrib run (train)", "mlflow.source.type": "LOCAL"
    }  # fmt: skip

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1000860000")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert starter("train")["mlflow.user"] == str(os.getuid())

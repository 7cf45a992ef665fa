"""make setup finds a Python that serves, or has one fetched; where neither is possible it says what to do.

The packages themselves are not installed here: what fetches them is played by scripts.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    "awk", "bash", "cat", "cksum", "chmod", "cp", "cut", "dirname", "env", "grep", "id", "ln", "mkdir", "mktemp",
    "readlink", "rm", "sh", "tail", "touch",
)  # fmt: skip
OLD = """#!/bin/sh
case "$*" in
  *pip*) exit 1;;
  *"%d.%d"*) echo 3.10;;
  *) exit 1;;
esac
"""
"""A Python 3.10 without pip."""
UV = """#!/bin/sh
echo "uv $*" >>"$0.log"
case "$*" in
  "python install 3.12") {install};;
  "python find"*) echo {python};;
  "pip install --python .venv/bin/python"*) cat >/dev/null; cp "$0" .venv/bin/uv; echo >"$0.log.inside";;
  *) touch .venv/bin/distrib; chmod +x .venv/bin/distrib;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the files that set-up reads, and a folder of commands that is all of its PATH."""
    whole, bin_ = tmp_path / "checkout", tmp_path / "bin"
    (whole / "tools").mkdir(parents=True)
    bin_.mkdir()
    shutil.copy(ROOT / "tools" / "setup", whole / "tools")
    (whole / "requirements.lock").write_text("torch==1\nuv==0.1 \\\n    --hash=sha256:0\nzipp==1\n")
    (whole / "pyproject.toml").write_text("")
    for name in TOOLS:
        (bin_ / name).symlink_to(shutil.which(name) or name)
    for name in ("g++", "pkg-config"):
        script(bin_ / name, "#!/bin/sh\nexit 0\n")
    return whole


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def setup(checkout: Path, **variables: str) -> subprocess.CompletedProcess:
    kept = {"PATH": str(checkout.parent / "bin"), "HOME": os.environ.get("HOME", "/"), "TMPDIR": str(checkout.parent)}
    return subprocess.run(
        [checkout / "tools" / "setup"], env=kept | variables, capture_output=True, text=True, timeout=60
    )


def test_where_no_python_serves_uv_brings_one(checkout: Path):
    bin_ = checkout.parent / "bin"
    script(bin_ / "python3", OLD)
    script(bin_ / "uv", UV.format(install="echo fetched", python=sys.executable))
    done = setup(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith(
        "setup: Python 3.12, fetched by uv: none from 3.11 to 3.13 is here ..."
    )
    assert "setup: ready after" in done.stdout and done.stderr == ""
    asked = (bin_ / "uv.log").read_text().splitlines()
    assert asked[:2] == ["uv python install 3.12", "uv python find --managed-python 3.12"]
    assert asked[2].startswith("uv pip install --python .venv/bin/python --require-hashes")
    again = setup(checkout)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", ""), "a second call returns at once"
    assert sorted(path.name for path in checkout.parent.iterdir()) == ["bin", "checkout"], "and nothing is left"


def test_a_python_that_cannot_be_fetched_is_said_with_the_cure(checkout: Path):
    bin_ = checkout.parent / "bin"
    script(bin_ / "python3", OLD)
    script(bin_ / "uv", UV.format(install="echo no such host >&2; exit 2", python=sys.executable))
    done = setup(checkout)
    assert done.returncode == 1 and "no such host" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "setup: Python 3.12, fetched by uv: none from 3.11 to 3.13 is here: failed, for the reason printed above; "
        "install a Python from 3.11 to 3.13 (apt-get install python3.12, or pyenv install 3.12), or name it: make "
        "setup PYTHON=/path/to/python3.12"
    )
    assert not (checkout / ".venv").exists()


def test_without_anything_to_begin_with_it_says_so_in_one_line(checkout: Path):
    script(checkout.parent / "bin" / "python3", OLD)
    done = setup(checkout)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(
        "setup: no Python from 3.11 to 3.13 is here, nor uv or a Python with pip by which to fetch one: install a"
    )


def test_a_python_of_path_that_serves_is_taken_also_without_pip(checkout: Path):
    """As one that Debian's python3-pip does not belong to: uv does what its pip would."""
    bin_ = checkout.parent / "bin"
    script(bin_ / "python3", OLD)
    script(bin_ / "python3.13", f'#!/bin/sh\ncase "$*" in *"-m pip"*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    script(bin_ / "uv", UV.format(install="exit 9", python="none"))
    done = setup(checkout)
    assert done.returncode == 0 and "fetched by uv" not in done.stdout, done.stdout + done.stderr
    (bin_ / "uv").unlink()
    shutil.rmtree(checkout / ".venv")
    done = setup(checkout)
    assert done.returncode == 1 and done.stderr == (
        f"setup: {bin_}/python3.13 has no pip, and there is no uv: install one of them (apt-get install python3-pip)\n"
    )


def test_a_python_that_is_named_must_serve(checkout: Path):
    script(checkout.parent / "bin" / "python3", OLD)
    done = setup(checkout, PYTHON=str(checkout.parent / "bin" / "python3"))
    assert done.returncode == 1 and "is no Python from 3.11 to 3.13, on which distrib is tested" in done.stderr

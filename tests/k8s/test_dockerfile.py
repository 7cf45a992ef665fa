"""The Dockerfile: a linter's rules, and the house's."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from manifests import ROOT, locked

from distrib import __version__

TEXT = (ROOT / "Dockerfile").read_text()


def test_the_base_is_the_ray_of_the_lock():
    (base,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", TEXT, re.MULTILINE)
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert base.startswith(f"rayproject/ray:{locked('ray')}-py311") and required.startswith(">=3.11")
    assert f'image.version="{__version__}"' in TEXT


def test_hadolint_finds_nothing():
    words = [str(Path(sys.executable).parent / "hadolint"), "--failure-threshold", "warning", str(ROOT / "Dockerfile")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_house_rules():
    lines = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000"
    assert not any(line.startswith(("ADD ", "ENTRYPOINT", "CMD")) for line in lines)
    assert "requirements.lock" in TEXT and "--require-hashes" in TEXT and ":latest" not in TEXT
    assert not re.search(r"https?://", "\n".join(lines)), "nothing is downloaded by address"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*", "what is sent to the builder is listed, not what is left out"

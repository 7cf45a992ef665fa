"""What a result was made with: the version of the code, the machine, every package."""

import getpass
import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path


def code() -> dict[str, str]:
    """The version of the code, from git where there is one."""
    here = Path(__file__).resolve().parents[1]
    try:
        commit = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
        changed = subprocess.run(
            ["git", "-C", here, "status", "--porcelain", "."], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if commit.returncode != 0:
        return {}
    return {
        "mlflow.source.git.commit": commit.stdout.strip(),
        "distrib.code_changed": str(bool(changed.stdout.strip())),
    }


def starter(kind: str) -> dict[str, str]:
    """Who started it, and by what, under MLflow's own names."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": f"distrib run ({kind})", "mlflow.source.type": "LOCAL"}


def environment() -> str:
    """What this machine and its Python are, and every installed package."""
    packages = sorted({f"{found.name}=={found.version}" for found in distributions()}, key=str.lower)
    return "\n".join([f"python {platform.python_version()}", platform.platform(), f"{os.cpu_count()} cores", *packages])

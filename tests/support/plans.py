"""What a dry run shows, and what it leaves."""

from pathlib import Path

import pytest

from distrib.cli import dry_run
from distrib.config.job import AnyJob
from distrib.errors import InputError


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in ``folder``, with its size and time of change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def plan(one: AnyJob) -> str:
    return "".join(dry_run.plan(one))


def refused(one: AnyJob) -> tuple[str, str]:
    """(what a dry run shows, the error that it ends with)."""
    shown: list[str] = []
    with pytest.raises(InputError) as caught:
        for part in dry_run.plan(one):
            shown.append(part)
    return "".join(shown), str(caught.value)


def note(text: str, name: str) -> str:
    """The rest of the comment that begins with ``name``."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"# {name}: ")]
    return line.removeprefix(f"# {name}: ")

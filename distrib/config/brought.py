"""The job files that distrib brings along: in the wheel beside the package, in a checkout at its top."""

import os
import re
from pathlib import Path

from distrib.errors import JobError

PLACES = (Path(__file__).parents[1] / "jobs", Path(__file__).parents[2] / "jobs")


def brought() -> dict[str, Path]:
    """Every job file by its name, such as ``digits``; none where the package came without them."""
    folder = next((place for place in PLACES if (place / "digits.yaml").is_file()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def located(path: Path) -> Path:
    """``path``, or the job that distrib brings, where ``path`` is its name and no file here."""
    return path if os.path.isfile(path) else brought().get(str(path), path)


def copy_of(name: str, file: Path) -> None:
    """Writes the job called ``name`` to ``file``. Raises :class:`JobError` where there is none, or a file already."""
    known = brought()
    if name not in known:
        raise JobError(f"distrib brings no job {name!r}; it brings {', '.join(known)}")
    try:
        with file.open("x", encoding="utf-8") as copy:
            copy.write(known[name].read_text(encoding="utf-8"))
    except FileExistsError:
        raise JobError(f"{file}: is there already; name another file") from None
    except OSError as error:
        raise JobError(f"{file}: cannot be written ({error.strerror})") from None


def summary_of(path: Path) -> str:
    """What the job file says of itself, up to its first full stop."""
    words = " ".join(line.lstrip("# ") for line in path.read_text().partition("\nkind:")[0].splitlines())
    return re.split(r"(?<!et al)\.\s", words)[0].rstrip(".")

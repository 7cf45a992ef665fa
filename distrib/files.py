"""Files: their hashes, and writing them whole."""

import hashlib
import json
import os
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Writes JSON aside and renames it, so that the file is there whole or not at all."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(value, indent=2))
    os.replace(aside, path)

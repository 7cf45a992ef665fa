"""Files: their hashes, and writing them whole."""

import hashlib
import json
import os
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file aside and renames it, so that it is there whole or not at all."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(content)
    os.replace(aside, path)


def write_json(path: Path, value: object) -> None:
    """Writes JSON, whole or not at all."""
    write_bytes(path, json.dumps(value, indent=2).encode())

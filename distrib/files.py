"""Files: their hashes, writing them whole, and locking them."""

import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """The sha256 of the hashes of some files, in hexadecimal; empty where one is not there."""
    paths = list(paths)
    if not all(path.is_file() for path in paths):
        return ""
    return hashlib.sha256("".join(map(file_sha256, paths)).encode()).hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file aside and renames it, so that it is there whole or not at all, also after a loss of power.

    Raises :class:`OSError` that names the file, and leaves nothing half-written.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror, str(path)) from None  # what a full disk raises names no file


def disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room for a file; safetensors says so in its text alone."""
    found = re.search(r"os error (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    return number in (errno.ENOSPC, errno.EDQUOT)


def sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Writes JSON, whole or not at all."""
    write_bytes(path, json.dumps(value, indent=2).encode())


@contextmanager
def locked(path: Path, seconds: float, remove: bool = False) -> Iterator[None]:
    """``path`` is this process's alone meanwhile; another one's is waited for. ``remove``: it is gone afterwards.

    Raises :class:`BlockingIOError` if that one holds it longer, another :class:`OSError` if it cannot be locked.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        while True:
            lock = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):  # whoever held it may have removed it
                    if os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                        break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(1)
            stack.pop_all().close()
        if remove:
            stack.callback(path.unlink, missing_ok=True)
        yield


def existing(path: Path) -> Path:
    """The nearest of ``path`` and its parents that is there, as far as this user can see."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))


def why_not_writable(folder: Path) -> str:
    """Nothing if a file can be made in ``folder``, or in its nearest parent that is there; else the reason."""
    try:
        with tempfile.NamedTemporaryFile(dir=existing(folder), prefix=".distrib-") as file:
            file.write(b"written")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""

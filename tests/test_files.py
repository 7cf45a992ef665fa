"""Files that are there whole, and locks that are one process's at a time."""

import errno
import fcntl
import threading
import time
from pathlib import Path

import pytest
from documents import TRAIN, changed

from distrib.config.file import parse
from distrib.errors import InputError, JobError
from distrib.files import locked, write_json
from distrib.tracking.folder import run_folder


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}' and len(list(tmp_path.iterdir())) == 1


def test_a_lock_is_one_holder_s_at_a_time_and_leaves_nothing(tmp_path: Path):
    path, inside, seen = tmp_path / "lock", [], []

    def hold(number: int) -> None:
        with locked(path, 30, remove=True):
            inside.append(number)
            seen.append(len(inside))
            time.sleep(0.1)
            inside.remove(number)

    holders = [threading.Thread(target=hold, args=(number,)) for number in range(4)]
    for one in holders:
        one.start()
    for one in holders:
        one.join(timeout=30)
    assert seen == [1, 1, 1, 1] and list(tmp_path.iterdir()) == []
    with locked(path, 0), pytest.raises(BlockingIOError), locked(path, 0):
        pass


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between opening and locking, whoever held it left and took the file along; somebody else may make a new one."""
    path, real, first = tmp_path / "lock", fcntl.flock, [True]

    def flock(file: object, how: int) -> None:
        real(file, how)  # pyright: ignore[reportArgumentType]
        if first:
            first.pop()
            path.unlink()
            path.touch()

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(path, 0), pytest.raises(BlockingIOError), locked(path, 0):
        pass
    assert not first


def test_a_folder_that_cannot_be_locked_is_not_called_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Network file systems may have no locks at all."""
    job = parse(changed(TRAIN, {"storage": str(tmp_path)}), [], "here").resolved()
    with run_folder(job), pytest.raises(JobError, match="being run by another process"), run_folder(job):
        pass

    def none(*values: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        pytest.raises(InputError, match=r"not be locked \(No locks available\); choose another") as caught,
        run_folder(job),
    ):
        pass
    assert not isinstance(caught.value, JobError)

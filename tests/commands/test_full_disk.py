"""What is said, and what is left, where a disk is full: a small file system of the test's own."""

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from distrib.checkpoints import save_checkpoint, verify
from distrib.cli import main
from distrib.errors import RegistryError, RunError
from distrib.files import write_bytes
from distrib.models import SmallCNN
from distrib.optim import SGD
from distrib.state import State
from distrib.tracking import client
from distrib.tracking.mlflow_run import MLflowRun


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("a file system of its own takes the right to mount one")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, leave: int) -> None:
    """Fills the disk but for so many kilobytes."""
    (disk / "filler").write_bytes(b"0" * (shutil.disk_usage(disk).free - leave * 1024))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_finds_no_room_is_named_and_leaves_nothing(disk: Path, capsys: pytest.CaptureFixture, monkeypatch):
    fill(disk, 8)
    write_bytes(disk / "kept", b"before")
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(disk / "kept", b"0" * 100_000)
    assert caught.value.filename == str(disk / "kept")
    assert names(disk) == ["filler", "kept"] and (disk / "kept").read_bytes() == b"before"

    def full(options: object) -> int:
        raise caught.value

    monkeypatch.setattr(main.verbs, "carry_out", full)
    assert main.main(["doctor"]) == 1
    told = capsys.readouterr().err
    assert told == f"distrib: {disk / 'kept'}: No space left on device; the same command goes on when that is mended\n"


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (OSError(28, "No space left on device", "/from", None, "/to"), "/to: "),
        (OSError(28, "No space left on device"), "the disk of storage, data.store or TMPDIR: "),
    ],
)
def test_the_file_that_was_to_be_written_is_named(error: OSError, where: str, monkeypatch, capsys):
    """Of a copy Python names the file that was read first."""

    def full(options: object) -> int:
        raise error

    monkeypatch.setattr(main.verbs, "carry_out", full)
    assert main.main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith(f"distrib: {where}No space left on device")


def test_a_checkpoint_that_finds_no_room_ends_training_at_once(disk: Path):
    """An error of distrib's own is not tried again (see ``OnceIsEnough``)."""
    run = disk / "t" / "robust"
    torch.manual_seed(0)
    state = State(SmallCNN(width=0.25).build((1, 8, 8), 10, [0.3], [0.4]), SGD(name="sgd", lr=0.1, epochs=3), 2)
    first = save_checkpoint(state, run / "epoch-00001", [{}], {}, "digest")
    fill(disk, 16)
    with pytest.raises(
        RunError, match=rf"the disk of {run} is full .*checkpoint of epoch 2 cannot be stored; make room"
    ):
        save_checkpoint(state, run / "epoch-00002", [{}, {}], {}, "digest")
    assert names(run) == ["epoch-00001"] and verify(first.folder) == first


class Kept(logging.Handler):
    """What MLflow logs by itself."""

    def __init__(self):
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_a_database_on_a_full_disk_says_so_in_a_line(disk: Path):
    kept = Kept()
    uri, said = f"sqlite:///{disk / 'mlflow.db'}", []
    tracker = MLflowRun(uri, "tests", "some", None, {})
    logging.getLogger("mlflow").addHandler(kept)  # not before: MLflow takes other handlers away when it is imported
    fill(disk, 8)
    values = {f"name/{number}": "x" * 400 for number in range(90)}
    assert not tracker.attempt(lambda: tracker.parameters(values), said.append)
    logging.getLogger("mlflow").removeHandler(kept)
    assert (
        len(said) == 1 and "does not take the metrics ((sqlite3.OperationalError) database or disk is full)" in said[0]
    )
    assert kept.records == []


def test_a_database_that_cannot_be_made_is_left_half_made_nowhere(disk: Path):
    fill(disk, 64)
    uri = f"sqlite:///{disk / 'mlflow.db'}"
    with pytest.raises(RegistryError, match=r"mlflow.db cannot be used \(.*full\); see whether its disk is full"):
        client.connect(uri)
    assert names(disk) == ["filler"]

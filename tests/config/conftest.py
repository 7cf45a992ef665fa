"""The real command on a bad job."""

from pathlib import Path

import pytest

from distrib.cli import main


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in ``folder``, with its size and time of change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def complain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``complain(*arguments)`` runs the real command on a bad job and returns its complaint.

    Checked here: exit status 2, no traceback (main raises nothing), nothing on stdout, nothing begun, nothing made.
    """
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)

    def begun(*_: object) -> None:
        raise AssertionError("a bad job was begun")

    monkeypatch.setattr("distrib.cli.dispatch.run", begun)

    def command(*arguments: str) -> str:
        before = listing(tmp_path)
        status = main.main(["run", *arguments])
        told = capsys.readouterr()
        assert (status, told.out) == (2, "") and listing(tmp_path) == before
        assert told.err.startswith("distrib: ") and told.err.endswith("\n") and "Traceback" not in told.err
        return told.err.removeprefix("distrib: ").removesuffix("\n")

    return command

"""Where the command is tested: an empty working directory, and a job file beside it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command import PREPARE


def unheard(number: int, frame: object) -> None:
    raise AssertionError("the command did not listen to SIGTERM")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, and handlers of signals as in the foreground.

    They are put back. A shell starts what it runs in the background with SIGINT ignored; this test is no such thing.
    """
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    own = {signal.SIGTERM: unheard, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(PREPARE))
    return str(path)

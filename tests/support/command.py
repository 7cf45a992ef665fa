"""What the tests of the command share: the smallest job and its result, errors to order, the folder it stands in."""

from collections.abc import Callable
from pathlib import Path

PREPARE = {"kind": "prepare", "data": {"source": "digits"}, "loader": "memory"}
RESULT = {"kind": "prepare", "folder": "/f", "splits": {"train": {"count": 3}}}


def raises(error: BaseException) -> Callable[..., None]:
    def begin(*_: object, **__: object) -> None:
        raise error

    return begin


def nothing_made(tmp_path: Path) -> bool:
    return list((tmp_path / "place").iterdir()) == []

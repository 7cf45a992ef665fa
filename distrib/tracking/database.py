"""The SQLite file that MLflow keeps runs in where there is no server."""

import os
from contextlib import ExitStack
from pathlib import Path

from distrib.errors import RegistryError
from distrib.files import locked

MAKING_SECONDS = 300.0
"""For another process to make the database: MLflow takes seconds, and longer on a busy machine."""


def file_of(uri: str) -> Path | None:
    """The file of a SQLite address; None for a server."""
    name = uri.partition("?")[0].removeprefix("sqlite:///")
    return Path(name).absolute() if uri.startswith("sqlite:///") and name else None


def make(file: Path) -> None:
    """Makes the database where there is none: aside, then renamed. Two jobs that start at once do not both make it.

    MLflow's own making is neither whole or not at all, nor one process's at a time. Raises :class:`RegistryError` where
    another process holds it for too long, and what MLflow raises.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if file.exists():
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(file.with_name(f".{file.name}.lock"), MAKING_SECONDS, remove=True))
        except BlockingIOError:
            raise RegistryError(f"tracking.uri: {file} is being made by another process; try again later") from None
        if file.exists():
            return
        aside = file.with_name(f".{file.name}.part")
        try:
            aside.unlink(missing_ok=True)
            store = SqlAlchemyStore(f"sqlite:///{aside}", (file.parent / "mlartifacts").as_uri())
            store.engine.dispose()
            os.replace(aside, file)
        finally:
            for left in (aside, aside.with_name(f"{aside.name}-journal")):
                left.unlink(missing_ok=True)

"""The SQLite file that MLflow keeps runs in."""

from pathlib import Path

import pytest

from distrib.errors import RegistryError
from distrib.files import locked
from distrib.tracking import database
from distrib.tracking.client import connect


def test_one_process_at_a_time_makes_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two that made it at once left one of them refused, and the file broken now and then."""
    file = tmp_path / "mlflow.db"
    (tmp_path / ".mlflow.db.part").write_text("half-made, by one that was killed")
    with monkeypatch.context() as patch, locked(tmp_path / ".mlflow.db.lock", 0):
        patch.setattr(database, "MAKING_SECONDS", 0.0)
        with pytest.raises(RegistryError, match=r"mlflow.db is being made by another process"):
            connect(f"sqlite:///{file}")
        assert not file.exists()
    connect(f"sqlite:///{file}")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]

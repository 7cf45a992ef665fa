"""One short training that every test here looks at."""

from pathlib import Path

import pytest
from drive import call, result_of, train_command


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with its betons, runs and MLflow database."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def finished(workplace: Path) -> dict:
    """The result of the short digits job, trained on two workers without a disturbance."""
    return result_of(call(train_command(), workplace))

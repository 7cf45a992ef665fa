"""One short training, and one evaluation of what it registered, that the tests here look at."""

from pathlib import Path

import pytest
from drive import JOB, call, command, result_of, train_command


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with its betons, runs and MLflow database."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def finished(workplace: Path) -> dict:
    """The result of the short digits job, trained on two workers without a disturbance."""
    return result_of(call(train_command(), workplace))


@pytest.fixture(scope="session")
def judged(finished: dict, workplace: Path) -> dict:
    """The result of an evaluation of the registered model: on one worker, in three shards, by two attacks."""
    overrides = (
        "evaluation.attacks=[{attack: fgsm}, {attack: pgd, num_steps: 20}]", "cluster.num_workers=1",
        "evaluation.seed=0", "evaluation.shard_size=200",
    )  # fmt: skip
    sets = [word for override in overrides for word in ("--set", override)]
    return result_of(call(command("run", JOB.parent / "evaluate-digits.yaml", "--json", *sets), workplace))

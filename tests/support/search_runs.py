"""Searches as a person runs them: a job file, and the table of trials that a search leaves."""

import copy
import csv
from pathlib import Path

import yaml
from documents import TUNE

LOADER = "memory"
"""FFCV compiles for seconds in every worker; test_cluster searches with it."""
SPACE = {
    "objective.threat.epsilon": {"uniform": [0.05, 0.3]},
    "model.width": {"choice": [0.25, 0.5]},
}


def job_file(folder: Path, **fields: object) -> Path:
    """A search over the digits in a file of its own: three trials of three epochs."""
    job = copy.deepcopy(TUNE) | {"space": SPACE, "cluster": {"num_workers": 1}} | fields
    job["train"]["optim"] = {"name": "adam", "lr": 4e-3, "epochs": 3, "batch_size": 64}
    job["train"] |= {"evaluation": {"tier": "quick"}, "loader": LOADER}
    path = folder.parent / f"{job['name']}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def trials(folder: Path, name: str) -> list[dict]:
    with (folder / "runs" / name / "search" / "trials.csv").open() as table:
        return list(csv.DictReader(table))

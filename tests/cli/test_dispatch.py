"""Each kind of job is carried out by the room of its own, with every default written out first."""

from pathlib import Path

import pytest
import yaml

from distrib.cli import dispatch
from distrib.config.file import read
from distrib.config.job import Prepare
from distrib.errors import JobError
from distrib.tracking.display import Display

JOBS = Path(__file__).parents[2] / "jobs"
KINDS = ("prepare", "train", "evaluate", "study", "tune")


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_job_is_handed_to_the_one_that_carries_it_out(path: Path, monkeypatch: pytest.MonkeyPatch):
    job, display = read(path), Display()
    asked = []
    for kind in KINDS:
        monkeypatch.setattr(dispatch, f"run_{kind}", lambda *given, kind=kind: asked.append((kind, *given)) or kind)
    assert dispatch.run(job, display) == job.kind
    whole = job if isinstance(job, Prepare) else job.resolved()
    assert asked == [(job.kind, whole, display)]


def test_a_job_may_be_a_file_or_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dispatch, "run_prepare", lambda job, display: job)
    path = JOBS / "prepare-digits.yaml"
    whole = read(path)
    assert dispatch.run(path) == dispatch.run(str(path)) == dispatch.run(yaml.safe_load(path.read_text())) == whole
    with pytest.raises(JobError, match=r"the job: kind: is missing|the job: kind"):
        dispatch.run({"name": "x"})

"""The jobs that distrib brings along: found by name wherever one is, copied, never over another file."""

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from distrib.config import brought as jobs
from distrib.config.brought import brought, copy_of, located, summary_of
from distrib.config.file import read, yaml_value
from distrib.config.job import JOB
from distrib.errors import JobError

SHIPPED = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))


def test_every_shipped_job_is_brought_and_read_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert sorted(path.stem for path in SHIPPED) == sorted(brought())
    for path in SHIPPED:
        assert read(path.stem, ["seed=3"] if "kind: train" in path.read_text() else []).kind in path.read_text()
        assert 10 < len(summary_of(path)) < 400 and not summary_of(path).startswith("#")


def test_a_file_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert located(Path("digits")) == brought()["digits"]
    assert located(Path("nothing")) == Path("nothing") and located(Path("digits.yaml")) == Path("digits.yaml")
    Path("mnist").mkdir()  # where its images are, perhaps
    assert located(Path("mnist")) == brought()["mnist"]
    Path("digits").write_text("kind: nothing")
    with pytest.raises(JobError, match="digits: kind: 'nothing' is none of"):
        read("digits")


def test_a_copy_is_the_file_and_takes_no_other_s_place(tmp_path: Path):
    copy_of("mnist", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == brought()["mnist"].read_text()
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(JobError, match=r"mine\.yaml: is there already; name another file"):
        copy_of("mnist", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    with pytest.raises(JobError, match="distrib brings no job 'mnits'; it brings cifar10"):
        copy_of("mnits", tmp_path / "other.yaml")
    with pytest.raises(JobError, match="cannot be written"):
        copy_of("mnist", tmp_path / "no" / "other.yaml")


def test_every_shipped_job_is_sound_by_the_schema_that_editors_get():
    """8/255 too, and the steps of a search."""
    validator = Draft202012Validator(JOB.json_schema())
    for path in SHIPPED:
        document = yaml_value(path.read_text(), str(path))
        assert [error.message for error in validator.iter_errors(document)] == [], path.name
    broken = yaml_value(brought()["digits"].read_text(), "") | {"seed": "one"}
    assert list(validator.iter_errors(broken))


def test_a_package_without_its_jobs_brings_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(jobs, "PLACES", (tmp_path,))
    assert brought() == {}

"""A run goes on only with the images that it began with."""

from pathlib import Path

import pytest

from distrib.errors import JobError
from distrib.files import write_json
from distrib.job import Study
from distrib.jobfile import parse
from distrib.preparation import must_be_the_same, prepared, prepared_for
from distrib.progress import Display


def test_a_run_that_began_refuses_other_images(tmp_path: Path, pictures):
    source = pictures(tmp_path / "source", [(12, 12)] * 12)
    data = {"source": "folder", "root": str(source), "store": str(tmp_path / "betons"), "size": 12}
    study = {"of": "curves", "models": [{"label": "a", "model": "b"}], "linf": [0.1]}
    job = parse({"kind": "study", "name": "one", "data": data, "loader": "memory", "study": study}, [], "here")
    assert isinstance(job, Study)
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    first = prepared_for(job, run, Display())
    (source / "train" / "cat" / "000.png").unlink()
    prepared_for(job, run, Display())  # it has not begun: there is no job.json
    write_json(run / "job.json", {"job": {}})
    assert prepared_for(job, run, Display()) == first
    (source / "train" / "cat" / "001.png").unlink()
    for _ in range(2):
        with pytest.raises(JobError, match=r"images \(train.*runs/one began with; put those back, choose another name"):
            prepared_for(job, run, Display())
    with pytest.raises(JobError, match="began with"):
        must_be_the_same(prepared(job, Display()), run)


def test_a_run_that_kept_no_hashes_goes_on(tmp_path: Path, digits: Path):
    write_json(tmp_path / "job.json", {"job": {}})
    must_be_the_same(digits, tmp_path)
    write_json(tmp_path / "data.json", {"train": "0", "validation": "0", "test": "0"})
    with pytest.raises(JobError, match="train, validation, test"):
        must_be_the_same(digits, tmp_path)

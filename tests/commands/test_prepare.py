"""A run goes on only with the images that it began with."""

import errno
import struct
from pathlib import Path

import numpy as np
import pytest

from distrib.commands.prepare import must_be_the_same, must_suffice, prepared, prepared_for
from distrib.config.file import parse
from distrib.config.job import Study, dump
from distrib.data import packing
from distrib.data.beton import open_split
from distrib.data.split import SPLITS
from distrib.errors import JobError
from distrib.files import write_json
from distrib.tracking.display import Display
from distrib.tracking.folder import kept_result


def test_a_run_that_began_refuses_other_images(tmp_path: Path, pictures):
    source = pictures(tmp_path / "source", [(12, 12)] * 12)
    data = {"source": "folder", "root": str(source), "store": str(tmp_path / "betons"), "size": 12}
    study = {"of": "curves", "models": [{"label": "a", "model": "b"}], "linf": [0.1]}
    job = parse({"kind": "study", "name": "one", "data": data, "loader": "memory", "study": study}, [], "here")
    assert isinstance(job, Study)
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    prepared_for(job, run, Display())
    (source / "train" / "cat" / "000.png").unlink()
    second = prepared_for(job, run, Display())  # it has not begun: there is no job.json
    write_json(run / "job.json", {"job": {}})
    assert prepared_for(job, run, Display()) == second
    (source / "train" / "cat" / "001.png").unlink()
    prepared_for(job, run, Display())  # it has done nothing yet: more or other images may be its cure
    (run / "robust" / "epoch-00001").mkdir(parents=True)
    (source / "train" / "cat" / "002.png").unlink()
    for _ in range(2):
        with pytest.raises(JobError, match=r"images \(train.*runs/one began with; put those back, choose another name"):
            prepared_for(job, run, Display())
    with pytest.raises(JobError, match="began with"):
        must_be_the_same(prepared(job, Display()), run)


def test_a_run_that_kept_no_hashes_goes_on(tmp_path: Path, digits: Path):
    write_json(tmp_path / "job.json", {"job": {}})
    (tmp_path / "robust" / "epoch-00001").mkdir(parents=True)
    must_be_the_same(digits, tmp_path)
    write_json(tmp_path / "data.json", {"train": "0", "validation": "0", "test": "0"})
    with pytest.raises(JobError, match="train, validation, test"):
        must_be_the_same(digits, tmp_path)


def mnist(tmp_path: Path, bright: int) -> Study:
    """A study of a set in MNIST's form, of nearly one brightness."""
    raw = tmp_path / str(bright) / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, first in (("train", 0), ("t10k", 100)):
        images = np.full((40, 28, 28), bright, np.uint8)
        images[:, 0, 0] = np.arange(first, first + 40)
        labels = (np.arange(40) % 10).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 40, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 40) + labels.tobytes())
    data = {"source": "mnist", "root": str(tmp_path / str(bright)), "store": str(tmp_path / "betons")}
    study = {"of": "curves", "models": [{"label": "a", "model": "b"}], "linf": [0.1]}
    document = {"kind": "study", "name": "one", "data": data | {"validation": 0.25}, "study": study}
    job = parse(document | {"loader": "memory", "storage": str(tmp_path)}, [], "here")
    assert isinstance(job, Study)
    return job


def test_a_complete_run_is_not_that_of_another_set_of_the_same_name(tmp_path: Path):
    """As Fashion-MNIST in another data.root is one called mnist."""
    first, other = mnist(tmp_path, 50), mnist(tmp_path, 200)
    run = tmp_path / "one"
    run.mkdir()
    prepared_for(first, run, Display())
    write_json(run / "job.json", {"job": dump(first)})
    write_json(run / "result.json", {})
    with pytest.raises(JobError, match="began with"):
        prepared_for(other, run, Display())
    write_json(run / "result.json", {"done": True})
    assert kept_result(first, run, Display()) == {"done": True}
    assert kept_result(
        first.model_copy(update={"data": other.data.model_copy(update={"root": "away"})}), run, Display()
    )
    with pytest.raises(JobError, match=r"data\.root: .*200 holds other images than those .* choose another name"):
        kept_result(other, run, Display())


def test_a_complete_run_on_a_read_only_store_of_older_code_keeps_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its card's fingerprint is of another formula, and cannot be mended."""
    job, run = mnist(tmp_path, 50), tmp_path / "one"
    run.mkdir()
    folder = prepared(job, Display())
    for split in SPLITS:
        card = open_split(folder, split, "evaluation").card.model_copy(update={"fingerprint": "of another formula"})
        (folder / f"{split}.json").write_text(card.model_dump_json())

    def refuse(*words: object, **fields: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(packing, "locked", refuse)
    assert prepared_for(job, run, Display()) == folder
    write_json(run / "result.json", {"done": True})
    assert kept_result(job, run, Display()) == {"done": True}


def test_more_examples_than_there_are_images_are_refused_before_anything_is_fetched(digits: Path):
    threat, models = {"norm": "linf", "epsilon": 0.1}, [{"label": "m", "model": "-"}]
    study = {"of": "landscape", "models": models, "threat": threat, "examples": 10_000}
    job = parse({"kind": "study", "name": "one", "data": {"source": "digits"}, "study": study}, [], "here")
    assert isinstance(job, Study)
    with pytest.raises(JobError, match=r"study.examples: 10000 images, but the test split has 450"):
        must_suffice(job, digits)

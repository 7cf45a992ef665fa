"""Frozen adversarial test sets out of a finished run, for other teams."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from distrib.cluster.evaluate import kept_files, kept_shard
from distrib.commands.prepare import must_be_the_same, prepared
from distrib.config.file import parse
from distrib.config.job import Evaluate, Train
from distrib.data.beton import open_split
from distrib.data.loader import open_reader
from distrib.errors import InputError
from distrib.evaluation import frozen
from distrib.tracking.display import Display
from distrib.tracking.folder import read_record, read_result


def finished(run: Path, folder: Path) -> tuple[Train | Evaluate, dict, dict]:
    """(job, record, result) of the finished run in ``run``, for a new ``folder``. Raises :class:`InputError`."""
    record, result = read_record(run), read_result(run)
    if record is None or result is None or "evaluation_key" not in result:
        raise InputError(f"{run}: not the folder of a finished train or evaluate run (it needs job.json, result.json)")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; name a new or empty folder")
    job = parse(record["job"], [], str(run / "job.json"))
    assert isinstance(job, Train | Evaluate)
    return job, record, result


def export(run: Path, folder: Path, display: Display) -> dict:
    """Writes the worst images of the finished run in ``run`` to the new or empty ``folder``; what they are.

    Raises :class:`InputError` where the run is not finished, its images are gone, or the test images are others by now.
    """
    job, record, result = finished(run, folder)
    shards = sorted(kept_files(run / "evaluation", result["evaluation_key"]))
    results = [found for file in shards if (found := kept_shard(file)) is not None]
    if sum(len(one.position) for one in results) != result["n_clean"]:
        raise InputError(
            f"{run / 'evaluation'}: not every shard of the evaluation is there and whole; delete {run / 'result.json'} "
            "and run the job again: it judges anew what is missing"
        )
    x_adv = torch.cat([load_file(file.with_suffix(".safetensors"))["x_adv"] for file in shards])
    index = np.array([i for one in results for i in one.index], dtype=np.int64)
    data = prepared(job, display)
    must_be_the_same(data, run)
    test = open_split(data, "test", "evaluation")
    (raw,) = open_reader(test, job.loader).read(index, len(index))
    tensors = {
        "x": raw.image.permute(0, 3, 1, 2).contiguous(),
        "index": torch.from_numpy(index),
        "label": torch.tensor([label for one in results for label in one.label]),
        "clean": torch.tensor([hit for one in results for hit in one.clean], dtype=torch.uint8),
        "broken": torch.tensor([fell for one in results for fell in one.broken], dtype=torch.uint8),
    }
    spec = {
        "format": "distrib/frozen-set/2",
        "model": result["model"],
        "norm": result["norm"],
        "epsilon": result["epsilon"],
        "seed": result["seed"],
        "attacks": record["job"]["evaluation"]["attacks"],
        "found_by": [name for one in results for name in one.worst],
        "data": record["job"]["data"]["source"],
        "data_sha256": test.card.content_sha256,
        "classes": list(test.card.classes),
        "n": len(index),
        "clean_accuracy": float(tensors["clean"].float().mean()),
        "adversarial_accuracy": 1 - float(tensors["broken"].float().mean()),
        "robust_accuracy": result["robust_accuracy"],
        "robust_accuracy_n": result["n"],
        "job_digest": result["job_digest"],
    }
    room = files("distrib.evaluation")
    texts = {
        "README.md": room.joinpath("frozen_readme.md").read_text().format(**spec),
        "validate.py": room.joinpath("frozen_validate.py").read_text(),
        "program.py": room.joinpath("program.py").read_text(),
    }
    frozen.write_set(folder, x_adv, tensors, spec, texts)
    return spec

"""A set of adversarial images out of a run's folder: what is in it, and when it is refused. Ray is left out."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from documents import EVALUATE, changed
from safetensors.torch import load_file

from distrib.cli import verbs
from distrib.cli.parser import parser
from distrib.cluster import evaluate as rounds
from distrib.cluster.evaluate import EvaluationTask
from distrib.commands.export import export
from distrib.commands.prepare import prepared
from distrib.config.file import parse
from distrib.config.job import Cluster, Evaluate, dump
from distrib.errors import InputError
from distrib.evaluation.models import Weights
from distrib.evaluation.result import Result, conclude
from distrib.files import write_json
from distrib.tracking.display import Display


@pytest.fixture
def finished(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Result]:
    """The folder of an evaluation of 40 images in two shards, five of which are attacked; and its result."""

    def map_tasks(function: Callable, shared: object, items: Iterator[tuple], *others: object) -> Iterator[tuple]:
        for item in items:
            yield item, function(shared, *item)

    monkeypatch.setattr(rounds, "map_tasks", map_tasks)
    changes = {
        "data.store": str(tmp_path / "store"), "loader": "memory", "evaluation.n": 40, "evaluation.shard_size": 20,
        "evaluation.attacks": [{"attack": "fgsm", "n": 5}],
    }  # fmt: skip
    job = parse(changed(EVALUATE, changes), [], "here")
    assert isinstance(job, Evaluate)
    run = tmp_path / "run"
    task = EvaluationTask(weights, prepared(job, Display()), "memory", job.plan, 1, False)
    found = conclude(rounds.in_rounds(task, run / "evaluation", "key", Cluster(), lambda *told: None).evidence)
    write_json(run / "job.json", {"job": dump(job.resolved())})
    named = {"model": job.model, "evaluation_key": "key", "job_digest": "digest"}
    write_json(run / "result.json", found.model_dump(mode="json") | named)
    return run, found


def test_where_some_images_met_no_attack_nothing_is_claimed_of_them(finished: tuple[Path, Result], tmp_path: Path):
    """A misclassified image counts as broken in the set, and the second look at it is no disagreement."""
    run, result = finished
    assert result.n == 5 and result.n_clean == 40 and result.clean_accuracy < 1
    assert "stored_examples_disagree" not in [flag.name for flag in result.flags]
    spec = export(run, tmp_path / "set", Display())
    assert json.loads((tmp_path / "set" / "attack.json").read_text()) == spec
    assert (spec["n"], spec["robust_accuracy"], spec["robust_accuracy_n"]) == (40, result.robust_accuracy, 5)
    tensors = load_file(tmp_path / "set" / "adversarial.safetensors")
    assert tensors["clean"][5:].min() == 0, "some that nobody attacked are misclassified"
    assert (tensors["broken"] >= 1 - tensors["clean"]).all()
    assert spec["adversarial_accuracy"] == pytest.approx(1 - tensors["broken"].float().mean())
    assert (tensors["x_adv"] - tensors["x"].float() / 255)[5:].abs().max() < 1e-6, "and are as they were"


def test_the_command_names_every_file_that_it_wrote(
    finished: tuple[Path, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, folder = finished[0], tmp_path / "set"
    assert verbs.carry_out(parser().parse_args(["export", str(run), str(folder)])) == 0
    names = ["README.md", "adversarial.safetensors", "attack.json", "program.py", "validate.py"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert capsys.readouterr().out == f"40 images in {folder}: {', '.join(names)}\n"


@pytest.mark.parametrize("gone", ["*.safetensors", "*.json"])
def test_a_run_whose_shards_are_not_whole_is_refused_with_the_cure(
    finished: tuple[Path, Result], tmp_path: Path, gone: str
):
    run, _ = finished
    next((run / "evaluation").glob(gone)).unlink()
    with pytest.raises(InputError, match=r"not every shard .*delete .*result\.json and run the job again"):
        export(run, tmp_path / "set", Display())
    assert not (tmp_path / "set").exists()


def test_what_is_no_finished_run_or_no_new_folder_is_refused(finished: tuple[Path, Result], tmp_path: Path):
    run, _ = finished
    with pytest.raises(InputError, match="is there already; name a new or empty folder"):
        export(run, run, Display())
    (run / "result.json").unlink()
    for folder in (run, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="not the folder of a finished train or evaluate run"):
            export(folder, tmp_path / "set", Display())
    assert not (tmp_path / "set").exists()

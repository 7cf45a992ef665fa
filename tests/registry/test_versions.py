"""Versions are found, listed, pinned, and pulled whole or not at all."""

import ast
import io
import json
import runpy
import sys
import zipfile
from pathlib import Path

import mlflow
import pytest
import torch
from cards import claim, register
from mlflow.utils.file_utils import local_file_uri_to_path

from distrib.cli.dry_run import plan
from distrib.config.job import Evaluate
from distrib.errors import InputError, JobError, RegistryError
from distrib.evaluation.models import Weights
from distrib.files import file_sha256, write_json
from distrib.registry import versions
from distrib.tracking import client
from distrib.tracking.tracker import open_tracker


def aliases(uri: str, name: str) -> dict[str, str]:
    return {alias: str(number) for alias, number in client.connect(uri).get_registered_model(name).aliases.items()}


def test_no_model_is_left_out_of_a_long_list(tmp_path: Path):
    """MLflow gives a hundred registered models at a time."""
    own = f"sqlite:///{tmp_path / 'long.db'}"
    names = [f"model-{number:03d}" for number in range(101)]
    for name in names:
        client.connect(own).create_registered_model(name)
        client.connect(own).create_model_version(name, source="file:///nowhere")
    assert [row["model"] for row in versions.list_versions(own)] == [f"models:/{name}/1" for name in names]


def test_an_alias_is_pinned_when_a_job_begins(weights: Weights, uri: str):
    """What it names while the job runs, or when it is run again, is another matter."""
    register(weights, uri, claim(0.5), name="race")
    job = Evaluate.model_validate(
        {"kind": "evaluate", "name": "x", "model": "models:/race@champion", "data": {"source": "digits"},
         "evaluation": {"threat": {"norm": "linf", "epsilon": 0.1}, "attacks": [
             {"attack": "fgsm"}, {"attack": "transfer", "source": "models:/race@latest-robust"}]}}, strict=False,
    )  # fmt: skip
    told: list[str] = []
    before, _ = versions.pinned(job, uri, told.append)
    register(weights, uri, claim(0.6), name="race")
    after, pins = versions.pinned(job, uri, told.append)
    assert (before.model, after.model) == ("models:/race/1", "models:/race/2")
    assert [one.evaluation.attacks[1].source for one in (before, after)] == ["models:/race/1", "models:/race/2"]
    assert pins == {"models:/race@champion": "models:/race/2", "models:/race@latest-robust": "models:/race/2"}
    assert told[0] == "models:/race@champion: models:/race/1"
    assert versions.pinned(before, uri, told.append) == (before, {})


def test_an_evaluation_that_was_interrupted_goes_on_with_the_model_that_it_began_with(
    weights: Weights, uri: str, tmp_path: Path
):
    register(weights, uri, claim(0.5), name="began")
    folder = tmp_path / "x"
    job = Evaluate.model_validate(
        {"kind": "evaluate", "name": "x", "storage": str(tmp_path), "model": "models:/began@champion",
         "tracking": {"uri": uri}, "data": {"source": "digits"},
         "evaluation": {"threat": {"norm": "linf", "epsilon": 0.1}}}, strict=False,
    ).resolved()  # fmt: skip
    folder.mkdir()
    first, pins = versions.pinned(job, uri, print)
    open_tracker(first, folder, pins=pins).close("KILLED")
    register(weights, uri, claim(0.6), name="began")
    assert aliases(uri, "began")["champion"] == "2"
    told: list[str] = []
    assert versions.pinned(job, uri, told.append) == (first, pins) and "would start anew" in plan(job)
    assert told == ["models:/began@champion: models:/began/1"]
    for asked, version in (("models:/began/2", "2"), ("models:/began@latest-robust", "2"), ("models:/began/1", "1")):
        other = job.model_copy(update={"model": asked})
        assert versions.pinned(other, uri, print)[0].model == f"models:/began/{version}"
    other = job.model_copy(update={"model": "models:/began/2"})
    assert "would start anew" in plan(other), "nothing is judged yet"
    assert versions.pinned(job.model_copy(update={"attach": False}), uri, print)[0].model == "models:/began/2"
    (folder / "evaluation").mkdir()
    write_json(folder / "evaluation" / "0123-0000000.json", {})
    with pytest.raises(JobError, match="is the run of another job"):
        plan(job.model_copy(update={"model": "models:/began/2"}))
    write_json(folder / "result.json", {})  # complete: its result is not that of the champion of now
    assert versions.pinned(job, uri, print)[0].model == "models:/began/2"
    assert "is complete; nothing would be done (of models:/began/1; refused, if models:/began@champion has" in plan(job)


def test_pull_is_whole_or_not_at_all(weights: Weights, uri: str, tmp_path: Path, capsys, monkeypatch):
    registered = register(weights, uri, claim(0.5), name="pulled", same=True)
    card = versions.pull("models:/pulled@champion", tmp_path / "here", uri)
    assert card == json.loads((tmp_path / "here" / "card.json").read_text())
    assert file_sha256(tmp_path / "here" / "weights.safetensors") == file_sha256(weights.path)
    with pytest.raises(InputError, match="is there already"):
        versions.pull(registered.uri, tmp_path / "here", uri)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    monkeypatch.syspath_prepend(tmp_path / "here")  # as Python does for a script's own folder
    runpy.run_path(str(tmp_path / "here" / "example.py"), run_name="__main__")
    assert sys.modules.pop("program").__file__ == str(tmp_path / "here" / "program.py")
    assert len(ast.literal_eval(capsys.readouterr().out)) == 4


def test_a_version_that_would_run_code_is_not_pulled(weights: Weights, uri: str, tmp_path: Path):
    """Whoever may write artifacts could have changed it: the program, and the script that the pull recommends."""
    register(weights, uri, claim(0.5), name="changed")
    model = Path(local_file_uri_to_path(mlflow.artifacts.download_artifacts("models:/changed/1", tracking_uri=uri)))
    for name in ("torch.py", "example.py"):
        (model / "extra_files" / name).write_text("raise SystemExit('code from the registry')")
    versions.pull("models:/changed/1", tmp_path / "first", uri)
    assert not (tmp_path / "first" / "torch.py").exists()
    assert "code from the registry" not in (tmp_path / "first" / "example.py").read_text()
    program = model / "data" / "model.pt2"
    with zipfile.ZipFile(program) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    file = io.BytesIO()
    torch.save(weights.load(torch.device("cpu")), file)  # a pickle of a class
    with zipfile.ZipFile(program, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, file.getvalue() if name.endswith("sample_inputs/model.pt") else part)
    with pytest.raises(RegistryError, match=r"data/model\.pt2 is not what was stored"):
        versions.pull("models:/changed/1", tmp_path / "second", uri)
    client.connect(uri).delete_model_version_tag("changed", "1", "files_sha256")  # as of an earlier distrib
    with pytest.raises(
        RegistryError, match=r"^models:/changed/1: model/data/model\.pt2: data/sample_inputs/model\.pt: "
    ):
        versions.pull("models:/changed/1", tmp_path / "second", uri)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("models:/told/99", "registered there"),
        ("models:/nobody@champion", "registered there"),
        ("models:/told@winner", "registered there"),
        ("told", "models:/NAME/VERSION"),
        ("models:/told/12345678901234567890123", "a number of at most 9 digits"),
        ("models:/told/latest", "models:/NAME/VERSION"),
        ("runs:/abc/model", "models:/NAME/VERSION"),
    ],
)
def test_a_wrong_address_is_explained(address: str, words: str, weights: Weights, uri: str, tmp_path: Path):
    register(weights, uri, claim(0.5), name="told")
    with pytest.raises(RegistryError, match=words):
        versions.pull(address, tmp_path / "here", uri)
    assert list(tmp_path.iterdir()) == []

"""Versions are found, listed, pinned, and pulled whole or not at all."""

import io
import json
import runpy
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import torch
from cards import FLAGGED, attach, claim, judged, register
from mlflow import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from distrib.cli.dry_run import plan
from distrib.config.job import Evaluate
from distrib.errors import InputError, JobError, RegistryError
from distrib.evaluation.models import Weights
from distrib.files import file_sha256, write_json
from distrib.registry import champion, listing, store, versions
from distrib.tracking.client import connect
from distrib.tracking.tracker import open_tracker


def moved(uri: str, name: str) -> None:
    """A new version of ``name``, at which both aliases point; without files and card."""
    registry = connect(uri)
    if not registry.search_registered_models(f"name = '{name}'"):
        registry.create_registered_model(name)
    number = registry.create_model_version(name, "file:///nowhere").version
    for alias in (store.LATEST, champion.CHAMPION):
        registry.set_registered_model_alias(name, alias, number)


def test_a_version_says_what_it_is(uri: str):
    judged(uri, "says", claim(0.5), "a")
    found = connect(uri).get_model_version("says", "1")
    assert found.tags["robust_accuracy"] == "0.5000" and found.tags["accuracy.autoattack"] == "0.5000 (n=100)"
    assert found.tags["norm"] == "linf" and found.tags["epsilon"] == "0.1" and found.tags["n"] == "100"
    assert "| autoattack (on what still stood) | 50.00% | 100 |" in found.description
    assert "40.38 to 59.62" in found.description and "None." in found.description
    (row,) = [row for row in listing.list_versions(uri) if row["model"] == "models:/says/1"]
    assert row["robust_accuracy"] == 0.5 and row["attacks"] == ["autoattack", "fgsm", "pgd-20"]


def test_looking_for_a_model_makes_no_database(tmp_path: Path):
    own = f"sqlite:///{tmp_path}/mlflow.db"
    for address in ("models:/none/1", "models:/none@champion"):
        with pytest.raises(RegistryError, match=f"{address}: not in {own}; nothing is registered there"):
            listing.find(address, own)
    assert not list(tmp_path.iterdir())


def test_no_model_is_left_out_of_a_long_list(
    tmp_path: Path, database: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
):
    """MLflow gives so many registered models at a time: a hundred, and here two."""
    own, search = database(tmp_path), MlflowClient.search_registered_models
    monkeypatch.setattr(
        MlflowClient, "search_registered_models", lambda self, **page: search(self, **{"max_results": 2} | page)
    )
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        connect(own).create_registered_model(name)
        connect(own).create_model_version(name, source="file:///nowhere")
    assert [row["model"] for row in listing.list_versions(own)] == [f"models:/{name}/1" for name in names]


def test_an_alias_is_pinned_when_a_job_begins(uri: str):
    """What it names while the job runs, or when it is run again, is another matter."""
    moved(uri, "race")
    job = Evaluate.model_validate(
        {"kind": "evaluate", "name": "x", "model": "models:/race@champion", "data": {"source": "digits"},
         "evaluation": {"threat": {"norm": "linf", "epsilon": 0.1}, "attacks": [
             {"attack": "fgsm"}, {"attack": "transfer", "source": "models:/race@latest-robust"}]}}, strict=False,
    )  # fmt: skip
    told: list[str] = []
    before, _ = versions.pinned(job, uri, told.append)
    moved(uri, "race")
    after, pins = versions.pinned(job, uri, told.append)
    assert (before.model, after.model) == ("models:/race/1", "models:/race/2")
    assert [one.evaluation.attacks[1].source for one in (before, after)] == ["models:/race/1", "models:/race/2"]
    assert pins == {"models:/race@champion": "models:/race/2", "models:/race@latest-robust": "models:/race/2"}
    assert told[0] == "models:/race@champion: models:/race/1"
    assert versions.pinned(before, uri, told.append) == (before, {})


def test_an_evaluation_that_was_interrupted_goes_on_with_the_model_that_it_began_with(uri: str, tmp_path: Path):
    moved(uri, "began")
    folder = tmp_path / "x"
    job = Evaluate.model_validate(
        {"kind": "evaluate", "name": "x", "storage": str(tmp_path), "model": "models:/began@champion",
         "tracking": {"uri": uri}, "data": {"source": "digits"},
         "evaluation": {"threat": {"norm": "linf", "epsilon": 0.1}}}, strict=False,
    ).resolved()  # fmt: skip
    folder.mkdir()
    first, pins = versions.pinned(job, uri, print)
    open_tracker(first, folder, pins=pins).close("KILLED")
    moved(uri, "began")
    told: list[str] = []
    assert versions.pinned(job, uri, told.append) == (first, pins)
    assert {"# model: models:/began@champion is version 1", f"# run: {folder} would start anew"} <= {
        *"".join(plan(job)).splitlines()
    }
    assert told == ["models:/began@champion: models:/began/1"]
    for asked, version in (("models:/began/2", "2"), ("models:/began@latest-robust", "2"), ("models:/began/1", "1")):
        other = job.model_copy(update={"model": asked})
        assert versions.pinned(other, uri, print)[0].model == f"models:/began/{version}"
    other = job.model_copy(update={"model": "models:/began/2"})
    assert "would start anew" in "".join(plan(other)), "nothing is judged yet"
    assert versions.pinned(job.model_copy(update={"attach": False}), uri, print)[0].model == "models:/began/2"
    (folder / "evaluation").mkdir()
    write_json(folder / "evaluation" / "0123-0000000.json", {})
    with pytest.raises(JobError, match="is the run of another job"):
        list(plan(job.model_copy(update={"model": "models:/began/2"})))
    write_json(folder / "result.json", {})  # complete: its result is not that of the champion of now
    assert versions.pinned(job, uri, print)[0].model == "models:/began/2"
    assert "is complete; nothing would be done (of models:/began/1; refused, if models:/began@champion has" in "".join(
        plan(job)
    )


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
    assert sys.modules.pop("model").__file__ == str(tmp_path / "here" / "model.py")
    assert capsys.readouterr().out.endswith("model.py: load() gives the same logits\n")


def test_a_version_of_before_comes_without_what_it_does_not_keep(weights: Weights, uri: str, tmp_path: Path):
    register(weights, uri, claim(0.5), name="older")
    pulled = tmp_path / "pulled"
    for lost, told, left in (
        ("test_images.safetensors", "no example.py: this version was registered without test images", {"model.py"}),
        ("job.json", "no model.py and no example.py: this version was registered without job.json", set()),
    ):
        said: list[str] = []
        versions.pull("models:/older/1", pulled, uri)
        for name in (lost, "model.py", "example.py", "program.py"):
            (pulled / name).unlink()
        versions._write_scripts(pulled, said.append)
        assert said == [told] and {path.name for path in pulled.glob("*.py")} == left
        shutil.rmtree(pulled)


def test_a_new_card_takes_the_place_of_the_old_one_whole(weights: Weights, uri: str, tmp_path: Path):
    """Tags, description, and what is pulled."""
    more = {"fgsm": 0.9, "pgd-20": 0.8, "autoattack": 0.5, "pgd-100x20": 0.77}
    old = register(weights, uri, claim(0.5, attacks=more, attacks_n=dict.fromkeys(more, 100)), name="whole")
    attach(weights, uri, old.uri, claim(0.2, flags=FLAGGED))
    after = connect(uri).get_model_version("whole", "1").tags
    assert "accuracy.pgd-100x20" not in after and after["accuracy.pgd-20"] == "0.2000 (n=100)"
    card = versions.pull(old.uri, tmp_path / "here", uri)
    assert (card["claim"]["robust_accuracy"], card["claim"]["flags"][0]["name"]) == (0.2, FLAGGED[0].name)
    assert FLAGGED[0].name in (tmp_path / "here" / "card.md").read_text()


def test_a_version_that_would_run_code_is_not_pulled(weights: Weights, uri: str, tmp_path: Path):
    """Whoever may write artifacts could have changed it: the program, and the script that the pull recommends."""
    register(weights, uri, claim(0.5), name="changed")
    model = Path(local_file_uri_to_path(mlflow.artifacts.download_artifacts("models:/changed/1", tracking_uri=uri)))
    for name in ("torch.py", "example.py"):
        (model / "extra_files" / name).write_text("raise SystemExit('code from the registry')")
    for name in ("__init__.py", "__init__.so", "data/hidden.pyc"):
        (model / name).write_text("raise SystemExit('code from the registry')")
    versions.pull("models:/changed/1", tmp_path / "first", uri)
    assert {path.name for path in tmp_path.rglob("*") if path.suffix in (".py", ".so", ".pyc")} == {
        "model.py", "example.py", "program.py"
    }  # fmt: skip
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
    connect(uri).delete_model_version_tag("changed", "1", "files_sha256")  # as of an earlier distrib
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
def test_a_wrong_address_is_explained(address: str, words: str, uri: str, tmp_path: Path):
    moved(uri, "told")
    with pytest.raises(RegistryError, match=words):
        versions.pull(address, tmp_path / "here", uri)
    assert list(tmp_path.iterdir()) == []

"""What was pulled from one registry is registered in another one: the same files, or nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from cards import FLAGGED, attach, claim, register
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from distrib.cli import main
from distrib.errors import InputError, RegistryError, RunError
from distrib.evaluation.models import Weights
from distrib.registry import listing, push, versions
from distrib.registry.champion import decision_history
from distrib.registry.pulled import NOTE
from distrib.tracking.client import connect


@pytest.fixture
def there(tmp_path: Path, database: Callable[[Path], str]) -> str:
    """The other registry, which is empty."""
    (tmp_path / "there").mkdir()
    return database(tmp_path / "there")


@pytest.fixture(scope="module")
def folder(weights: Weights, uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version, pulled; to be read only."""
    register(weights, uri, claim(0.5), name="pushed", same=True)
    target = tmp_path_factory.mktemp("pulled") / "here"
    versions.pull("models:/pushed/1", target, uri, lambda text: None)
    return target


def content(folder: Path) -> dict[str, bytes]:
    """Every file but those that say which registry it came from."""
    own = {NOTE, "model/MLmodel", "model/registered_model_meta"}
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if name not in own}


def nothing_registered(uri: str) -> bool:
    return not connect(uri).search_registered_models()


def test_the_other_registry_has_the_same_files_and_says_where_from(folder: Path, uri: str, there: str, tmp_path: Path):
    pushed = push.push(folder, None, there, "distrib")
    assert (pushed.address, pushed.new) == ("models:/pushed/1", True) and pushed.champion.startswith("not decided")
    versions.pull("models:/pushed/1", tmp_path / "back", there, print)
    assert content(tmp_path / "back") == content(folder) and "model.py" in content(folder)
    before, after = (connect(one).get_model_version("pushed", "1") for one in (uri, there))
    ours = {"card_run", "card.standard", "champion_decision", "pushed_from"}
    assert {key: value for key, value in after.tags.items() if key not in ours} == {
        key: value for key, value in before.tags.items() if key not in ours
    }
    assert (
        after.tags["pushed_from"] == f"models:/pushed/1 in {uri.rpartition('/')[2]}"
        and after.description == before.description
    )
    assert versions.fetch_card("models:/pushed/1", there, None) == versions.fetch_card("models:/pushed/1", uri, None)
    assert connect(there).get_registered_model("pushed").aliases == {}
    (row,) = listing.list_versions(there)
    assert (row["model"], row["robust_accuracy"], row["aliases"]) == ("models:/pushed/1", 0.5, [])
    again = push.push(tmp_path / "back", "third", there, "distrib")  # what was pushed can be pushed
    tags = connect(there).get_model_version("third", "1").tags
    assert again.new and tags["pushed_from"] == f"models:/pushed/1 in {there.rpartition('/')[2]}"


def test_the_stored_model_says_where_it_lies_now(folder: Path, there: str):
    push.push(folder, None, there, "distrib")
    found = connect(there).get_model_version("pushed", "1")
    stored = Path(mlflow.artifacts.download_artifacts("models:/pushed/1", tracking_uri=there))
    said = mlflow.models.Model.load(str(stored))
    assert said.run_id == found.run_id and found.source == f"models:/{said.model_id}"
    run = connect(there).get_run(found.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["distrib.kind"] == "push"


def test_weights_that_are_there_are_found(folder: Path, uri: str, there: str):
    first = push.push(folder, "one", there, "distrib")
    again = push.push(folder, "one", there, "distrib")
    assert first.new and not again.new and again.address == first.address == "models:/one/1"
    assert push.push(folder, "two", there, "distrib").new
    home = push.push(folder, None, uri, "tests")
    assert (home.address, home.new, home.champion) == ("models:/pushed/1", False, "champion: there was none before")
    assert len(connect(uri).search_model_versions("name = 'pushed'")) == 1


def test_an_evaluation_of_it_decides_about_champion_as_of_any_version(
    weights: Weights, folder: Path, there: str, tmp_path: Path
):
    pushed = push.push(folder, "judged", there, "distrib")
    told = attach(weights, there, pushed.address, claim(0.5))
    assert told == "champion: there was none before" and decision_history("judged", there)[-1]["version"] == "1"
    better = register(weights, there, claim(0.9), name="judged")
    assert better.champion.startswith("champion: version 1 had 50.00%, this one 90.00%")


def test_flags_and_the_card_of_a_later_evaluation_come_along(weights: Weights, uri: str, there: str, tmp_path: Path):
    """Not the card that lies in the model, of when it was registered."""
    old = register(weights, uri, claim(0.5), name="flagged", same=True)
    attach(weights, uri, old.uri, claim(0.2, flags=FLAGGED))
    versions.pull("models:/flagged/1", tmp_path / "here", uri)
    push.push(tmp_path / "here", None, there, "distrib")
    card = versions.pull("models:/flagged/1", tmp_path / "back", there)
    assert card["claim"]["robust_accuracy"] == 0.2 and content(tmp_path / "back") == content(tmp_path / "here")
    assert connect(there).get_model_version("flagged", "1").tags["blocking"] == FLAGGED[0].name
    told = attach(weights, there, "models:/flagged/1", claim(0.2))
    assert told == f"not champion: {FLAGGED[0].name}, on another card of these weights; a flag stays"


def test_a_flag_of_any_card_comes_along(weights: Weights, uri: str, there: str, tmp_path: Path):
    """Of a quick card that is kept beside the version's own, which has no flag."""
    old = register(weights, uri, claim(0.5), name="aside", same=True)
    attach(weights, uri, old.uri, claim(0.2, tier="quick", flags=FLAGGED))
    assert connect(uri).get_model_version("aside", "1").tags["blocking"] == "none"
    versions.pull(old.uri, tmp_path / "here", uri)
    push.push(tmp_path / "here", None, there, "distrib")
    told = attach(weights, there, old.uri, claim(0.5))
    assert told == f"not champion: {FLAGGED[0].name}, on another card of these weights; a flag stays"


def test_the_description_names_the_version_as_it_is_called_there(folder: Path, uri: str, there: str):
    assert "distrib pull models:/pushed/1 DIR" in connect(uri).get_model_version("pushed", "1").description
    pushed = push.push(folder, "renamed", there, "distrib")
    told = connect(there).get_model_version("renamed", "1").description
    assert f"distrib pull {pushed.address} DIR" in told and "models:/pushed" not in told


def test_a_damaged_folder_is_refused_before_the_registry_is_asked(folder: Path, tmp_path: Path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "model" / "data" / "model.pt2").write_bytes(b"else")
    with pytest.raises(
        InputError, match=r"model/data/model\.pt2 is not what was pulled; pull models:/pushed/1 in sqlit"
    ):
        push.push(damaged, None, "http://127.0.0.1:9", "distrib")


def test_a_version_of_another_program_is_pulled_but_not_pushed(uri: str, there: str, tmp_path: Path):
    class Half(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input: list[float]) -> list[float]:
            return [one / 2 for one in model_input]

    connect(uri)
    mlflow.pyfunc.log_model(name="model", python_model=Half(), registered_model_name="foreign", pip_requirements=[])
    mlflow.end_run()
    versions.pull("models:/foreign/1", tmp_path / "foreign", uri)
    with pytest.raises(
        RegistryError, match=r"models:/foreign/1 in .* was registered by another program, or without a r"
    ):
        push.push(tmp_path / "foreign", None, there, "distrib")
    assert nothing_registered(there)


@pytest.mark.parametrize("uri_of_none", ["sqlite:////nowhere/at/all.db", "http://127.0.0.1:9"])
def test_a_registry_that_cannot_be_reached_is_said(folder: Path, uri_of_none: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=f"tracking.uri: {uri_of_none}"):
        push.push(folder, None, uri_of_none, "distrib")


@pytest.mark.parametrize("name", ["", "a/b", "it's", "-x", "n" * 64])
def test_a_name_that_none_may_have_is_refused(folder: Path, name: str, there: str):
    with pytest.raises(RegistryError, match=r"NAME: .* is no name for a registered model; give one of letters"):
        push.push(folder, name, there, "distrib")
    assert nothing_registered(there)


@pytest.mark.parametrize("failing", ["log_model_artifacts", "finalize_logged_model", "create_model_version"])
def test_a_registry_that_fails_meanwhile_has_no_version(
    folder: Path, there: str, failing: str, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object, **__: object) -> None:
        raise MlflowException("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, failing, fails)
        with pytest.raises(
            RunError, match=r"here: nothing was registered in sqlite.*the disk is full; when that is men"
        ):
            push.push(folder, None, there, "distrib")
    assert nothing_registered(there)
    (run,) = connect(there).search_runs([connect(there).get_experiment_by_name("distrib").experiment_id])
    assert run.info.status == "FAILED"
    assert push.push(folder, None, there, "distrib").new, "the same command tries again"


def test_files_that_the_registry_does_not_keep_make_no_version(
    folder: Path, there: str, monkeypatch: pytest.MonkeyPatch
):
    store = MlflowClient.log_model_artifacts

    def loses(self: MlflowClient, model_id: str, local_dir: str) -> None:
        (Path(local_dir) / "data" / "model.pt2").write_bytes(b"half of it")
        store(self, model_id, local_dir)

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", loses)
    with pytest.raises(
        RunError, match=r"does not keep what was stored there \(data/model\.pt2 is not what was stored\)"
    ):
        push.push(folder, None, there, "distrib")
    assert nothing_registered(there)


def test_the_command(folder: Path, there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main.main(["push", str(folder), "ours", "--to", there]) == 0
    told = capsys.readouterr().out
    assert told == (
        f"{folder} is registered: models:/ours/1 in {there}\nnot decided: it was judged elsewhere; an "
        f"evaluation of it here decides (distrib evaluate ours/1 --tracking-uri {there})\n"
    )
    assert main.main(["push", str(folder), "ours", "--to", there]) == 0
    assert "nothing to push: these weights are there already: models:/ours/1" in capsys.readouterr().out
    assert main.main(["show", "ours/1", "--tracking-uri", there]) == 0
    assert "50.00" in capsys.readouterr().out
    assert main.main(["models", "--json", "--tracking-uri", there]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)] == ["models:/ours/1"]
    assert main.main(["push", str(tmp_path / "none"), "--to", there]) == 2
    assert capsys.readouterr().err.endswith("none: there is no such folder; name one that distrib pull made\n")
    assert main.main(["push", str(folder), "--to", "sqlite:////nowhere/at/all.db"]) == 2
    assert capsys.readouterr().err.startswith("distrib: --to: sqlite:////nowhere/at/all.db: there is no folder")

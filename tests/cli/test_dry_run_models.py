"""The models that a job names: a dry run looks for each, and refuses what the run would refuse."""

import re
from pathlib import Path

import pytest
from documents import EVALUATE, TRAIN, TUNE, changed
from plans import listing, note, plan, refused

from distrib.cli.dispatch import run
from distrib.config.file import parse
from distrib.errors import InputError
from distrib.tracking.display import Display


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


MODELS = {
    "an alias": (
        "models:/nonsense@champion",
        r"models:/nonsense@champion: not in sqlite:.*; nothing is registered there",
    ),
    "a version": ("models:/nonsense/3", r"models:/nonsense/3: not in sqlite:.*; nothing is registered there"),
    "no address": ("models:/nonsense", r"models:/nonsense: write it as models:/NAME/VERSION"),
    "no folder": (
        "runs/digits/robust/epoch-00050",
        r"/.*/runs/digits/robust/epoch-00050: there is no such model; name models",
    ),
    "no model in it": ("empty", r".*/empty: holds no model"),
    "a pickle": ("net.pt", r".*/net\.pt: a pickle, .* or set trust_pickle: true"),
}


@pytest.mark.parametrize(("address", "told"), MODELS.values(), ids=MODELS.keys())
def test_a_model_that_is_not_there_is_refused_as_by_the_run(
    address: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A dry run took every address."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "net.pt").touch()
    monkeypatch.setattr("distrib.tracking.client.connect", lambda *_: None)
    document = changed(EVALUATE, {"model": address, "loader": "memory", "data.limit": 300})
    before = listing(tmp_path)
    text, error = refused(parse(document, [], "here"))
    assert listing(tmp_path) == before, "no database, no folder"
    assert re.match(told, error)
    assert all(note(text, name) for name in ("digest", "run", "cluster", "tracking", "loader", "data"))
    with pytest.raises(InputError) as caught:
        run(parse(document, [], "here"), Display())
    assert str(caught.value) == error


TRANSFER = {"evaluation.attacks": [{"attack": "transfer", "source": "gone"}]}
STORED = {"evaluation.attacks": [{"attack": "stored", "path": "gone"}]}
LABELLED = [{"label": "a", "model": "gone"}]
THREAT = {"norm": "linf", "epsilon": 0.1}
CURVES = {"of": "curves", "models": LABELLED, "linf": [0.1]}
TABLE = {"of": "transfer", "sources": LABELLED, "targets": [{"label": "b", "model": "gone too"}], "threat": THREAT}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (changed(TRAIN, TRANSFER), "/.*/gone: there is no such model"),
        (changed(TRAIN, STORED), "gone: there is no such file; name a folder that distrib export wrote"),
        (
            changed(TUNE, {f"train.{path}": value for path, value in TRANSFER.items()}),
            "/.*/gone: there is no such model",
        ),
        (
            {"kind": "study", "name": "s", "data": {"source": "digits"}, "study": CURVES},
            "/.*/gone: there is no such model",
        ),
        (
            {"kind": "study", "name": "s", "data": {"source": "digits"}, "study": TABLE},
            "/.*/gone: there is no such model",
        ),
    ],
    ids=["transfer", "stored", "search", "curves", "table"],
)
def test_every_model_and_set_that_a_job_names_is_looked_for(document: dict, told: str):
    assert re.match(told, refused(parse(document, [], "here"))[1])


def test_a_model_on_a_server_that_does_not_answer_was_not_looked_for():
    text = plan(parse(changed(EVALUATE, {"tracking.uri": "http://127.0.0.1:9"}), [], "here"))
    told = note(text, "model")
    assert told.startswith("models:/m/1 was not looked for: tracking.uri: http://127.0.0.1:9 does not answer")


def test_of_two_faults_the_run_s_first_one_is_told_and_all_the_rest_is_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    data = {"data": {"source": "mnist", "root": "nowhere"}, "cluster.device": "cuda"}
    text, error = refused(parse(changed(EVALUATE, data | {"model": "models:/m@champion"}), [], "here"))
    assert error.startswith("models:/m@champion: not in ")
    assert all(note(text, name) for name in ("digest", "run", "cluster", "tracking", "loader", "not looked at"))
    assert refused(parse(changed(EVALUATE, data), [], "here"))[1].startswith("cluster.device: cuda needs 1 GPUs")
    del data["cluster.device"]
    assert refused(parse(changed(EVALUATE, data), [], "here"))[1].startswith("data.root: there is no folder nowhere")

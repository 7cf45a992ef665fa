"""What the command line says becomes a job of kind: evaluate, or is refused with the option's name."""

from pathlib import Path

import pytest
from cards import claim, register

from distrib.cli.asked import as_address, evaluation_of
from distrib.cli.parser import parser
from distrib.config.job import Evaluate
from distrib.errors import JobError, RegistryError
from distrib.evaluation.models import Weights


def asked(*words: str) -> Evaluate:
    found = evaluation_of(parser().parse_args(["evaluate", *words]))
    assert isinstance(found, Evaluate)
    return found


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("digits@champion", "models:/digits@champion"), ("a.b-c/12", "models:/a.b-c/12"),
        ("models:/digits/1", "models:/digits/1"), ("runs/digits/robust/epoch-00001", "runs/digits/robust/epoch-00001"),
        ("net.pt2", "net.pt2"), ("../net/1", "../net/1"), ("digits", "digits"), ("s3://a@b", "s3://a@b"),
    ],
)  # fmt: skip
def test_a_name_with_a_version_or_an_alias_is_a_registered_model(text: str, address: str):
    assert as_address(text) == address


def test_a_file_that_is_there_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "1").mkdir()
    assert as_address("net/1") == "net/1" and as_address("net/2") == "models:/net/2"


def test_a_registered_model_is_judged_as_its_card_says(weights: Weights, uri: str):
    register(weights, uri, claim(0.5), name="asked")
    job = asked("asked@champion", "--tracking-uri", uri)
    assert job.model == "models:/asked@champion" and job.data.source == "digits" and job.tracking.uri == uri
    assert (job.plan.threat.norm, job.plan.threat.epsilon, job.evaluation.tier) == ("linf", 0.1, "standard")
    terms = ["--epsilon", "8/255", "--norm", "l2", "--tier", "quick", "--n", "20"]
    other = asked("asked/1", "--tracking-uri", uri, *terms)
    assert (other.plan.threat.norm, other.plan.threat.epsilon, other.plan.n) == ("l2", 8 / 255, 20)
    assert other.name.startswith("evaluate-asked-1-quick-") and other.name != job.name
    with pytest.raises(JobError, match=r"--epsilon: is missing; the card's is of another norm"):
        asked("asked/1", "--tracking-uri", uri, "--norm", "l2")
    with pytest.raises(RegistryError, match="models:/nothing/1: not in"):
        asked("nothing/1", "--tracking-uri", uri)


def test_a_file_needs_data_and_a_threat(tmp_path: Path):
    job = asked("net.pt2", "--data", "mnist", "--epsilon", "0.3", "--set", "data.root=/data", "--set", "attach=false")
    assert job.data.source == "mnist" and job.data.root == "/data" and not job.attach
    assert asked("net.pt2", "--data", str(tmp_path), "--epsilon", "0.3").data.source == "folder"
    assert asked("net.pt2", "--data", "{source: digits, limit: 50}", "--epsilon", "0.3").data.limit == 50
    with pytest.raises(JobError, match=r"^--data: is missing; name one of digits, mnist"):
        asked("net.pt2", "--epsilon", "0.3")
    with pytest.raises(JobError, match=r"^--epsilon: is missing; say how far"):
        asked("net.pt2", "--data", "digits")
    with pytest.raises(JobError, match=r"^--data: 'cifra10' is none of digits, .* and no folder"):
        asked("net.pt2", "--data", "cifra10", "--epsilon", "0.3")
    with pytest.raises(JobError, match=r"evaluation\.threat\.epsilon: .*'eight'"):
        asked("net.pt2", "--data", "digits", "--epsilon", "eight")
    with pytest.raises(JobError, match=r"not YAML"):
        asked("net.pt2", "--data", "{source", "--epsilon", "0.3")


def test_the_same_question_has_the_same_name_and_another_one_another():
    terms = (["--n", "20"], ["--n", "20"], ["--n", "30"], ["--set", "evaluation.seed=1"], ["--tier", "quick"])
    names = [asked("net.pt2", "--data", "digits", "--epsilon", "0.3", *more).name for more in terms]
    assert names[0] == names[1] and len(set(names)) == 4
    assert asked("net.pt2", "--data", "digits", "--epsilon", "0.3", "--name", "mine").name == "mine"


def test_another_champion_is_another_question(weights: Weights, uri: str):
    names = []
    for robust in (0.5, 0.9):
        register(weights, uri, claim(robust), name="moves")
        names.append(asked("moves@champion", "--tracking-uri", uri).name)
    assert names[0] != names[1]
    with pytest.raises(JobError, match=r"evaluation\.n: expected .*, not 0"):
        asked("moves@champion", "--tracking-uri", uri, "--n", "0")

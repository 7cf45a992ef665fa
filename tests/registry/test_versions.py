"""The registry's gate: champion moves only to a model that was shown to be better on the same terms."""

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
from cards import STANDARD, attach, claim, entry, register
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.utils.file_utils import local_file_uri_to_path

from distrib.cli.dry_run import plan
from distrib.config.job import Evaluate
from distrib.data.beton import DataCard
from distrib.errors import InputError, JobError, RegistryError, RunError
from distrib.evaluation.flags import Flag
from distrib.evaluation.models import Weights
from distrib.files import file_sha256, write_json
from distrib.registry import champion as promotion
from distrib.registry import versions
from distrib.tracking import client
from distrib.tracking.tracker import opened


def aliases(uri: str, name: str) -> dict[str, str]:
    return {alias: str(number) for alias, number in client.client(uri).get_registered_model(name).aliases.items()}


def test_champion_moves_only_to_a_better_model_on_the_same_terms(weights: Weights, uri: str):
    first = register(weights, uri, claim(0.50))
    assert first.uri == "models:/gate/1" and "none before" in first.champion
    cases = [
        (claim(0.49), "d" * 64, "1", "has 50.00%"),
        (claim(0.50), "d" * 64, "1", "has 50.00%"),
        (claim(0.60), "d" * 64, "4", "had 50.00%"),
        (claim(0.90, epsilon=0.05), "d" * 64, "4", "epsilon"),
        (claim(0.90, norm="l2"), "d" * 64, "4", "norm"),
        (claim(0.90, n=200), "d" * 64, "4", "n 100 against 200"),
        (claim(0.90, n=49), "d" * 64, "4", "judged on 49 images; it takes 50"),
        (claim(0.90, tier="paper"), "d" * 64, "4", "tier paper; it takes AutoAttack"),
        (claim(0.90, examples_sha256="f" * 64), "d" * 64, "4", "examples_sha256"),
        (claim(0.90), "e" * 64, "4", "data_sha256"),
        (claim(0.90, flags=(Flag(name="zero_gradients", blocking=True, detail=""),)), "d" * 64, "4", "zero_gradients"),
        (claim(0.61), "d" * 64, "4", "60.00%, this one 61.00%, which is not significant"),
        (claim(0.65, flags=(Flag(name="few_classes", blocking=False, detail=""),)), "d" * 64, "14", "had 60.00%"),
    ]
    for number, (claimed, data, champion, reason) in enumerate(cases, start=2):
        registered = register(weights, uri, claimed, data=data)
        assert registered.version == str(number)
        assert reason in registered.champion, registered.champion
        assert aliases(uri, "gate") == {"champion": champion, "latest-robust": str(number)}


def test_figures_of_other_attacks_are_not_compared(weights: Weights, uri: str):
    """Whether their names say so, or only their settings: steps of a millionth lead nowhere."""
    register(weights, uri, claim(0.5), name="strengths")
    fgsm, pgd, auto = STANDARD.attacks
    weak = STANDARD.model_copy(update={"attacks": (fgsm, pgd.model_copy(update={"step_size": 1e-6}), auto)})
    told = register(weights, uri, claim(0.9), "strengths", suite=weak).champion
    assert "judged on other terms (the attacks autoattack,fgsm,pgd-20 with other settings); judge" in told
    fewer = STANDARD.model_copy(update={"attacks": (auto,)})
    claimed = claim(0.9, attacks={"autoattack": 0.9}, attacks_n={"autoattack": 100})
    told = register(weights, uri, claimed, "strengths", suite=fewer).champion
    assert "(attacks autoattack,fgsm,pgd-20 against autoattack); judge" in told
    order = STANDARD.model_copy(update={"attacks": (auto, pgd, fgsm)})
    assert "had 50.00%" in register(weights, uri, claim(0.6), "strengths", suite=order).champion


def tags(uri: str, name: str, number: str) -> dict[str, str]:
    return dict(client.client(uri).get_model_version(name, number).tags)


FLAGGED = (Flag(name="black_box_beats_white_box", blocking=True, detail="x"),)


def test_a_flag_is_not_escaped_by_an_evaluation_too_small_to_raise_it(weights: Weights, uri: str):
    first = register(weights, uri, claim(0.9, n=1000, flags=FLAGGED), name="escape")
    assert first.champion == "not champion: black_box_beats_white_box"
    told = attach(weights, uri, first.uri, claim(0.9, n=120))
    assert told.startswith("not champion: the version's own card stands") and "n 1000" in told
    assert "champion" not in aliases(uri, "escape")
    assert "none before" in register(weights, uri, claim(0.6, n=1000), name="escape").champion


def test_a_champion_that_is_flagged_since_is_no_bar(weights: Weights, uri: str):
    first = register(weights, uri, claim(0.9), name="bar")
    assert "though flagged" in attach(weights, uri, first.uri, claim(0.9, flags=FLAGGED))
    told = register(weights, uri, claim(0.4), name="bar").champion
    assert told == "champion: version 1 had 90.00%, flagged black_box_beats_white_box"


def test_a_server_that_fails_does_not_make_a_champion(weights: Weights, uri: str, monkeypatch):
    """Nor is a version that cannot be asked for just now one that is not there."""
    register(weights, uri, claim(0.9), name="busy")
    worse = register(weights, uri, claim(0.6), name="busy")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_model_version_by_alias", busy)
        with pytest.raises(RunError, match="too many requests"):
            attach(weights, uri, worse.uri, claim(0.95))
        with pytest.raises(RunError, match="too many requests"):
            versions.find("models:/busy@champion", uri)
        patch.setattr(MlflowClient, "get_registered_model", busy)
        with pytest.raises(RunError, match="too many requests"):
            promotion.decision_history("busy", uri)
    assert aliases(uri, "busy")["champion"] == "1"
    with pytest.raises(RegistryError, match="no such registered model"):
        promotion.decision_history("nobody", uri)


def busy(*values: object):
    raise MlflowException("too many requests", TEMPORARILY_UNAVAILABLE)


def test_a_champion_made_by_hand_without_a_card_is_no_bar(weights: Weights, uri: str):
    first = register(weights, uri, claim(0.5), name="hand")
    registry_client = client.client(uri)
    for key in tags(uri, "hand", first.version):
        registry_client.delete_model_version_tag("hand", first.version, key)
    assert register(weights, uri, claim(0.4), name="hand").champion == "champion: version 1 had no card"


def test_another_question_does_not_take_a_version_over(weights: Weights, uri: str):
    """A card at a smaller epsilon, or of other data, is kept beside the version's own."""
    first = register(weights, uri, claim(0.5), name="asked")
    before = tags(uri, "asked", "1")
    for claimed, data, key in (
        (claim(0.95, epsilon=0.01), "d" * 64, "card.standard.linf-0.01-dddddddd"),
        (claim(0.95), "e" * 64, "card.standard.linf-0.1-eeeeeeee"),
    ):
        assert attach(weights, uri, first.uri, claimed, data) == "champion already"
        after = tags(uri, "asked", "1")
        assert {name: after[name] for name in before} == before | {"champion_decision": "champion already"}
        assert key in after
        before = after
    assert "had 50.00%" in register(weights, uri, claim(0.7), name="asked").champion


def test_a_new_card_takes_the_place_of_the_old_one_whole(weights: Weights, uri: str, tmp_path: Path):
    """Tags, description, and what is pulled."""
    more = {"fgsm": 0.9, "pgd-20": 0.8, "autoattack": 0.5, "pgd-100x20": 0.77}
    old = register(weights, uri, claim(0.5, attacks=more, attacks_n=dict.fromkeys(more, 100)), name="whole")
    attach(weights, uri, old.uri, claim(0.2, flags=FLAGGED))
    after = tags(uri, "whole", "1")
    assert "accuracy.pgd-100x20" not in after and after["accuracy.pgd-20"] == "0.2000 (n=100)"
    card = versions.pull(old.uri, tmp_path / "here", uri)
    assert (card["claim"]["robust_accuracy"], card["claim"]["flags"][0]["name"]) == (0.2, FLAGGED[0].name)
    assert "black_box_beats_white_box" in (tmp_path / "here" / "card.md").read_text()


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
    opened(first, folder, pins=pins).close("KILLED")
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


def test_every_decision_about_champion_is_on_record(weights: Weights, uri: str):
    for robust in (0.5, 0.4, 0.6):
        register(weights, uri, claim(robust), name="recorded")
    found = promotion.decision_history("recorded", uri)
    assert [(row["version"], row["decision"], row["previous"]) for row in found] == [
        ("1", "promoted", None), ("2", "refused", "1"), ("3", "promoted", "1")
    ]  # fmt: skip
    assert found[1]["reason"] == "not champion: version 1 has 50.00%, this one 40.00% of the same 100 images"
    assert (found[2]["robust_accuracy"], found[2]["previous_robust_accuracy"]) == (0.6, 0.5)
    assert found[2]["terms"]["epsilon"] == "0.1" and found[2]["tier"] == "standard"
    with pytest.raises(RegistryError, match="no such registered model"):
        promotion.decision_history("nobody", uri)


def test_a_later_evaluation_gives_a_version_its_card(weights: Weights, uri: str):
    """quick first: no champion; standard later: champion; paper after that: kept beside the better card."""
    registered = register(weights, uri, claim(0.8, tier="quick"), name="later")
    assert "tier quick" in registered.champion and "champion" not in aliases(uri, "later")
    expected = (("standard", 0.5, "champion: there was none before"), ("paper", 0.6, "champion already"))
    for tier, robust, decision in expected:
        tracker = client.Tracker(uri, "tests", tier, None, {})
        card = entry(weights, claim(robust, tier=tier)).card
        assert versions.attach(registered.uri, card, tracker) == decision
        tracker.close("FINISHED")
        tags = client.client(uri).get_model_version("later", "1").tags
        assert (tags["tier"], tags["robust_accuracy"]) == ("standard", "0.5000")
        assert tags[f"card.{tier}"] == tracker.run_id
    flagged = claim(0.5, flags=(Flag(name="zero_gradients", blocking=True, detail=""),))
    tracker = client.Tracker(uri, "tests", "flagged", None, {})
    decision = versions.attach(registered.uri, entry(weights, flagged).card, tracker)
    tracker.close("FINISHED")
    assert decision.startswith("champion stays, though flagged: zero_gradients")


def test_a_version_says_what_it_is(weights: Weights, uri: str):
    registered = register(weights, uri, claim(0.5), name="told")
    found = client.client(uri).get_model_version("told", registered.version)
    assert found.tags["robust_accuracy"] == "0.5000" and found.tags["accuracy.autoattack"] == "0.5000 (n=100)"
    assert found.tags["norm"] == "linf" and found.tags["epsilon"] == "0.1" and found.tags["n"] == "100"
    assert "| autoattack (on what still stood) | 50.00% | 100 |" in found.description
    assert "40.38 to 59.62" in found.description and "None." in found.description
    (row,) = [row for row in versions.versions(uri) if row["model"] == registered.uri]
    assert row["robust_accuracy"] == 0.5 and row["attacks"] == ["autoattack", "fgsm", "pgd-20"]


def test_no_model_is_left_out_of_a_long_list(tmp_path: Path):
    """MLflow gives a hundred registered models at a time."""
    own = f"sqlite:///{tmp_path / 'long.db'}"
    names = [f"model-{number:03d}" for number in range(101)]
    for name in names:
        client.client(own).create_registered_model(name)
        client.client(own).create_model_version(name, source="file:///nowhere")
    assert [row["model"] for row in versions.versions(own)] == [f"models:/{name}/1" for name in names]


def test_the_same_run_registers_once(weights: Weights, uri: str):
    tracker = client.Tracker(uri, "tests", "once", None, {})
    twice = [versions.register(entry(weights, claim(0.5)), "once", tracker) for _ in range(2)]
    tracker.close("FINISHED")
    assert twice[0] == twice[1] and twice[0].version == "1"


def test_a_registration_that_was_interrupted_goes_on(weights: Weights, uri: str, monkeypatch):
    """Between the version and its card: the same run finds its version again, and no second one is made."""
    tracker = client.Tracker(uri, "tests", "interrupted", None, {})
    with monkeypatch.context() as patch:
        patch.setattr(versions, "promote", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            versions.register(entry(weights, claim(0.5)), "interrupted", tracker)
    registered = versions.register(entry(weights, claim(0.5)), "interrupted", tracker)
    tracker.close("FINISHED")
    assert registered.version == "1" and "none before" in registered.champion
    assert aliases(uri, "interrupted") == {"champion": "1", "latest-robust": "1"}
    assert len(promotion.decision_history("interrupted", uri)) == 1


def test_the_stored_model_is_the_evaluated_one_and_needs_no_pickle(weights: Weights, uri: str, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    registered = register(weights, uri, claim(0.5), name="stored", same=True)
    stored, own = versions.load_version(registered.uri), weights.load(torch.device("cpu"))
    for size in (1, 3, 50):
        x = torch.rand(size, 1, 8, 8)
        assert torch.allclose(stored(x), own(x), atol=1e-5)
    subject, card = versions.fetch_subject(registered.uri, uri, False, lambda text: None)
    assert torch.allclose(subject.load(torch.device("cpu"))(x), own(x), atol=1e-5)
    assert card["claim"]["robust_accuracy"] == 0.5


def test_a_stored_model_that_differs_is_not_registered(weights: Weights, uri: str, monkeypatch):
    other = weights.load(torch.device("cpu"))
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    monkeypatch.setattr(versions, "load_version", lambda address: other)
    with pytest.raises(RunError, match="differ from the evaluated"):
        register(weights, uri, claim(0.5), name="differs")
    assert client.client(uri).search_model_versions("name = 'differs'") == []


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
    client.client(uri).delete_model_version_tag("changed", "1", "files_sha256")  # as of an earlier distrib
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


def test_card_of_data_is_enough_to_name_a_model(tmp_path: Path):
    card = DataCard(
        distrib_version="0", job={}, job_digest="", split="train", count=1, classes=("a", "b"), image=(8, 8, 1),
        encoding="array", file="train.beton", size_bytes=1, sha256="", content_sha256="", mean=(0.0,), std=(1.0,),
        fingerprint="",
    )  # fmt: skip
    subject = Weights.of({"arch": "small_cnn"}, card, tmp_path / "none")
    assert (subject.image, subject.num_classes) == ((8, 8, 1), 2)

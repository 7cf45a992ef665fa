"""A model becomes a version, whole and with its card, or none at all."""

from pathlib import Path

import pytest
import torch
from cards import claim, entry, register

from distrib.data.beton import DataCard
from distrib.errors import RunError
from distrib.evaluation.flags import Flag
from distrib.evaluation.models import Weights
from distrib.registry import champion as promotion
from distrib.registry import store, versions
from distrib.tracking import client
from distrib.tracking.mlflow_run import MLflowRun


def aliases(uri: str, name: str) -> dict[str, str]:
    return {alias: str(number) for alias, number in client.connect(uri).get_registered_model(name).aliases.items()}


def test_a_version_says_what_it_is(weights: Weights, uri: str):
    registered = register(weights, uri, claim(0.5), name="told")
    found = client.connect(uri).get_model_version("told", registered.version)
    assert found.tags["robust_accuracy"] == "0.5000" and found.tags["accuracy.autoattack"] == "0.5000 (n=100)"
    assert found.tags["norm"] == "linf" and found.tags["epsilon"] == "0.1" and found.tags["n"] == "100"
    assert "| autoattack (on what still stood) | 50.00% | 100 |" in found.description
    assert "40.38 to 59.62" in found.description and "None." in found.description
    (row,) = [row for row in versions.list_versions(uri) if row["model"] == registered.uri]
    assert row["robust_accuracy"] == 0.5 and row["attacks"] == ["autoattack", "fgsm", "pgd-20"]


def test_a_later_evaluation_gives_a_version_its_card(weights: Weights, uri: str):
    """quick first: no champion; standard later: champion; paper after that: kept beside the better card."""
    registered = register(weights, uri, claim(0.8, tier="quick"), name="later")
    assert "tier quick" in registered.champion and "champion" not in aliases(uri, "later")
    expected = (("standard", 0.5, "champion: there was none before"), ("paper", 0.6, "champion already"))
    for tier, robust, decision in expected:
        tracker = MLflowRun(uri, "tests", tier, None, {})
        card = entry(weights, claim(robust, tier=tier)).card
        assert store.attach(registered.uri, card, tracker) == decision
        tracker.close("FINISHED")
        tags = client.connect(uri).get_model_version("later", "1").tags
        assert (tags["tier"], tags["robust_accuracy"]) == ("standard", "0.5000")
        assert tags[f"card.{tier}"] == tracker.run_id
    flagged = claim(0.5, flags=(Flag(name="zero_gradients", blocking=True, detail=""),))
    tracker = MLflowRun(uri, "tests", "flagged", None, {})
    decision = store.attach(registered.uri, entry(weights, flagged).card, tracker)
    tracker.close("FINISHED")
    assert decision.startswith("champion stays, though flagged: zero_gradients")


def test_the_same_run_registers_once(weights: Weights, uri: str):
    tracker = MLflowRun(uri, "tests", "once", None, {})
    twice = [store.register(entry(weights, claim(0.5)), "once", tracker) for _ in range(2)]
    tracker.close("FINISHED")
    assert twice[0] == twice[1] and twice[0].version == "1"


def test_a_registration_that_was_interrupted_goes_on(weights: Weights, uri: str, monkeypatch):
    """Between the version and its card: the same run finds its version again, and no second one is made."""
    tracker = MLflowRun(uri, "tests", "interrupted", None, {})
    with monkeypatch.context() as patch:
        patch.setattr(store, "promote", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.register(entry(weights, claim(0.5)), "interrupted", tracker)
    registered = store.register(entry(weights, claim(0.5)), "interrupted", tracker)
    tracker.close("FINISHED")
    assert registered.version == "1" and "none before" in registered.champion
    assert aliases(uri, "interrupted") == {"champion": "1", "latest-robust": "1"}
    assert len(promotion.decision_history("interrupted", uri)) == 1


def test_the_stored_model_is_the_evaluated_one_and_needs_no_pickle(weights: Weights, uri: str, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    registered = register(weights, uri, claim(0.5), name="stored", same=True)
    stored, own = store.load_version(registered.uri), weights.load(torch.device("cpu"))
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
    monkeypatch.setattr(store, "load_version", lambda address: other)
    with pytest.raises(RunError, match="differ from the evaluated"):
        register(weights, uri, claim(0.5), name="differs")
    assert client.connect(uri).search_model_versions("name = 'differs'") == []


def test_card_of_data_is_enough_to_name_a_model(tmp_path: Path):
    card = DataCard(
        distrib_version="0", job={}, job_digest="", split="train", count=1, classes=("a", "b"), image=(8, 8, 1),
        encoding="array", file="train.beton", size_bytes=1, sha256="", content_sha256="", mean=(0.0,), std=(1.0,),
        fingerprint="",
    )  # fmt: skip
    subject = Weights.of({"arch": "small_cnn"}, card, tmp_path / "none")
    assert (subject.image, subject.num_classes) == ((8, 8, 1), 2)

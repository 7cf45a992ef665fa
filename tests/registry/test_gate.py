"""The registry's gate: champion moves only to a model that was shown to be better on the same terms."""

from pathlib import Path

import pytest
from cards import STANDARD, attach, claim, register
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from distrib.errors import RegistryError, RunError
from distrib.evaluation.flags import Flag
from distrib.evaluation.models import Weights
from distrib.registry import champion as promotion
from distrib.registry import versions
from distrib.tracking import client


def aliases(uri: str, name: str) -> dict[str, str]:
    return {alias: str(number) for alias, number in client.connect(uri).get_registered_model(name).aliases.items()}


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
    return dict(client.connect(uri).get_model_version(name, number).tags)


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
    registry_client = client.connect(uri)
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

"""The gate: champion moves only to a model that was shown to be better on the same terms, and not by luck."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import urlparse

import pytest
from cards import FLAGGED, STANDARD, claim, fates, judged
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from distrib.errors import RegistryError, RunError
from distrib.evaluation.flags import Flag
from distrib.registry.cards import KEPT
from distrib.registry.champion import decision_history
from distrib.registry.listing import find
from distrib.tracking.client import connect


def champion_of(uri: str, name: str) -> str | None:
    """The version that has the alias."""
    found = connect(uri).get_registered_model(name).aliases.get("champion")
    return None if found is None else str(found)


def tags(uri: str, name: str, version: str) -> dict[str, str]:
    return dict(connect(uri).get_model_version(name, version).tags)


def stood(count: int, of: int = 450) -> str:
    return fates("1" * count + "0" * (of - count))


def test_champion_moves_only_to_a_better_model_on_the_same_terms(uri: str):
    assert "none before" in judged(uri, "gate", claim(0.50), "f")
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
        (claim(0.90, flags=FLAGGED), "d" * 64, "4", "zero_gradients"),
        (claim(0.61), "d" * 64, "4", "60.00%, this one 61.00%, which is not significant"),
        (claim(0.65, flags=(Flag(name="few_classes", blocking=False, detail=""),)), "d" * 64, "14", "had 60.00%"),
    ]
    for weights, (claimed, data, champion, reason) in zip("0123456789abc", cases, strict=True):
        told = judged(uri, "gate", claimed, weights, data=data)
        assert reason in told, told
        assert champion_of(uri, "gate") == champion


def test_figures_of_other_attacks_are_not_compared(uri: str):
    """Whether their names say so, or only their settings: steps of a millionth lead nowhere."""
    judged(uri, "strengths", claim(0.5), "a")
    fgsm, pgd, auto = STANDARD.attacks
    weak = STANDARD.model_copy(update={"attacks": (fgsm, pgd.model_copy(update={"step_size": 1e-6}), auto)})
    told = judged(uri, "strengths", claim(0.9), "b", suite=weak)
    assert "judged on other terms (the attacks autoattack,fgsm,pgd-20 with other settings); judge" in told
    fewer = STANDARD.model_copy(update={"attacks": (auto,)})
    claimed = claim(0.9, attacks={"autoattack": 0.9}, attacks_n={"autoattack": 100})
    told = judged(uri, "strengths", claimed, "c", suite=fewer)
    assert "(attacks autoattack,fgsm,pgd-20 against autoattack); judge" in told
    order = STANDARD.model_copy(update={"attacks": (auto, pgd, fgsm)})
    assert "had 50.00%" in judged(uri, "strengths", claim(0.6), "d", suite=order)


def test_a_flag_is_not_escaped_by_an_evaluation_too_small_to_raise_it(uri: str):
    assert judged(uri, "escape", claim(0.9, n=1000, flags=FLAGGED), "a") == "not champion: zero_gradients"
    told = judged(uri, "escape", claim(0.9, n=120), "a", "1")
    assert told.startswith("not champion: the version's own card stands") and "n 1000" in told
    assert champion_of(uri, "escape") is None
    assert "none before" in judged(uri, "escape", claim(0.6, n=1000), "b")


def test_a_server_that_fails_does_not_make_a_champion(uri: str, monkeypatch: pytest.MonkeyPatch):
    """Nor is a version that cannot be asked for just now one that is not there."""
    for robust, weights in ((0.9, "a"), (0.6, "b")):
        judged(uri, "busy", claim(robust), weights)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_model_version_by_alias", busy)
        with pytest.raises(RunError, match="too many requests"):
            judged(uri, "busy", claim(0.95), "b", "2")
        with pytest.raises(RunError, match="too many requests"):
            find("models:/busy@champion", uri)
        patch.setattr(MlflowClient, "get_registered_model", busy)
        with pytest.raises(RunError, match="too many requests"):
            decision_history("busy", uri)
    assert champion_of(uri, "busy") == "1"


def busy(*values: object):
    raise MlflowException("too many requests", TEMPORARILY_UNAVAILABLE)


def test_a_champion_made_by_hand_without_a_card_is_no_bar(uri: str):
    judged(uri, "hand", claim(0.5), "a")
    registry = connect(uri)
    for key in tags(uri, "hand", "1"):
        registry.delete_model_version_tag("hand", "1", key)
    assert judged(uri, "hand", claim(0.4), "b") == "champion: version 1 had no card"


def test_another_question_does_not_take_a_version_over(uri: str):
    """A card at a smaller epsilon, or of other data, is kept beside the version's own."""
    judged(uri, "asked", claim(0.5), "a")
    before = tags(uri, "asked", "1")
    for claimed, data, key in (
        (claim(0.95, epsilon=0.01), "d" * 64, "card.standard.linf-0.01-dddddddd"),
        (claim(0.95), "e" * 64, "card.standard.linf-0.1-eeeeeeee"),
    ):
        assert judged(uri, "asked", claimed, "a", "1", data) == "champion already"
        after = tags(uri, "asked", "1")
        assert {name: after[name] for name in before} == before | {"champion_decision": "champion already"}
        assert key in after
        before = after
    assert "had 50.00%" in judged(uri, "asked", claim(0.7), "b")


def test_every_decision_about_champion_is_on_record(uri: str):
    for robust, weights in ((0.5, "a"), (0.4, "b"), (0.6, "c")):
        judged(uri, "recorded", claim(robust), weights)
    found = decision_history("recorded", uri)
    assert [(row["version"], row["decision"], row["previous"]) for row in found] == [
        ("1", "promoted", None), ("2", "refused", "1"), ("3", "promoted", "1")
    ]  # fmt: skip
    assert found[1]["reason"] == "not champion: version 1 has 50.00%, this one 40.00% of the same 100 images"
    assert (found[2]["robust_accuracy"], found[2]["previous_robust_accuracy"]) == (0.6, 0.5)
    assert found[2]["terms"]["epsilon"] == "0.1" and found[2]["tier"] == "standard"
    with pytest.raises(RegistryError, match="no such registered model"):
        decision_history("nobody", uri)


def test_the_same_weights_do_not_become_champion_by_another_seed(uri: str):
    """53.33 % under seed 0, and 53.56 % under seed 4."""
    judged(uri, "lucky", claim(240 / 450, n=450), "a")
    told = judged(uri, "lucky", claim(241 / 450, n=450, seed=4), "a")
    assert told == "not champion: the same weights as version 1, whose record counts for both"
    told = judged(uri, "lucky", claim(0.9, n=450), "a")
    assert "the same weights as version 1" in told and champion_of(uri, "lucky") == "1"


def test_a_difference_that_chance_explains_moves_nothing_and_is_on_record_with_its_p(uri: str):
    judged(uri, "chance", claim(0.5), "a")
    told = judged(uri, "chance", claim(0.54), "b")  # the 4 that differ all speak for it
    assert "50.00%, this one 54.00%, which is not significant (better on 4 and worse on 0 of 100 images" in told
    assert "set the alias champion in MLflow" in told and champion_of(uri, "chance") == "1"
    assert judged(uri, "chance", claim(0.55), "c") == (
        "champion: version 1 had 50.00%, this one 55.00% (better on 5 and worse on 0 of 100 images, p = 0.031)"
    )
    rows = decision_history("chance", uri)
    assert [row.get("compared", {}).get("p") for row in rows] == [None, 1 / 16, 1 / 32]
    assert [row["decision"] for row in rows] == ["promoted", "refused", "promoted"]
    swapped = fates("0" * 20 + "1" * 57 + "0" * 23)  # 57 %, but other images: 22 against 20
    assert "not significant" in judged(uri, "chance", claim(0.57), "d", examples=swapped)


@pytest.mark.parametrize(
    ("changes", "suite", "words"),
    [
        ({"seed": 4}, STANDARD, r"\(seed 0 against 4\); judge this one as that was \(evaluation.seed: 0\)"),
        ({"seed": 4, "examples_sha256": "f" * 64}, STANDARD, r"\(seed 0 against 4\)"),
        (
            {},
            STANDARD.model_copy(update={"shard_size": 50}),
            r"\(shard_size 100 against 50\); .*\(evaluation.shard_size: 100\)",
        ),
    ],
)
def test_seed_and_shards_are_terms(uri: str, changes: dict, suite, words: str, request: pytest.FixtureRequest):
    name = f"terms{request.node.callspec.indices['changes']}"
    judged(uri, name, claim(0.5), "a")
    told = judged(uri, name, claim(0.9, **changes), "b", suite=suite)
    assert re.search(words, told), told
    assert champion_of(uri, name) == "1"
    assert judged(uri, name, claim(0.8), "b", "2").startswith("champion: version 1 had 50.00%, this one 80.00%")


def test_shards_larger_than_the_evaluation_are_alike(uri: str):
    judged(uri, "large", claim(0.5), "a")
    larger = STANDARD.model_copy(update={"shard_size": 1000})
    assert judged(uri, "large", claim(0.9), "b", suite=larger).startswith("champion: ")


def test_a_version_is_not_judged_until_it_passes(uri: str):
    """What broke under one seed is broken, in both; the version's own figure does not rise, either."""
    judged(uri, "again", claim(0.5), "a")
    judged(uri, "again", claim(0.5, seed=4), "a", "1")
    assert "not significant" in judged(uri, "again", claim(0.51), "b")
    told = judged(uri, "again", claim(0.6, seed=4), "b", "2")
    assert "has 50.00%, this one 51.00%" in told and "images over the seeds 0, 4" in told
    assert champion_of(uri, "again") == "1" and tags(uri, "again", "2")["robust_accuracy"] == "0.5100"
    assert "this one 51.00%" in judged(uri, "again", claim(0.9, seed=4), "b", "2")
    assert decision_history("again", uri)[-1]["compared"]["seeds"] == [0, 4]


def test_a_better_card_of_another_seed_is_kept_beside_the_first(uri: str):
    """It was under no tag at all: the tags that were read at first were all written back."""
    judged(uri, "beside", claim(0.5), "a")
    first = tags(uri, "beside", "1")["card.standard"]
    judged(uri, "beside", claim(0.6, seed=4), "a", "1")
    found = tags(uri, "beside", "1")
    assert found["card.standard"] == found["card_run"] == first and found["card.standard.seed-4"] != first


def test_a_seed_that_only_one_of_them_met_weighs_on_neither(uri: str):
    judged(uri, "more", claim(0.5), "a")
    assert "seed 0 against 7" in judged(uri, "more", claim(0.4, seed=7), "b")
    assert judged(uri, "more", claim(0.6), "b", "2").startswith("champion: version 1 had 50.00%, this one 60.00%")


@pytest.mark.parametrize("changes", [{"seed": 4}, {"n": 1000}, {"epsilon": 0.09}])
def test_a_blocking_flag_stays_however_the_weights_are_judged_again(uri: str, changes: dict):
    """The same version, and another one of the same weights."""
    name = f"flag-{next(iter(changes))}"
    judged(uri, name, claim(0.9, flags=FLAGGED), "a")
    told = judged(uri, name, claim(0.9, **changes), "a", "1")
    assert told.startswith("not champion: ") and champion_of(uri, name) is None
    told = judged(uri, name, claim(0.9, **changes), "a")
    assert told == "not champion: zero_gradients, on another card of these weights; a flag stays"
    assert tags(uri, name, "2")["blocking"] == "zero_gradients" and champion_of(uri, name) is None
    assert "Do not use this figure" in connect(uri).get_model_version(name, "2").description
    assert "none before" in judged(uri, name, claim(0.5, **changes), "b")


def test_a_flag_about_weak_attacks_is_answered_by_stronger_ones(uri: str):
    weak = (Flag(name="listed_attacks_too_weak", blocking=True, detail="take a stronger tier"),)
    quick = STANDARD.model_copy(update={"attacks": STANDARD.attacks[:2]})
    judged(uri, "weak", claim(0.9, tier="quick", flags=weak), "a", suite=quick)
    assert judged(uri, "weak", claim(0.5), "a", "1") == "champion: there was none before"
    assert "not champion: listed" in judged(uri, "weak-same", claim(0.9, flags=weak), "a")
    assert "a flag stays" in judged(uri, "weak-same", claim(0.9, seed=1), "a", "1")


def test_a_flagged_champion_keeps_its_terms(uri: str):
    """Its figure is no bar, but a card at epsilon 0.001 does not answer its question."""
    judged(uri, "kept", claim(0.9), "a")
    assert "though flagged" in judged(uri, "kept", claim(0.9, flags=FLAGGED), "a", "1")
    told = judged(uri, "kept", claim(0.95, epsilon=0.001), "b")
    assert told.startswith("not champion: version 1 was judged on other terms (epsilon 0.1 against 0.001); judge this")
    assert champion_of(uri, "kept") == "1"
    told = judged(uri, "kept", claim(0.4), "c")
    assert told == "champion: version 1 had 90.00%, flagged zero_gradients" and champion_of(uri, "kept") == "3"


def test_a_champion_whose_examples_are_gone_is_not_replaced(uri: str):
    judged(uri, "gone", claim(0.5), "a")
    client = connect(uri)
    run = client.get_run(tags(uri, "gone", "1")["card_run"])
    shutil.rmtree(Path(urlparse(run.info.artifact_uri).path) / "card")
    told = judged(uri, "gone", claim(0.9), "b")
    assert told.startswith(f"not champion: it cannot be compared with version 1: the card of the run {run.info.run_id}")
    assert "cannot be fetched" in told and champion_of(uri, "gone") == "1"
    assert decision_history("gone", uri)[-1]["decision"] == "refused"


def test_a_champion_moved_by_hand_stays(uri: str):
    """Which is how one of several near-equals is chosen."""
    for weights in "ab":
        judged(uri, "by-hand", claim(0.5), weights)
    connect(uri).set_registered_model_alias("by-hand", "champion", "2")
    assert "version 2 has 50.00%" in judged(uri, "by-hand", claim(0.5), "c")


def older(uri: str, name: str, version: str) -> None:
    """Makes a version's record that of an earlier distrib: no seed, no shards, no weights, other hashes of attacks."""
    client = connect(uri)
    for key in ("seed", "shard_size"):
        client.delete_model_version_tag(name, version, key)
    client.set_model_version_tag(name, version, "attacks_sha256", "0" * 64)
    for key, value in client.get_registered_model(name).tags.items():
        record = json.loads(value)
        for lacking in ("blocking", "weights_sha256"):
            record.pop(lacking)
        for lacking in ("seed", "shard_size"):
            record["terms"].pop(lacking)
        record["terms"]["attacks_sha256"] = "0" * 64
        client.set_registered_model_tag(name, key, json.dumps(record))
    run = client.get_run(tags(uri, name, version)["card_run"])
    path = Path(urlparse(run.info.artifact_uri).path) / "card" / "card.json"
    card = json.loads(path.read_text())
    del card["shard_size"]
    path.write_text(json.dumps(card | {"attacks_sha256": "0" * 64}))


def test_an_older_record_is_read_from_its_card(uri: str):
    judged(uri, "older", claim(0.5), "a")
    older(uri, "older", "1")
    assert "seed 0 against 4" in judged(uri, "older", claim(0.9, seed=4), "b")
    assert judged(uri, "older", claim(0.9), "c").startswith("champion: version 1 had 50.00%, this one 90.00%")
    judged(uri, "older-flag", claim(0.5, flags=FLAGGED), "a")
    older(uri, "older-flag", "1")
    assert "a flag stays" in judged(uri, "older-flag", claim(0.5, seed=1), "a")
    judged(uri, "older-gone", claim(0.5, flags=(Flag(name="steps_not_converged", blocking=False, detail="x"),)), "a")
    older(uri, "older-gone", "1")
    run = connect(uri).get_run(tags(uri, "older-gone", "1")["card_run"])
    shutil.rmtree(urlparse(run.info.artifact_uri).path)
    judged(uri, "older-gone", claim(0.5, seed=1), "a", "1")
    assert tags(uri, "older-gone", "1")["blocking"] == "none"


def test_decisions_that_an_older_distrib_kept_still_count_and_none_is_shown_on_mlflows_pages(uri: str):
    judged(uri, "kept-before", claim(0.5), "a")
    client = MlflowClient(uri)
    (tag,) = [key for key in client.get_registered_model("kept-before").tags if "promotion" in key]
    assert tag.startswith("mlflow."), "MLflow hides the tags of its own name"
    text = client.get_registered_model("kept-before").tags[tag]
    client.delete_registered_model_tag("kept-before", tag)
    client.set_registered_model_tag("kept-before", f"promotion.{tag.removeprefix(KEPT)}", text)
    assert "not champion: version 1 has 50.00%" in judged(uri, "kept-before", claim(0.4), "b")
    assert [one["version"] for one in decision_history("kept-before", uri)] == ["1", "2"]

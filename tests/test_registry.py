"""The registry's gate: champion moves only to a model that was shown to be better on the same terms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from distrib import registry, tracking
from distrib.data.beton import Card
from distrib.errors import InputError, RegistryError, RunError
from distrib.evaluate.claim import Claim, Flag, wilson
from distrib.evaluate.subject import Weights
from distrib.files import file_sha256
from distrib.models import SmallCNN
from distrib.state import save_weights


def claim(robust: float, **changes) -> Claim:
    whole = {
        "clean_accuracy": 0.9, "n_clean": 100, "robust_accuracy": robust, "interval": wilson(round(robust * 100), 100),
        "n": 100, "attacks": {"fgsm": 0.8, "autoattack": robust}, "attacks_n": {"fgsm": 100, "autoattack": 100},
        "attack_seconds": {"fgsm": 1.0, "autoattack": 9.0}, "largest_change": {"fgsm": 0.1, "autoattack": 0.1},
        "norm": "linf", "epsilon": 0.1, "seed": 0, "flags": (),
    }  # fmt: skip
    return Claim(**(whole | changes))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    torch.manual_seed(0)
    value = SmallCNN(width=0.25)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(value.build((1, 8, 8), 10, [0.3], [0.4]), path)
    return Weights(value.model_dump(mode="json"), (8, 8, 1), 10, path)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def entry(weights: Weights, claimed: Claim, data: str = "d" * 64) -> registry.Entry:
    batch = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    job = {"data": {"source": "digits"}, "name": "some"}
    classes = tuple("0123456789")
    return registry.Entry(weights, claimed, batch, job, "j" * 64, data, classes, file_sha256(weights.path))


def register(
    weights: Weights, uri: str, claimed: Claim, name: str = "gate", data: str = "d" * 64
) -> registry.Registered:
    tracker = tracking.Tracker(uri, "tests", "some", None, {})
    try:
        return registry.register(entry(weights, claimed, data), name, tracker)
    finally:
        tracker.close("FINISHED")


def aliases(uri: str, name: str) -> dict[str, str]:
    return {alias: str(number) for alias, number in tracking.client(uri).get_registered_model(name).aliases.items()}


def test_champion_moves_only_to_a_better_model_on_the_same_terms(weights: Weights, uri: str):
    first = register(weights, uri, claim(0.50))
    assert first.uri == "models:/gate/1" and "none before" in first.champion
    cases = [
        (claim(0.49), "d" * 64, "1", "has 50.00%"),
        (claim(0.50), "d" * 64, "1", "has 50.00%"),
        (claim(0.60), "d" * 64, "4", "had 50.00%"),
        (claim(0.90, epsilon=0.05), "d" * 64, "4", "epsilon"),
        (claim(0.90, norm="l2"), "d" * 64, "4", "norm"),
        (claim(0.90, n=50), "d" * 64, "4", "n 100, not 50"),
        (claim(0.90, attacks={"fgsm": 0.9}, attacks_n={"fgsm": 100}), "d" * 64, "4", "attacks"),
        (claim(0.90), "e" * 64, "4", "data_sha256"),
        (claim(0.90, flags=(Flag(name="zero_gradients", blocking=True, detail=""),)), "d" * 64, "4", "zero_gradients"),
        (claim(0.61, flags=(Flag(name="few_classes", blocking=False, detail=""),)), "d" * 64, "11", "had 60.00%"),
    ]
    for number, (claimed, data, champion, reason) in enumerate(cases, start=2):
        registered = register(weights, uri, claimed, data=data)
        assert registered.version == str(number)
        assert reason in registered.champion, registered.champion
        assert aliases(uri, "gate") == {"champion": champion, "latest-robust": str(number)}


def test_a_version_says_what_it_is(weights: Weights, uri: str):
    registered = register(weights, uri, claim(0.5), name="told")
    found = tracking.client(uri).get_model_version("told", registered.version)
    assert found.tags["robust_accuracy"] == "0.5000" and found.tags["accuracy.autoattack"] == "0.5000 (n=100)"
    assert found.tags["norm"] == "linf" and found.tags["epsilon"] == "0.1" and found.tags["n"] == "100"
    assert "| autoattack | 50.00% | 100 |" in found.description and "40.38% to 59.62%" in found.description
    (row,) = [row for row in registry.versions(uri) if row["model"] == registered.uri]
    assert row["robust_accuracy"] == 0.5 and row["attacks"] == ["autoattack", "fgsm"]


def test_the_same_run_registers_once(weights: Weights, uri: str):
    tracker = tracking.Tracker(uri, "tests", "once", None, {})
    twice = [registry.register(entry(weights, claim(0.5)), "once", tracker) for _ in range(2)]
    tracker.close("FINISHED")
    assert twice[0] == twice[1] and twice[0].version == "1"


def test_the_stored_model_is_the_evaluated_one_and_needs_no_pickle(weights: Weights, uri: str, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    registered = register(weights, uri, claim(0.5), name="stored")
    stored, own = registry.load(registered.uri), weights.load(torch.device("cpu"))
    for size in (1, 3, 50):
        x = torch.rand(size, 1, 8, 8)
        assert torch.allclose(stored(x), own(x), atol=1e-5)
    subject, card = registry.fetch_subject(registered.uri, uri, lambda text: None)
    assert torch.allclose(subject.load(torch.device("cpu"))(x), own(x), atol=1e-5)
    assert card["claim"]["robust_accuracy"] == 0.5


def test_a_stored_model_that_differs_is_not_registered(weights: Weights, uri: str, monkeypatch):
    other = weights.load(torch.device("cpu"))
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    monkeypatch.setattr(registry, "load", lambda address: other)
    with pytest.raises(RunError, match="differ from the evaluated"):
        register(weights, uri, claim(0.5), name="differs")
    assert tracking.client(uri).search_model_versions("name = 'differs'") == []


def test_pull_is_whole_or_not_at_all(weights: Weights, uri: str, tmp_path: Path):
    registered = register(weights, uri, claim(0.5), name="pulled")
    card = registry.pull("models:/pulled@champion", tmp_path / "here", uri)
    assert card == json.loads((tmp_path / "here" / "card.json").read_text())
    assert file_sha256(tmp_path / "here" / "weights.safetensors") == file_sha256(weights.path)
    with pytest.raises(InputError, match="is there already"):
        registry.pull(registered.uri, tmp_path / "here", uri)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("models:/told/99", "registered there"),
        ("models:/nobody@champion", "registered there"),
        ("models:/told@winner", "registered there"),
        ("told", "models:/NAME/VERSION"),
        ("models:/told/latest", "models:/NAME/VERSION"),
        ("runs:/abc/model", "models:/NAME/VERSION"),
    ],
)
def test_a_wrong_address_is_explained(address: str, words: str, weights: Weights, uri: str, tmp_path: Path):
    register(weights, uri, claim(0.5), name="told")
    with pytest.raises(RegistryError, match=words):
        registry.pull(address, tmp_path / "here", uri)
    assert list(tmp_path.iterdir()) == []


def test_card_of_data_is_enough_to_name_a_model(tmp_path: Path):
    card = Card(
        distrib_version="0", job={}, job_digest="", split="train", count=1, classes=("a", "b"), image=(8, 8, 1),
        encoding="array", file="train.beton", size_bytes=1, sha256="", content_sha256="", mean=(0.0,), std=(1.0,),
        fingerprint="",
    )  # fmt: skip
    subject = Weights.of({"arch": "small_cnn"}, card, tmp_path / "none")
    assert (subject.image, subject.num_classes) == ((8, 8, 1), 2)

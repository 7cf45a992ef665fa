"""Claims, cards and registered versions, made up for tests of what is done with them."""

import json
from dataclasses import replace
from itertools import count

import numpy as np
from safetensors.numpy import load_file, save, save_file

from distrib.data.beton import DataCard
from distrib.evaluation.attacks import Evaluation, EvaluationPlan, Transfer
from distrib.evaluation.card import Card, Origin, markdown
from distrib.evaluation.flags import Flag
from distrib.evaluation.models import Weights
from distrib.evaluation.result import Result, wilson
from distrib.files import file_sha256
from distrib.registry import champion, store
from distrib.threat import Linf
from distrib.tracking.mlflow_run import MLflowRun

NUMBER = count(1)
FLAGGED = (Flag(name="zero_gradients", blocking=True, detail="x"),)
STANDARD = Evaluation(tier="standard").plan(Linf(epsilon=0.1), grey=True)


def claim(robust: float, **changes) -> Result:
    names = [attack.name for attack in STANDARD.attacks]
    whole = {
        "tier": "standard", "clean_accuracy": 0.9, "n_clean": 100, "robust_accuracy": robust,
        "interval": wilson(round(robust * 100), 100), "n": 100, "attacks": dict.fromkeys(names, robust),
        "attacks_n": dict.fromkeys(names, 100), "cumulative": ("autoattack",),
        "attack_seconds": dict.fromkeys(names, 1.0), "largest_change": dict.fromkeys(names, 0.1),
        "stages": {"apgd-ce": robust}, "restarts": {}, "epsilon_curve": ((1.0, 0.0, 100),),
        "norm": "linf", "epsilon": 0.1, "seed": 0, "examples_sha256": "e" * 64, "flags": (),
    }  # fmt: skip
    return Result(**(whole | changes))


def card(
    claimed: Result, sha256: str, data: str = "d" * 64, suite: EvaluationPlan = STANDARD, init: dict | None = None
) -> Card:
    suite = suite.model_copy(update={"seed": claimed.seed})
    job = {
        "data": {"source": "digits"},
        "model": {"arch": "small_cnn", "width": 0.25},
        "name": "some",
        "evaluation": suite.model_dump(mode="json"),
    }
    contents = {one.source: "0" * 64 for one in suite.attacks if isinstance(one, Transfer)}
    test = DataCard.model_construct(image=(8, 8, 1), classes=tuple("0123456789"), content_sha256=data)
    return Card.of(claimed, suite, test, Origin("some", sha256, contents, job, "j" * 64, init), None)


def entry(weights: Weights, claimed: Result, data: str = "d" * 64, suite: EvaluationPlan = STANDARD) -> store.Entry:
    batch = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    whole = card(claimed, file_sha256(weights.path), data, suite)
    shown = {"image": np.zeros((2, 1, 8, 8), np.uint8), "label": np.array([3, 4]), "index": np.array([0, 1])}
    more = {"examples.csv": of(claimed).encode(), "test_images.safetensors": save(shown)}
    return store.Entry(weights, whole, files(whole) | more, batch)


def files(whole: Card) -> dict[str, bytes]:
    return {"card.json": json.dumps(whole.plain()).encode(), "card.md": markdown(whole).encode()}


def another(weights: Weights) -> Weights:
    """Other weights of the same network: each of its copies differs in one number."""
    tensors = load_file(weights.path)
    name = min(name for name, tensor in tensors.items() if tensor.dtype == np.float32)
    tensors[name].flat[0] += 0.01 * next(NUMBER)
    path = weights.path.with_name(f"{next(NUMBER)}.safetensors")
    save_file(tensors, path)
    return replace(weights, path=path)


def fates(robust: str, clean: str | None = None, first: int = 100) -> str:
    """A card's examples: ``"10."`` stood, did not, was not asked for every attack."""
    rows = zip(clean or "1" * len(robust), robust, strict=True)
    lines = [f"{first + i},0,0,{hit},{'' if fate == '.' else fate}" for i, (hit, fate) in enumerate(rows)]
    return "\n".join(["index,label,predicted,clean,worst", *lines]) + "\n"


def of(claimed: Result) -> str:
    """The examples of a claim: the first so many of its images stood."""
    stood = round(claimed.robust_accuracy * claimed.n)
    return fates("1" * stood + "0" * (claimed.n - stood))


def register(
    weights: Weights, uri: str, claimed: Result, name: str = "gate", data: str = "d" * 64,
    examples: str | None = None, suite: EvaluationPlan = STANDARD, same: bool = False,
) -> store.Registered:  # fmt: skip
    """A version of weights of its own, or of the ``same`` ones; its examples are those of its claim, if not given."""
    tracker = MLflowRun(uri, "tests", "some", None, {})
    whole = entry(weights if same else another(weights), claimed, data, suite)
    try:
        keep(tracker, whole.card, examples)
        return store.register(whole, name, tracker)
    finally:
        tracker.close("FINISHED")


def attach(
    weights: Weights, uri: str, address: str, claimed: Result, data: str = "d" * 64,
    examples: str | None = None, suite: EvaluationPlan = STANDARD,
) -> str:  # fmt: skip
    """A later evaluation of a registered version, as ``kind: evaluate`` records it."""
    tracker = MLflowRun(uri, "tests", "later", None, {})
    whole = entry(weights, claimed, data, suite)
    try:
        keep(tracker, whole.card, examples)
        return store.attach(address, whole.card, tracker)
    finally:
        tracker.close("FINISHED")


def keep(tracker: MLflowRun, whole: Card, examples: str | None = None) -> None:
    """Stores the card's files with its run; its examples are those of its claim, if not given."""
    table = of(whole.claim) if examples is None else examples
    for file, content in {**files(whole), "examples.csv": table.encode()}.items():
        tracker.text(content.decode(), f"card/{file}")


def judged(
    uri: str, name: str, claimed: Result, weights: str, version: str | None = None, data: str = "d" * 64,
    examples: str | None = None, suite: EvaluationPlan = STANDARD,
) -> str:  # fmt: skip
    """What becomes of champion by a card of a ``version``, or of a new one: with tags and cards, but without files."""
    tracker = MLflowRun(uri, "tests", "judged", None, {})
    client, whole = tracker.client, card(claimed, weights * 64, data, suite)
    if version is None:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(name, "file:///nowhere", tags={"weights_sha256": weights * 64})
        version = str(made.version)
    keep(tracker, whole, examples)
    words = champion.promote(name, version, whole, tracker)
    tracker.close("FINISHED")
    return words

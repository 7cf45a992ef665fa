"""Claims, cards and registered versions, made up for tests of what is done with them."""

import json

import numpy as np

from distrib import registry, tracking
from distrib.evaluate.card import Card, markdown
from distrib.evaluate.claim import Claim, wilson
from distrib.evaluate.subject import Weights
from distrib.evaluate.suite import Evaluation
from distrib.files import file_sha256
from distrib.threat import Linf

STANDARD = Evaluation(tier="standard").resolved(Linf(epsilon=0.1), grey=True)


def claim(robust: float, **changes) -> Claim:
    names = [attack.name for attack in STANDARD.attacks]
    whole = {
        "tier": "standard", "clean_accuracy": 0.9, "n_clean": 100, "robust_accuracy": robust,
        "interval": wilson(round(robust * 100), 100), "n": 100, "attacks": dict.fromkeys(names, robust),
        "attacks_n": dict.fromkeys(names, 100), "cumulative": ("autoattack",),
        "attack_seconds": dict.fromkeys(names, 1.0), "largest_change": dict.fromkeys(names, 0.1),
        "stages": {"apgd-ce": robust}, "restarts": {}, "epsilon_curve": ((1.0, 0.0, 100),),
        "norm": "linf", "epsilon": 0.1, "seed": 0, "examples_sha256": "e" * 64, "flags": (),
    }  # fmt: skip
    return Claim(**(whole | changes))


def entry(weights: Weights, claimed: Claim, data: str = "d" * 64, suite: Evaluation = STANDARD) -> registry.Entry:
    batch = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    job = {"data": {"source": "digits"}, "name": "some"}
    card = Card.of(
        claimed,
        suite,
        {},
        "some",
        file_sha256(weights.path),
        (8, 8, 1),
        tuple("0123456789"),
        "digits",
        data,
        job,
        "j" * 64,
    )
    files = {"card.json": json.dumps(card.plain()).encode(), "card.md": markdown(card).encode()}
    return registry.Entry(weights, card, files, batch)


def register(
    weights: Weights, uri: str, claimed: Claim, name: str = "gate", data: str = "d" * 64, examples: str = "",
    suite: Evaluation = STANDARD,
) -> registry.Registered:  # fmt: skip
    tracker = tracking.Tracker(uri, "tests", "some", None, {})
    whole = entry(weights, claimed, data, suite)
    try:
        for file, content in {**whole.files, "examples.csv": examples.encode()}.items():
            tracker.text(content.decode(), f"card/{file}")
        return registry.register(whole, name, tracker)
    finally:
        tracker.close("FINISHED")


def attach(weights: Weights, uri: str, address: str, claimed: Claim, data: str = "d" * 64) -> str:
    """A later evaluation of a registered version, as ``kind: evaluate`` records it."""
    tracker = tracking.Tracker(uri, "tests", "later", None, {})
    whole = entry(weights, claimed, data)
    try:
        for file, content in whole.files.items():
            tracker.text(content.decode(), f"card/{file}")
        return registry.attach(address, whole.card, tracker)
    finally:
        tracker.close("FINISHED")

"""Which version of a model is the best one: the alias ``champion``, its gate, and the record of every decision.

``champion`` moves only on a robustness card of tier standard or higher, without a blocking flag, and with a higher
robust accuracy than the present champion's on the same terms: threat, attacks, examples. Every decision, promotion or
refusal, stays on the registered model as a tag ``promotion.TIME``.
"""

import json
from datetime import UTC, datetime

from distrib.errors import RegistryError
from distrib.evaluate.card import Card, markdown
from distrib.tracking import Tracker, client

CHAMPION = "champion"
TERMS = ("norm", "epsilon", "attacks", "n", "data_sha256", "examples_sha256")
"""The tags that two versions must share for their robust accuracies to be compared."""
STRENGTH = {"custom": 0, "quick": 1, "paper": 2, "standard": 3, "paranoid": 4}
"""Tiers by what they are worth."""


def judge(name: str, number: str, card: Card, tracker: Tracker) -> str:
    """Gives a version its card, and moves ``champion`` to it if it is better on the same terms.

    A card of a lower tier than the version's own, or of fewer images, is kept beside it, under ``card.TIER``. Returns
    the decision in words.
    """
    version = tracker.client.get_model_version(name, number)
    known = STRENGTH.get(version.tags.get("tier", ""), -1), int(version.tags.get("n", 0))
    tracker.client.set_model_version_tag(name, number, f"card.{card.claim.tier}", tracker.run_id)
    if STRENGTH[card.claim.tier] >= known[0] and card.claim.n >= known[1]:
        for key, value in (card.tags() | {"card_run": tracker.run_id}).items():
            tracker.client.set_model_version_tag(name, number, key, value)
        tracker.client.update_model_version(name, number, markdown(card))
    present = _champion(name, tracker)
    refusal = _refusal(card, number, present)
    if refusal is None:
        tracker.client.set_registered_model_alias(name, CHAMPION, number)
    before = float(present.tags["robust_accuracy"]) if present else None
    had = f"version {present.version} had {before:.2%}" if present else "there was none before"
    decision = f"champion: {had}" if refusal is None else refusal
    record = {
        "version": number,
        "decision": "promoted" if refusal is None else "refused",
        "reason": decision,
        "previous": present and str(present.version),
        "terms": {term: card.tags()[term] for term in TERMS},
        "tier": card.claim.tier,
        "robust_accuracy": card.claim.robust_accuracy,
        "previous_robust_accuracy": before,
        "clean_accuracy": card.claim.clean_accuracy,
        "flags": [flag.name for flag in card.claim.flags],
        "run_id": tracker.run_id,
    }
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    tracker.client.set_registered_model_tag(name, f"promotion.{now}", json.dumps(record))
    tracker.text(json.dumps({"model": name, "time": now, **record}, indent=2), "promotion.json")
    tracker.client.set_model_version_tag(name, number, "champion_decision", decision)
    return decision


def _champion(name: str, tracker: Tracker):
    from mlflow.exceptions import MlflowException

    try:
        return tracker.client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None


def _refusal(card: Card, number: str, present) -> str | None:
    """Why the version does not become champion; None if it does."""
    if present is not None and str(present.version) == number:
        if card.blocking:
            return f"champion stays, though flagged: {', '.join(card.blocking)}; judge another version, or take it away"
        return "champion already"
    if card.blocking:
        return f"not champion: {', '.join(card.blocking)}"
    if STRENGTH[card.claim.tier] < STRENGTH["standard"]:
        return f"not champion: tier {card.claim.tier}; it takes AutoAttack (tier standard) to become one"
    if present is None:
        return None
    mine, theirs = card.tags(), present.tags
    other = [f"{term} {theirs.get(term)}, not {mine[term]}" for term in TERMS if theirs.get(term) != mine[term]]
    if other:
        return f"not champion: version {present.version} was judged on other terms ({'; '.join(other)})"
    if card.claim.robust_accuracy <= float(theirs["robust_accuracy"]) + 5e-5:
        return f"not champion: version {present.version} has {float(theirs['robust_accuracy']):.2%}"
    return None


def history(name: str, uri: str) -> list[dict]:
    """Every decision about ``champion`` of a registered model, oldest first. Raises :class:`RegistryError`."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client(uri).get_registered_model(name).tags
    except MlflowException:
        raise RegistryError(f"{name}: no such registered model in {uri} (see distrib models)") from None
    found = sorted(
        (key.removeprefix("promotion."), value) for key, value in tags.items() if key.startswith("promotion.")
    )
    return [{"time": time, **json.loads(value)} for time, value in found]

"""Which version of a model is the best one: the alias ``champion``, its gate, and the record of every decision.

``champion`` moves only on a robustness card of tier standard or higher, without a blocking flag, and with a higher
robust accuracy than the present champion's on the same terms: threat, attacks, examples. A champion that was flagged
since is no bar. Every decision, promotion or refusal, stays on the registered model as a tag ``promotion.TIME``.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from distrib.errors import RegistryError
from distrib.evaluate.card import Card, markdown
from distrib.tracking import Tracker, client, sought

CHAMPION = "champion"
QUESTION = ("norm", "epsilon", "data_sha256")
"""The tags that say what a version was asked. Its own card stays with one question; others are kept beside it."""
TERMS = (*QUESTION, "attacks_sha256", "n", "examples_sha256")
"""The tags that two versions must share for their robust accuracies to be compared."""
STRENGTH = {"custom": 0, "quick": 1, "paper": 2, "standard": 3, "paranoid": 4}
"""Tiers by what they are worth."""
AT_LEAST = 50
"""Images of a champion's card: on fewer, no suspicion has the power to speak."""


def judge(name: str, number: str, card: Card, tracker: Tracker) -> str:
    """Gives a version its card, and moves ``champion`` to it if it is better on the same terms.

    A card of a lower tier than the version's own, of fewer images, or of another threat or data set is kept beside it,
    under ``card.TIER`` or ``card.TIER.NORM-EPSILON-DATA``. Returns the decision in words.
    """
    tags, mine = tracker.client.get_model_version(name, number).tags, card.tags()
    asked_alike = all(tags.get(term, mine[term]) == mine[term] for term in QUESTION)
    known = STRENGTH.get(tags.get("tier", ""), -1), int(tags.get("n", 0))
    own = asked_alike and STRENGTH[card.claim.tier] >= known[0] and card.claim.n >= known[1]
    question = "" if asked_alike else f".{mine['norm']}-{mine['epsilon']}-{mine['data_sha256'][:8]}"
    tracker.client.set_model_version_tag(name, number, f"card.{card.claim.tier}{question}", tracker.run_id)
    if own:
        for key in tags:
            if key.startswith("accuracy.") and key not in mine:
                tracker.client.delete_model_version_tag(name, number, key)
        for key, value in (mine | {"card_run": tracker.run_id}).items():
            tracker.client.set_model_version_tag(name, number, key, value)
        tracker.client.update_model_version(name, number, markdown(card))
        tags = mine
    present = sought(lambda: tracker.client.get_model_version_by_alias(name, CHAMPION))
    refusal = _refusal(card, number, present, tags, own)
    if refusal is None:
        tracker.client.set_registered_model_alias(name, CHAMPION, number)
    before = float(present.tags["robust_accuracy"]) if present and "robust_accuracy" in present.tags else None
    decision = f"champion: {_had(present)}" if refusal is None else refusal
    record = {
        "version": number,
        "decision": "promoted" if refusal is None else "refused",
        "reason": decision,
        "previous": present and str(present.version),
        "terms": {term: mine[term] for term in ("attacks", *TERMS)},
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


def _refusal(card: Card, number: str, present, tags: dict[str, str], own: bool) -> str | None:
    """Why the version, whose own card says ``tags``, does not become champion; None if it does."""
    if present is not None and str(present.version) == number:
        if card.blocking:
            return f"champion stays, though flagged: {', '.join(card.blocking)}; judge another version, or take it away"
        return "champion already"
    if card.blocking:
        return f"not champion: {', '.join(card.blocking)}"
    if STRENGTH[card.claim.tier] < STRENGTH["standard"]:
        return f"not champion: tier {card.claim.tier}; it takes AutoAttack (tier standard) to become one"
    if not own:
        stands = f"tier {tags['tier']}, n {tags['n']}, {tags['norm']} epsilon {tags['epsilon']}"
        return f"not champion: the version's own card stands beside this one ({stands}, flags {tags['flags']})"
    if card.claim.n < AT_LEAST:
        return f"not champion: judged on {card.claim.n} images; it takes {AT_LEAST} to become one"
    if present is None or "robust_accuracy" not in present.tags or _flagged(present):
        return None
    other = different(present.tags, tags)
    if other:
        return f"not champion: version {present.version} was judged on other terms ({'; '.join(other)})"
    if card.claim.robust_accuracy <= float(present.tags["robust_accuracy"]) + 5e-5:
        return f"not champion: version {present.version} has {float(present.tags['robust_accuracy']):.2%}"
    return None


def _flagged(version) -> str:
    """The blocking flags of a version's own card: its figure is no bar for others."""
    flags = version.tags.get("blocking", "none")
    return "" if flags == "none" else flags


def _had(present) -> str:
    """What the champion before had to show."""
    if present is None:
        return "there was none before"
    if "robust_accuracy" not in present.tags:
        return f"version {present.version} had no card"
    flags = f", flagged {_flagged(present)}" if _flagged(present) else ""
    return f"version {present.version} had {float(present.tags['robust_accuracy']):.2%}{flags}"


def different(a: Mapping, b: Mapping) -> list[str]:
    """What keeps two cards' figures from being compared, in words; both hold ``attacks`` and :data:`TERMS`."""
    found = [term for term in TERMS if a.get(term) != b.get(term)]
    if "attacks_sha256" in found and a.get("attacks") == b.get("attacks"):
        return [f"the attacks {a.get('attacks')} with other settings"]
    named = ["attacks" if term == "attacks_sha256" else term for term in found]
    return [f"{term} {a.get(term)} against {b.get(term)}" for term in named]


def history(name: str, uri: str) -> list[dict]:
    """Every decision about ``champion`` of a registered model, oldest first. Raises :class:`RegistryError`."""
    registry = client(uri)
    model = sought(lambda: registry.get_registered_model(name))
    if model is None:
        raise RegistryError(f"{name}: no such registered model in {uri} (see distrib models)")
    found = sorted(
        (key.removeprefix("promotion."), value) for key, value in model.tags.items() if key.startswith("promotion.")
    )
    return [{"time": time, **json.loads(value)} for time, value in found]

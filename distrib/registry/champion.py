"""Which version of a model is the best one: the alias ``champion``, its gate, and the record of every decision.

``champion`` moves only on a robustness card of tier standard or higher, without a blocking flag, to a version that
stands on more images than the present champion, on the same terms (:data:`distrib.registry.cards.TERMS`), by McNemar's
exact test: a difference that chance explains moves nothing. Whoever wants another version all the same sets the alias
``champion`` in MLflow.

All cards of a version count, and those of other versions with the same weights: an image that broke under one seed is
broken, a blocking flag stays. A champion that was flagged since is no bar, but its terms are. Every decision, promotion
or refusal, stays on the registered model as a tag (:data:`distrib.registry.cards.KEPT`).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from distrib.errors import RegistryError
from distrib.evaluation.card import Card, markdown
from distrib.registry.cards import (
    DRAWN,
    KEPT,
    QUESTION,
    SETTING,
    TERMS,
    Kept,
    different,
    kept,
    kept_decisions,
    pooled,
    same,
)
from distrib.registry.paired import Paired, paired
from distrib.tracking import limits
from distrib.tracking.client import connect, or_none
from distrib.tracking.tracker import Tracker
from distrib.values import shown_radius

CHAMPION = "champion"
WRITTEN_BY_US = "An image classifier trained by distrib to withstand adversarial attack."
"""How a description begins that distrib wrote, and may write anew."""
STRENGTH = {"custom": 0, "quick": 1, "paper": 2, "standard": 3, "paranoid": 4}
"""Tiers by what they are worth."""
AT_LEAST = 50
"""Images of a champion's card: on fewer, no flag has the power to be raised."""
SIGNIFICANT = 0.05
"""A champion's successor is better with a smaller p, one-sided."""
OF_ATTACKS = ("listed_attacks_too_weak",)
"""Blocking flags that other attacks answer; any other stays with the weights, however they are judged again."""


BY_HAND = "to move it all the same, set the alias champion in MLflow"


@dataclass(frozen=True)
class Decision:
    """What becomes of ``champion``."""

    promoted: bool
    words: str
    pairs: Paired | None = None
    """The present champion (a) and the version (b) on the same images, where they were compared."""
    seeds: tuple[int, ...] = ()
    """Of the evaluations that they were compared by."""


def promote(name: str, number: str, card: Card, tracker: Tracker) -> str:
    """Gives a version its card, and moves ``champion`` to it if it is better on the same terms.

    A card of a lower tier than the version's own, of fewer images, or of another threat or data set is kept beside it,
    under ``card.TIER`` or ``card.TIER.NORM-EPSILON-DATA``; one of the same tier and number with a better figure, under
    ``card.TIER.seed-SEED``. Returns the decision in words.
    """
    registry = connect(tracker.uri)
    tags, mine = registry.get_model_version(name, number).tags, card.tags()
    terms = {term: mine[term] for term in ("attacks", *TERMS)}
    weights = tags.get("weights_sha256", card.weights_sha256)
    this = Kept(number, weights, tracker.run_id, card.claim.tier, terms, card.blocking)
    whole = [one for one in kept(registry, name) if (one.version, one.run_id) != (number, tracker.run_id)] + [this]
    flags = _flags(_of_version(whole, number, weights), terms)

    asked_alike = all(same(term, tags.get(term, mine[term]), mine[term]) for term in QUESTION)
    known = STRENGTH.get(tags.get("tier", ""), -1), int(tags.get("n", 0))
    given = STRENGTH[card.claim.tier], card.claim.n
    own = asked_alike and given[0] >= known[0] and given[1] >= known[1]
    taken = own and (given != known or _worse(mine, tags))
    beside = f".{mine['norm']}-{mine['epsilon']}-{mine['data_sha256'][:8]}" if not asked_alike else ""
    beside += f".seed-{mine['seed']}" if own and not taken else ""
    limits.tag_version(registry, name, number, {f"card.{card.claim.tier}{beside}": tracker.run_id})
    if taken:
        stays = limits.version_tags(mine)
        for key in tags:
            if key.startswith("accuracy.") and key not in stays:
                registry.delete_model_version_tag(name, number, key)
        tags = mine | {"card_run": tracker.run_id}
        place = f"the artifact card/card.md of the run {tracker.run_id}"
        here = card.model_copy(update={"model": f"models:/{name}/{number}"})
        limits.describe_version(registry, name, number, _description(here, flags), place)
    if own:
        shown = [flag for flag in tags["flags"].split(",") if flag != "none"]
        shown += [flag for flag in flags if flag not in shown]
        flagged = {"flags": ",".join(shown) or "none", "blocking": ",".join(flags) or "none"}
        tags = tags | flagged
        limits.tag_version(registry, name, number, tags if taken else flagged, "in the artifact card/card.json")

    present = or_none(lambda: registry.get_model_version_by_alias(name, CHAMPION))
    refusal = _known(number, present, flags) or _refusal(card, tags, own, flags)
    decision = Decision(False, refusal) if refusal else _challenge(name, this, present, whole)
    if decision.promoted:
        registry.set_registered_model_alias(name, CHAMPION, number)
    best = decision.promoted or (present is not None and str(present.version) == number)
    if present is None or decision.promoted or (best and taken):
        _describe(registry, name, number if best else "", card)
    record = {
        "version": number,
        "decision": "promoted" if decision.promoted else "refused",
        "reason": decision.words,
        "previous": present and str(present.version),
        "terms": terms,
        "tier": card.claim.tier,
        "robust_accuracy": card.claim.robust_accuracy,
        "previous_robust_accuracy": _figure(present),
        "clean_accuracy": card.claim.clean_accuracy,
        "flags": [flag.name for flag in card.claim.flags],
        "blocking": list(card.blocking),
        "weights_sha256": weights,
        "run_id": tracker.run_id,
    }
    if decision.pairs is not None:
        pairs = decision.pairs
        record["compared"] = {
            "n": pairs.n, "previous": pairs.a, "version": pairs.b, "only_previous": pairs.only_a,
            "only_version": pairs.only_b, "p": pairs.p_better, "seeds": list(decision.seeds),
        }  # fmt: skip
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    limits.tag_model(registry, name, f"{KEPT}{now}", record)
    tracker.text(json.dumps({"model": name, "time": now, **record}, indent=2), "promotion.json")
    told = {"champion_decision": decision.words}
    limits.tag_version(registry, name, number, told, f"in the artifact promotion.json of the run {tracker.run_id}")
    return decision.words


def standing_flags(registry: Any, found: Any) -> list[str]:
    """The blocking flags of a version that stand: those of all its cards, and of other versions of the same weights."""
    tagged = [flag for flag in found.tags.get("blocking", "none").split(",") if flag != "none"]
    mine = _of_version(kept(registry, found.name), str(found.version), found.tags.get("weights_sha256"))
    return list(dict.fromkeys([*tagged, *_flags(mine, found.tags)]))


def _of_version(whole: Iterable[Kept], number: str, weights: str | None) -> list[Kept]:
    """All that was found out about a version: its cards, and those of other versions with the same weights."""
    return [one for one in whole if one.version == number or (weights and one.weights_sha256 == weights)]


def _flags(cards: Iterable[Kept], terms: dict) -> list[str]:
    """The blocking flags of these cards that still hold for a card of these terms: those of the same data."""
    found = {
        flag: None
        for one in cards
        for flag in one.blocking
        if same("data_sha256", one.terms.get("data_sha256"), terms.get("data_sha256"))
        and (flag not in OF_ATTACKS or same("", one.terms.get("attacks_sha256"), terms.get("attacks_sha256")))
    }
    return list(found)


def _worse(mine: dict[str, str], tags: dict[str, str]) -> bool:
    """Whether a card takes the place of one of the same tier and number: flagged, or not better."""
    if "robust_accuracy" not in tags:
        return True
    a, b = ((one["blocking"] == "none", float(one["robust_accuracy"])) for one in (mine, tags))
    return a <= b


def _describe(registry: Any, name: str, best: str, card: Card) -> None:
    """Says of a registered model what it is, which version is the best, and how to get it; a person's words stay."""
    before = registry.get_registered_model(name).description or ""
    if before and not before.startswith(WRITTEN_BY_US):
        return
    claim = card.claim
    figure = (
        f"{claim.robust_accuracy:.2%} of {claim.n} test images of {card.data} withstand every attack, {claim.norm} "
    )
    figure += f"up to {shown_radius(claim.epsilon)} (tier {claim.tier}); {claim.clean_accuracy:.2%} without one"
    doubt = f" Do not use this figure: {', '.join(card.blocking)}." if card.blocking else ""
    told = f"The best version is {best} (champion): {figure}.{doubt}" if best else "No version is champion yet."
    alias = CHAMPION if best else "latest-robust"
    get = f"    distrib pull {name}@{alias} DIR\n    net = distrib.load('models:/{name}@{alias}')"
    text = f"{WRITTEN_BY_US} {told} Each version has its robustness card as description.\n\n{get}\n"
    limits.describe_model(registry, name, text)


def _description(card: Card, flags: Sequence[str]) -> str:
    earlier = [flag for flag in flags if flag not in card.blocking]
    warning = f"> **Do not use this figure**: {', '.join(earlier)}, on another card of these weights.\n\n"
    return (warning if earlier else "") + markdown(card)


def _known(number: str, present, flags: Sequence[str]) -> str | None:
    """What is said of a version that is the ``present`` champion; None for any other version."""
    if present is None or str(present.version) != number:
        return None
    if flags:
        return f"champion stays, though flagged: {', '.join(flags)}; judge another version, or take it away"
    return "champion already"


def _refusal(card: Card, tags: dict[str, str], own: bool, flags: Sequence[str]) -> str | None:
    """Why a version, whose own card says ``tags``, cannot become champion whatever the present one is; else None."""
    if card.blocking:
        return f"not champion: {', '.join(card.blocking)}"
    if STRENGTH[card.claim.tier] < STRENGTH["standard"]:
        return f"not champion: tier {card.claim.tier}; it takes AutoAttack (tier standard) to become one"
    if not own:
        stands = f"tier {tags['tier']}, n {tags['n']}, {tags['norm']} epsilon {tags['epsilon']}"
        return f"not champion: the version's own card stands beside this one ({stands}, flags {tags['flags']})"
    if card.claim.n < AT_LEAST:
        return f"not champion: judged on {card.claim.n} images; it takes {AT_LEAST} to become one"
    if flags:
        return f"not champion: {', '.join(flags)}, on another card of these weights; a flag stays"
    return None


def _challenge(name: str, this: Kept, present, whole: list[Kept]) -> Decision:
    """Whether the version of ``this`` card takes the place of the ``present`` champion."""
    if present is None:
        return Decision(True, "champion: there was none before")
    before, weights = f"version {present.version}", present.tags.get("weights_sha256")
    if weights is not None and weights == this.weights_sha256:
        return Decision(False, f"not champion: the same weights as {before}, whose record counts for both")
    figure = _figure(present)
    if figure is None:
        return Decision(True, f"champion: {before} had no card")
    theirs = [one for one in _of_version(whole, str(present.version), weights) if STRENGTH[one.tier] >= 3]
    mine = [one for one in _of_version(whole, this.version, this.weights_sha256) if _kind(one, this)]
    if not theirs:
        words = f"not champion: {before} has no card of tier standard; judge models:/{name}/{present.version}"
        return Decision(False, f"{words} (kind: evaluate); {BY_HAND}")
    pairs = [(a, b) for a in theirs for b in mine if not different(a.terms, b.terms)]
    if not pairs:
        nearest = min(theirs, key=lambda one: len(different(one.terms, this.terms))).terms
        words = f"not champion: {before} was judged on other terms ({'; '.join(different(nearest, this.terms))})"
        return Decision(False, f"{words}; judge this one as that was{_settings(nearest, this.terms)}; {BY_HAND}")
    flags = _flags(_of_version(whole, str(present.version), weights), this.terms)
    if flags:
        return Decision(True, f"champion: {before} had {figure:.2%}, flagged {', '.join(flags)}")
    try:
        found = paired(*(pooled({one.run_id: one for one in side}.values()) for side in zip(*pairs, strict=True)))
    except RegistryError as error:
        return Decision(False, f"not champion: it cannot be compared with {before}: {error}; judge both anew")
    seeds = tuple(sorted({int(one.terms["seed"]) for one, _ in pairs}))
    return _compared(before, found, seeds)


def _compared(before: str, found: Paired, seeds: tuple[int, ...]) -> Decision:
    over = f" over the seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    if found.b <= found.a:
        words = f"not champion: {before} has {found.a:.2%}{over}, this one {found.b:.2%} of the same {found.n} images"
        return Decision(False, words, found, seeds)
    counts = f"better on {found.only_b} and worse on {found.only_a} of {found.n} images{over}, p = {found.p_better:.2g}"
    if found.p_better < SIGNIFICANT:
        return Decision(True, f"champion: {before} had {found.a:.2%}, this one {found.b:.2%} ({counts})", found, seeds)
    words = (
        f"not champion: {before} has {found.a:.2%}, this one {found.b:.2%}, which is not significant ({counts}; it "
        f"takes {SIGNIFICANT}); {BY_HAND}"
    )
    return Decision(False, words, found, seeds)


def _kind(one: Kept, other: Kept) -> bool:
    """Whether two cards differ at most in random numbers and in the images drawn."""
    terms = [term for term in TERMS if term not in (*DRAWN, "examples_sha256")]
    return all(same(term, one.terms.get(term), other.terms.get(term)) for term in terms)


def _settings(wanted: dict, given: dict) -> str:
    """What a job that judges says differently, where one field each says it."""
    other = [term for term in SETTING if wanted.get(term) is not None and not same(term, wanted[term], given.get(term))]
    return f" ({', '.join(f'{SETTING[term]}: {wanted[term]}' for term in other)})" if other else ""


def _figure(present) -> float | None:
    """The robust accuracy of the champion before, if it has a card."""
    return float(present.tags["robust_accuracy"]) if present and "robust_accuracy" in present.tags else None


def decision_history(name: str, uri: str) -> list[dict]:
    """Every decision about ``champion`` of a registered model, oldest first. Raises :class:`RegistryError`."""
    registry = connect(uri)
    model = or_none(lambda: registry.get_registered_model(name))
    if model is None:
        raise RegistryError(f"{name}: no such registered model in {uri} (see distrib models)")
    return [{"time": time, **record} for time, record in kept_decisions(model.tags).items()]

"""Two model versions on the same examples, image by image."""

from dataclasses import asdict

from distrib.errors import RegistryError
from distrib.registry import versions
from distrib.registry.cards import Kept, different, fetch, kept, outcomes, terms_of
from distrib.registry.champion import STRENGTH
from distrib.registry.listing import find
from distrib.registry.paired import paired


def compare(a: str, b: str, uri: str, tier: str | None = None) -> dict:
    """What both robustness cards say of the same images, paired, with McNemar's exact test (McNemar 1947).

    ``tier`` chooses among a version's cards; None: its best one, or, where those were judged on other terms, the pair
    of the strongest tier and the most images that was judged on equal ones. Raises :class:`RegistryError` where a
    version has no card, or no two share their terms: threat, attacks, number of images, seed, shards, data, examples.
    """
    (card_a, rows_a), (card_b, rows_b) = (versions.fetch_card(address, uri, tier) for address in (a, b))
    terms_a, terms_b = terms_of(card_a), terms_of(card_b)
    other = different(terms_a, terms_b)
    if other:
        pair = _on_equal_terms(a, b, uri) if tier is None else None
        if pair is None:
            raise RegistryError(
                f"{a} and {b} were judged on other terms and cannot be compared ({'; '.join(other)}); judge both by "
                "distrib evaluate with the same --tier, --epsilon, --n and --set, and compare them again"
            )
        (card_a, rows_a), (card_b, rows_b) = (fetch(one.run_id) for one in pair)
        terms_a = terms_of(card_a)
    return {
        "kind": "compare",
        "a": a,
        "b": b,
        "terms": terms_a,
        "clean": asdict(paired(outcomes(rows_a, "clean"), outcomes(rows_b, "clean"))),
        "robust": asdict(paired(outcomes(rows_a, "worst"), outcomes(rows_b, "worst"))),
        "flags_a": [flag["name"] for flag in card_a["claim"]["flags"]],
        "flags_b": [flag["name"] for flag in card_b["claim"]["flags"]],
    }


def _on_equal_terms(a: str, b: str, uri: str) -> tuple[Kept, Kept] | None:
    """Of all evaluations of two versions the pair on equal terms with the strongest tier and the most images."""
    (registry, one), (_, other) = (find(address, uri) for address in (a, b))
    mine, theirs = (
        [card for card in kept(registry, found.name) if card.version == str(found.version)] for found in (one, other)
    )
    pairs = [(x, y) for x in mine for y in theirs if not different(x.terms, y.terms)]
    return max(pairs, key=lambda pair: (STRENGTH.get(pair[0].tier, 0), int(pair[0].terms["n"])), default=None)

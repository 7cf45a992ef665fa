"""Two model versions on the same examples, image by image."""

from dataclasses import asdict

from distrib.errors import RegistryError
from distrib.registry import versions
from distrib.registry.cards import different, outcomes, terms_of
from distrib.registry.paired import paired


def compare(a: str, b: str, uri: str, tier: str | None = None) -> dict:
    """What both robustness cards say of the same images, paired, with McNemar's exact test (McNemar 1947).

    ``tier`` chooses among a version's cards; None: its best one. Raises :class:`RegistryError` where a version has no
    card, or the two were judged on other terms: threat, attacks, number of images, seed, shards, data, examples.
    """
    (card_a, rows_a), (card_b, rows_b) = (versions.fetch_card(address, uri, tier) for address in (a, b))
    terms_a, terms_b = terms_of(card_a), terms_of(card_b)
    other = different(terms_a, terms_b)
    if other:
        raise RegistryError(
            f"{a} and {b} were judged on other terms and cannot be compared ({'; '.join(other)}); judge both by the "
            "same evaluation (kind: evaluate)"
        )
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

"""Two model versions on the same examples, image by image."""

import csv
import io
import math

from scipy.stats import binomtest

from distrib import registry
from distrib.errors import RegistryError
from distrib.promotion import TERMS, different


def compare(a: str, b: str, uri: str, tier: str | None = None) -> dict:
    """What both robustness cards say of the same images, paired, with McNemar's exact test (McNemar 1947).

    ``tier`` chooses among a version's cards; None: its best one. Raises :class:`RegistryError` where a version has no
    card, or the two were judged on other terms: threat, attacks, number of images, data, examples.
    """
    (card_a, rows_a), (card_b, rows_b) = (_card(address, uri, tier) for address in (a, b))
    terms_a, terms_b = _terms(card_a), _terms(card_b)
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
        "clean": _paired(rows_a, rows_b, "clean"),
        "robust": _paired(rows_a, rows_b, "worst"),
        "flags_a": [flag["name"] for flag in card_a["claim"]["flags"]],
        "flags_b": [flag["name"] for flag in card_b["claim"]["flags"]],
    }


def _terms(card: dict) -> dict:
    """What two cards must share, as :data:`distrib.promotion.TERMS` names it, and the attacks' names."""
    whole = {**card["claim"], **card, "attacks": ",".join(sorted(card["claim"]["attacks"]))}
    return {term: whole.get(term) for term in ("attacks", *TERMS)}


def _card(address: str, uri: str, tier: str | None) -> tuple[dict, dict[int, dict]]:
    card, examples = registry.fetch_card(address, uri, tier)
    return card, {int(row["index"]): row for row in csv.DictReader(io.StringIO(examples))}


def _paired(a: dict[int, dict], b: dict[int, dict], column: str) -> dict:
    """Accuracies on the images that both have, where they differ, and how likely that is by chance."""
    pairs = [(row[column], b[index][column]) for index, row in a.items() if index in b]
    pairs = [(int(one), int(other)) for one, other in pairs if one != "" and other != ""]
    n, only_a = len(pairs), sum(one > other for one, other in pairs)
    only_b = sum(other > one for one, other in pairs)
    differing, difference = only_a + only_b, (only_a - only_b) / n
    spread = 1.959963984540054 * math.sqrt(max(0.0, differing / n - difference**2) / n)
    return {
        "n": n,
        "a": sum(one for one, _ in pairs) / n,
        "b": sum(other for _, other in pairs) / n,
        "only_a": only_a,
        "only_b": only_b,
        "difference": difference,
        "interval": (difference - spread, difference + spread),
        "p": float(binomtest(only_a, differing, 0.5).pvalue) if differing else 1.0,
    }

"""Two versions, image by image: McNemar's test, and the refusal to compare what cannot be compared."""

import pytest
from cards import STANDARD, claim, fates, judged

from distrib.cli.text import comparison
from distrib.errors import RegistryError
from distrib.registry.compare import compare


def pair(uri: str, name: str, *whole: dict) -> list[str]:
    """The addresses of two versions, each with its card."""
    for weights, terms in zip("ab", whole, strict=True):
        judged(uri, name, terms.pop("claimed", claim(0.5)), weights, **({"examples": fates("1")} | terms))
    return [f"models:/{name}/{number}" for number in (1, 2)]


def test_paired_counts_and_mcnemars_exact_p(uri: str):
    """Of 12 that differ, 10 stand only in the first: p = 2 (C(12,0) + C(12,1) + C(12,2)) / 2^12 = 158 / 4096."""
    a = fates("1" * 10 + "0" * 2 + "1" * 30 + "0" * 8 + ".")
    b = fates("0" * 10 + "1" * 2 + "1" * 30 + "0" * 8 + ".")
    one, other = pair(uri, "paired", {"claimed": claim(0.8), "examples": a}, {"claimed": claim(0.64), "examples": b})
    found = compare(one, other, uri)
    robust = found["robust"]
    assert (robust["n"], robust["only_a"], robust["only_b"]) == (50, 10, 2)
    assert robust["p"] == pytest.approx(158 / 4096) and robust["difference"] == pytest.approx(0.16)
    assert robust["interval"] == pytest.approx((0.0281, 0.3005), abs=1e-4)  # Tango's
    assert found["clean"]["n"] == 51 and found["clean"]["p"] == 1.0
    text = comparison(found)
    assert "+16.00" in text and "0.0386" in text and "linf epsilon 0.1" in text
    assert text.endswith("\n  the first is more robust (p 0.0386)")
    turned = compare(other, one, uri)
    assert comparison(turned).endswith("\n  the second is more robust (p 0.0386)")
    back = turned["robust"]
    assert (back["only_a"], back["difference"], back["p"]) == (2, -robust["difference"], robust["p"])
    itself = compare(one, one, uri)
    assert comparison(itself).endswith("\n  the two do not differ in robustness, as far as these images can tell")
    assert itself["robust"]["interval"] == pytest.approx((-0.0713, 0.0713), abs=1e-4), "of 0 in 50, not a point"


@pytest.mark.parametrize(
    ("changes", "term"),
    [
        ({"epsilon": 0.2}, r"\(epsilon 0.1 against 0.2\)"),
        ({"norm": "l2"}, "norm linf against l2"),
        ({"n": 50}, "n 100 against 50"),
        ({"seed": 4}, "seed 0 against 4"),
        ({"examples_sha256": "0" * 64}, "examples_sha256"),
    ],
)
def test_other_terms_are_refused(uri: str, changes: dict, term: str):
    one, other = pair(uri, f"terms-{next(iter(changes))}", {}, {"claimed": claim(0.5, **changes)})
    with pytest.raises(RegistryError, match=f"cannot be compared.*{term}"):
        compare(one, other, uri)


def test_other_attacks_are_refused_also_by_the_same_names(uri: str):
    weak = [one.model_copy(update={"step_size": 1e-6}) if one.name == "pgd-20" else one for one in STANDARD.attacks]
    suites = (STANDARD, STANDARD.model_copy(update={"attacks": tuple(weak)}))
    addresses = pair(uri, "settings", *({"suite": suite} for suite in suites))
    with pytest.raises(RegistryError, match=r"the attacks autoattack,fgsm,pgd-20 with other settings"):
        compare(*addresses, uri)


def test_other_data_are_refused(uri: str):
    addresses = pair(uri, "data", *({"data": letter * 64} for letter in "ab"))
    with pytest.raises(RegistryError, match="data_sha256"):
        compare(*addresses, uri)


def test_a_tier_that_was_not_run_is_named(uri: str):
    one, _ = pair(uri, "tiers", {}, {})
    with pytest.raises(RegistryError, match=r"no robustness card of tier paranoid \(its tiers: standard\)"):
        compare(one, one, uri, "paranoid")
    with pytest.raises(RegistryError, match="registered there"):
        compare(one, "models:/nobody/1", uri)


def test_a_later_evaluation_on_equal_terms_is_found(uri: str):
    """Both versions were judged again: what they are compared on need not be the best card of either."""
    one, other = pair(uri, "later", {}, {"claimed": claim(0.5, seed=4)})
    with pytest.raises(RegistryError, match=r"seed 0 against 4\); judge both by distrib evaluate with the same"):
        compare(one, other, uri)
    judged(uri, "later", claim(0.6), "b", "2", examples=fates("0111"))
    found = compare(one, other, uri)
    assert (str(found["terms"]["seed"]), found["robust"]["n"]) == ("0", 1)

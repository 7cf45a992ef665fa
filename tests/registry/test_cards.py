"""What two cards must share, read from tags and from cards."""

import json

from cards import card, claim

from distrib.registry.cards import different, terms_of


def test_an_epsilon_is_a_number_and_is_named():
    """Of 0.29 and 0.3 the difference is epsilon, not the attacks' step sizes."""
    for one, other in ((8 / 255, "0.0313725"), ("0.3", 0.3), (0.1, 0.1000000001)):
        assert different({"epsilon": one}, {"epsilon": other}) == []
    a, b = ({"epsilon": epsilon, "attacks": "pgd-20", "attacks_sha256": str(epsilon)} for epsilon in (0.29, 0.3))
    assert different(a, b) == ["epsilon 0.29 against 0.3"]
    assert different(a | {"epsilon": 0.3}, b) == ["the attacks pgd-20 with other settings"]


def test_the_terms_of_a_card_are_those_of_its_tags():
    whole = card(claim(0.5), "a" * 64)
    said = terms_of(json.loads(json.dumps(whole.plain())))
    assert not different(said, whole.tags()) and said["attacks"] == whole.tags()["attacks"]

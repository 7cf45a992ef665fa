"""distrib.evaluation.card: what it says of its own figure."""

import re
from pathlib import Path

from cards import card, claim

from distrib.evaluation import card as card_module
from distrib.evaluation.card import html, markdown


def test_the_figure_is_an_upper_bound():
    """A stronger attack can only break more images."""
    made = card(claim(0.5), "w" * 64)
    for page in (markdown(made), html(made, {}), str(made.plain())):
        assert "upper bound" in page and "lower bound" not in page


def test_it_says_what_training_began_with():
    made = card(claim(0.5), "w" * 64)
    assert "init" not in made.tags() and "egun with" not in html(made, {}) and "began with" not in markdown(made)
    begun = card(claim(0.5), "w" * 64, init={"weights": "models:/natural/3", "sha256": "f" * 64})
    assert begun.tags() == made.tags() | {"init": "models:/natural/3", "init_sha256": "f" * 64}
    for page in (markdown(begun), html(begun, {}), str(begun.plain())):
        assert "models:/natural/3" in page and "f" * 12 in page and "trained them on these test images" in page
    assert "trained them" not in markdown(made)


def test_it_says_which_images_of_elsewhere_were_trained_on():
    made = card(claim(0.5), "w" * 64)
    mix = [{"source": "arrays", "path": "synthetic.npz", "share": 0.7}, {"source": "folder", "root": "x", "share": 0.1}]
    mixed = made.model_copy(update={"job": {**made.job, "data": {"source": "digits", "mix": mix}}})
    for page in (markdown, lambda one: html(one, {})):
        assert "every batch" not in page(made)
        assert "70 %" in page(mixed) and "from synthetic.npz" in page(mixed) and "from x" in page(mixed)


def test_the_page_is_readable_in_light_and_in_dark():
    """Every colour of text against what it stands on: at least 4.5 to 1 (WCAG 2.2, AA)."""
    page = (Path(card_module.__file__).parent / "card.html.j2").read_text()
    light = dict(re.findall(r"--(\w+): (#\w{6})", page.partition("@media")[0]))
    dark = light | dict(re.findall(r"--(\w+): (#\w{6})", page[page.index("@media (prefers-color-scheme: dark)") :]))
    for colours in (light, dark):
        for name in ("text", "quiet", "good"):
            assert contrast(colours[name], colours["page"]) >= 4.5, name
        assert contrast("#ffffff", colours["bad"]) >= 4.5  # the refusal: white on red
        assert contrast(colours["warn"], colours["page"]) >= 3  # the edge of a flag


def contrast(one: str, other: str) -> float:
    """Of WCAG 2.2: (lighter + 0.05) / (darker + 0.05), of relative luminance."""
    luminances = []
    for colour in (one, other):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminances.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)

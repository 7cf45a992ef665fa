"""distrib.evaluation.card: what it says of its own figure."""

from cards import card, claim

from distrib.evaluation.card import html, markdown


def test_the_figure_is_an_upper_bound():
    """A stronger attack can only break more images."""
    made = card(claim(0.5), "w" * 64)
    for page in (markdown(made), html(made, {}), str(made.plain())):
        assert "upper bound" in page and "lower bound" not in page

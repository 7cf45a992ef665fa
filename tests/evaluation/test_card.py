"""distrib.evaluation.card: what it says of its own figure."""

from cards import card, claim

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

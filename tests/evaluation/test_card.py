"""distrib.evaluation.card: what it says of its own figure."""

import re
from pathlib import Path

import pytest
from cards import card, claim
from colours import contrast

from distrib.evaluation import card as card_module
from distrib.evaluation.by_class import ClassFigures
from distrib.evaluation.card import data_title, html, markdown, standing_among
from distrib.evaluation.flags import Flag
from distrib.evaluation.made import Made, Twin
from distrib.evaluation.plots import plot_confusion


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


def test_it_says_what_the_model_is_how_to_get_it_and_what_its_natural_twin_does():
    made = card(claim(0.5), "w" * 64)
    assert "parameters" not in markdown(made) and "distrib pull" not in markdown(made)
    whole = made.model_copy(
        update={
            "made": Made(network="resnet", parameters=12345, training="madry against pgd-7 in linf 0.1, epoch 3 of 9"),
            "natural": Twin(clean_accuracy=0.99, robust_accuracy=0.0125, n=100),
            "job": {**made.job, "register_as": "mine"},
        }
    )
    for page in (markdown(whole), html(whole, {})):
        assert "resnet, 12,345 parameters" in page and "madry against pgd-7 in linf 0.1, epoch 3 of 9" in page
        assert "99.00 % without an attack, 1.25 % under these" in page
        assert "distrib pull models:/mine/VERSION DIR" in page
    here = whole.model_copy(update={"model": "models:/mine/4"})
    assert "distrib pull models:/mine/4 DIR" in markdown(here) and "VERSION" not in html(here, {})


def test_classes_are_told_the_least_robust_first_and_not_all_of_a_thousand():
    classes = tuple(
        ClassFigures(name=f"c{i}", n=10, clean=10, robust=(i + 7) % 11, taken_for=(("c0", 2),)) for i in range(30)
    )
    made = card(claim(0.5), "w" * 64).model_copy(update={"by_class": classes})
    page = html(made, {})
    told = re.findall(r"<td>(c\d+)</td><td class=\"number\">100.00%</td><td class=\"number\">([\d.]+)%", page)
    assert len(told) == 20 and "20 of 30 classes" in page
    assert [float(robust) for _, robust in told] == sorted(float(robust) for _, robust in told)
    assert "| c4 | 100.00% | 0.00% | 10 | c0 (2) |" in markdown(made)


WHOLE = {"norm": "linf", "epsilon": 0.3, "n": 1000, "stages": dict.fromkeys(("apgd-ce", "apgd-t", "square"), 0.9)}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"stages": {}}, "not judged by the whole of AutoAttack"),
        ({"stages": {"square": 0.9}}, "not judged by the whole of AutoAttack"),
        ({"n": 100}, "judged on 100 images alone"),
        ({"flags": (Flag(name="zero_gradients", blocking=True, detail="x"),)}, "flagged zero_gradients"),
    ],
)
def test_among_published_figures_only_what_can_be_held_against_them_has_a_place(changes: dict, why: str):
    claimed = claim(0.9, **WHOLE | changes)
    made = card(claimed, "w" * 64).model_copy(update={"data": "mnist"})
    names = [one.name.partition(" (")[0] for one in standing_among(made)]
    assert len(names) == 5 and names.index("some") == (4 if why else 2)
    assert ("has no place among them" in html(made, {})) is bool(why) and why in html(made, {})
    assert standing_among(card(claimed, "w" * 64)) == [] and "published" not in html(card(claimed, "w" * 64), {})


def test_a_class_may_be_called_anything():
    odd = ClassFigures(name="a|b\nc <i>", n=4, clean=4, robust=1, taken_for=(("$x$ [y](z)", 3),))
    made = card(claim(0.5), "w" * 64).model_copy(update={"by_class": (odd, odd)})
    assert "| a\\|b c &lt;i> | 100.00% | 25.00% | 4 | $x$ \\[y](z) (3) |" in markdown(made)
    assert "<i>" not in html(made, {})
    assert plot_confusion((odd, odd), "$a_$b").startswith(b"<?xml"), "no formula, which this would not be"


def test_flags_name_the_classes_of_their_images():
    flag = Flag(name="zero_gradients", blocking=True, detail="x", examples=(3, 5))
    page = html(card(claim(0.5, flags=(flag,)), "w" * 64), {}, {3: "cat, taken for <dog>"})
    assert "test images 3 (class cat, taken for &lt;dog&gt;), 5" in page


@pytest.mark.parametrize(
    ("data", "title"),
    [
        ({"source": "mnist", "root": "/data"}, "mnist"),
        ({"source": "folder", "root": "/home/me/pictures"}, "folder pictures"),
        ({"source": "arrays", "train": "a.npz", "test": "x/b.npz"}, "arrays b.npz"),
        ({"source": "arrays"}, "arrays"),
        ({"source": "huggingface", "path": "uoft-cs/cifar10"}, "huggingface cifar10"),
    ],
)
def test_a_data_set_of_ones_own_has_the_name_of_its_folder(data: dict, title: str):
    assert data_title(data) == title

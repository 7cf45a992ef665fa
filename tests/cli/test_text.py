"""Results in words: every figure is there, beside its name and its n, whatever terminal it is written for."""

import re
from pathlib import Path

import pytest

from distrib.cli.text import fields_markdown, fields_text, models_table, table
from distrib.config.fields import JobField, Section, Variant, sections

CLAIM = {
    "clean_accuracy": 0.9876, "n_clean": 450, "robust_accuracy": 0.4321, "interval": [0.3871, 0.4783], "n": 449,
    "attacks": {"fgsm": 0.6543, "pgd-20": 0.5109, "autoattack": 0.4444},
    "attacks_n": {"fgsm": 448, "pgd-20": 447, "autoattack": 446},
    "norm": "linf", "epsilon": 0.3, "seed": 0, "flags": [], "tier": "standard", "cumulative": [],
}  # fmt: skip
NATURAL = CLAIM | {
    "clean_accuracy": 0.9912,
    "robust_accuracy": 0.0123,
    "attacks": {"fgsm": 0.11, "pgd-20": 0.02, "autoattack": 0.015},
}
EVALUATED = {"kind": "evaluate", "name": "e", "model": "models:/m/1", "card": "/r/card.html", **CLAIM}
TRAINED = {
    "kind": "train", "name": "t", **CLAIM, "natural": None, "num_workers": 3, "seconds": 123.4, "train_seconds": 99.6,
    "images_per_second": 1234.5, "model": "models:/digits/7", "champion": "champion: 7", "card": "/r/card.html",
}  # fmt: skip
PREPARED = {"kind": "prepare", "folder": "/b/digits-1", "splits": {"train": {"count": 1200}, "test": {"count": 450}}}
BOTH = TRAINED | {"natural": NATURAL}
RESULTS = {"evaluate": EVALUATED, "train": TRAINED, "train and natural": BOTH}
results = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())


def row(text: str, name: str) -> list[str]:
    """The cells behind ``name`` in its line."""
    (line,) = [line for line in text.splitlines() if re.match(rf"\s*{re.escape(name)}\s{{2,}}", line)]
    return line.split(name, 1)[1].split()


@results
def test_every_figure_stands_beside_its_name_and_its_number_of_images(result: dict):
    text = table(result)
    natural = result.get("natural")
    sides = [result, natural] if natural else [result]
    percent = "{:.2%}".format
    assert row(text, "clean") == [*(percent(side["clean_accuracy"]) for side in sides), "450"]
    for name in CLAIM["attacks"]:
        expected = [*(percent(side["attacks"][name]) for side in sides), str(CLAIM["attacks_n"][name])]
        assert row(text, name) == expected
    assert row(text, "worst case") == [*(percent(side["robust_accuracy"]) for side in sides), "449"]
    assert "38.71% to 47.83%" in text and "linf epsilon 0.3," in text
    assert ("natural model" in text) == bool(natural)


def test_a_search_says_where_no_trial_reached_the_floor():
    best = {"number": 2, "robust_accuracy": 0.4, "clean_accuracy": 0.7, "settings": {"model.width": 1}}
    score = {"attack": "pgd-20", "norm": "linf", "epsilon": 0.3, "min_clean_accuracy": 0.8}
    found = {
        "kind": "tune", "name": "s", "trials": 2, "finished": 2, "stopped": 0, "failed": 0, "cost_hours": 1.0,
        "seconds": 2.0, "best": best, "score": score, "folder": "/s", "winner": None,
    }  # fmt: skip
    assert "no trial kept a clean accuracy of 80.00%" in table(found)
    assert "no trial" not in table(found | {"best": best | {"clean_accuracy": 0.8}})


def test_a_trained_model_is_told_with_its_speed_and_how_to_get_it():
    lines = [line.strip() for line in table(TRAINED).splitlines()]
    assert "3 workers, 123 s in all, training 100 s at 1234 images/s" in lines
    assert "models:/digits/7: champion: 7" in lines and "distrib pull models:/digits/7 digits-model" in lines
    assert "pull" not in table(EVALUATED)
    assert "distrib pull models:/digits/7 digits-model --tracking-uri u" in table(TRAINED, " --tracking-uri u")


@results
def test_every_flag_is_told(result: dict):
    flags = [{"name": f"suspicion_{i}", "blocking": True, "detail": f"because of {i} [x]"} for i in range(3)]
    text = table(result | {"flags": flags})
    assert all(f"FLAG suspicion_{i}: because of {i} [x]" in text for i in range(3))
    assert "FLAG" not in table(result)


def test_a_prepared_folder_is_told_with_its_counts():
    assert table(PREPARED) == "prepared: /b/digits-1 (train 1200, test 450)"


ROW = {
    "model": "models:/digits/1", "aliases": ["champion", "latest-robust"], "clean_accuracy": 0.95,
    "robust_accuracy": 0.5, "norm": "linf",
    "epsilon": 0.0313725, "tier": "quick", "n": 450, "flags": "none", "data": "digits", "arch": "small_cnn",
    "parameters": 16246, "created": "2026-11-29 23:00",
}  # fmt: skip
STRANGE = dict.fromkeys(ROW) | {"model": "models:/foreign/3", "aliases": [], "created": "2026-11-29 22:00"}


def test_registered_models_are_listed_with_what_is_known():
    text = models_table([ROW, STRANGE], "sqlite:///x.db")
    assert row(text, "digits/1") == [
        "champion,", "latest-robust", "95.00%", "50.00%", "linf", "8/255", "quick", "450", "none", "digits",
        "small_cnn", "16,246", "2026-11-29", "23:00",
    ]  # fmt: skip
    assert row(text, "foreign/3") == ["?"] * 9 + ["2026-11-29", "22:00"]
    assert models_table([], "sqlite:///x.db", "m") == "no model m in sqlite:///x.db"


@pytest.mark.parametrize(("width", "gone"), [(60, 7), (80, 5), (110, 3), (300, 0), (None, 0)])
def test_a_narrow_terminal_has_fewer_columns_and_is_told_which(width: int | None, gone: int):
    text = models_table([ROW, STRANGE], "sqlite:///x.db", width=width)
    table_lines = text.splitlines()[: -1 if gone else None]
    assert "50.00%" in text and "digits/1" in text, "these stay"
    assert width in (None, 60) or max(map(len, table_lines)) <= (width or 0)
    told = ["parameters", "network", "data", "made (UTC)", "tier", "flags", "n"][:gone]
    assert ("(a wider terminal" in text) is bool(gone) and ", ".join(told) in text
    assert not any(heading in table_lines[1] for heading in told if heading != "n")


def test_no_models_is_said_with_the_place_and_the_cure():
    assert models_table([], "sqlite:///x.db") == "no models in sqlite:///x.db; distrib run jobs/digits.yaml makes one"


ENVIRONMENTS = [
    {"COLUMNS": "20"}, {"COLUMNS": "500"}, {"TERM": "dumb"}, {"NO_COLOR": "1"},
    {"FORCE_COLOR": "1"},
    {"TTY_COMPATIBLE": "1", "TERM": "xterm-256color"},
]  # fmt: skip


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_the_text_does_not_depend_on_the_terminal(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """It may be piped to a file or read by a script: no colours, no wrapping, no trailing blanks."""
    for name in ("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    plain = [table(result) for result in RESULTS.values()] + [models_table([ROW, STRANGE], "x")]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    again = [table(result) for result in RESULTS.values()] + [models_table([ROW, STRANGE], "x")]
    assert again == plain
    assert not any("\x1b" in text or line != line.rstrip() for text in plain for line in text.splitlines())


def test_an_attack_that_only_one_of_two_models_met_has_a_row():
    """What broke one model alone, such as its worst images on 8 bits: KeyError after everything was done."""
    text = table(
        BOTH | {"attacks": BOTH["attacks"] | {"rounded": 0.41}, "attacks_n": BOTH["attacks_n"] | {"rounded": 9}}
    )
    assert row(text, "rounded") == ["41.00%", "-", "9"]
    natural = {
        "attacks": NATURAL["attacks"] | {"rounded": 0.01}, "attacks_n": NATURAL["attacks_n"] | {"rounded": 7},
        "cumulative": ["rounded"],
    }  # fmt: skip
    line = next(line for line in table(TRAINED | {"natural": NATURAL | natural}).splitlines() if "rounded" in line)
    assert line.split() == ["rounded", "(on", "what", "still", "stood)", "-", "1.00%", "7"]


LIFE = JobField("lives", "a whole number", "9", "How often `x` | may fall: " + "far " * 30)
CAT = Section("pet", (Variant("kind: cat", "Falls on its feet.", (LIFE,)), Variant("kind: fish", "Swims.", ())))


def test_fields_are_told_by_their_whole_path_in_lines_of_a_terminal():
    lines = fields_text([CAT]).splitlines()
    assert lines[:4] == ["pet", "  kind: cat", "    Falls on its feet.", "    pet.lives: a whole number; default 9"]
    assert lines[4].startswith("        How often x | may fall: far far") and lines[-2:] == [
        "  kind: fish",
        "    Swims.",
    ]
    assert max(map(len, lines)) <= 110


def test_fields_are_a_table_in_markdown():
    page = fields_markdown([CAT])
    assert "\n## pet\n\n### `kind: cat`\n\nFalls on its feet.\n\n| field | type | default | meaning |\n" in page
    assert "\n| `lives` | a whole number | `9` | How often `x` \\| may fall: far" in page


def test_the_page_of_fields_begins_with_links_to_the_parts_of_each_kind():
    job = Section("", (Variant("kind: zoo", "Opens.", (JobField("pet", "a mapping by kind", "", "One."), LIFE)),))
    assert "\n- [`kind: zoo`](#kind-zoo): [pet](#pet)\n\n## `kind: zoo`" in fields_markdown([job, CAT])


def test_the_page_of_all_fields_is_what_the_code_says():
    page = Path(__file__).parents[2] / "docs" / "jobs.md"
    assert page.read_text() == fields_markdown(sections()).rstrip() + "\n", "make docs writes it"

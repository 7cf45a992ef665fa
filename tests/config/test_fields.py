"""The fields of a job, as told: every one, with its type and bounds in words, its default and its meaning."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from distrib.config import fields
from distrib.config.fields import JobField, Section, models_of, sections
from distrib.config.job import Job
from distrib.errors import JobError
from distrib.values import PixelRadius, Value


class Leaf(Value):
    """A leaf, of :class:`Dog` or cat.

    Nobody reads on.
    """

    length: Annotated[int, Field(ge=1)] = 1
    """In ``cm``; None: none
    at all."""


class Cat(Value):
    """Has lives."""

    kind: Literal["cat"]
    lives: float | None = None
    colours: tuple[Literal["red", "green"], ...] = ("red",)


class Dog(Value):
    """Has tricks."""

    kind: Literal["dog", "puppy"]
    leaf: Leaf = Leaf()
    """Its leaf."""
    reach: PixelRadius | Leaf
    tricks: Annotated[dict[str, Leaf], Field(min_length=1)]
    lives: float | None = None
    size: tuple[Annotated[float, Field(gt=0, lt=2)], int] = (1 / 3, 2)


EVERY = sections()


@pytest.fixture
def pets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is a cat or a dog."""
    monkeypatch.setattr(fields, "Job", Annotated[Cat | Dog, Field(discriminator="kind")])


def outline(found: list[Section]) -> list[tuple]:
    """(path, (tag, names of its fields) of each variant) of each section."""
    return [(one.path, *((each.tag, *(field.name for field in each.fields)) for each in one.variants)) for one in found]


def everything(annotation: Any) -> set[type[Value]]:
    """Every mapping that a type may hold, at any depth."""
    inside = set(models_of(annotation))
    return inside.union(*(everything(field.annotation) for one in inside for field in one.model_fields.values()))


def test_a_field_is_told_by_type_bounds_default_and_meaning(pets: None):
    root, leaf, *rest = sections()
    cat, dog = root.variants
    assert rest == [] and (root.path, cat.tag, dog.tag) == ("", "kind: cat", "kind: dog or puppy")
    assert cat.fields == (
        JobField("lives", "a number; or null", "null", ""),
        JobField("colours", "a list, each red or green", "[red]", ""),
    )
    assert dog.fields == (
        JobField("leaf", "a mapping", "{}", "Its leaf."),
        JobField(
            "reach", "a number or a fraction such as 8/255, at least 0, at most 1; or a mapping (see leaf)", "", ""
        ),
        JobField("tricks", "a mapping, each value a mapping (see leaf), not empty", "", ""),
        JobField("lives", "a number; or null", "null", ""),
        JobField("size", "[a number, above 0, below 2, a whole number]", f"[{1 / 3}, 2]", ""),
    )
    assert (leaf.path, leaf.variants[0].meaning) == ("leaf", "A leaf, of `Dog` or cat.")
    assert leaf.variants[0].fields == (
        JobField("length", "a whole number, at least 1", "1", "In `cm`; null: none at all."),
    )


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("leaf", [("", ("", "leaf")), ("leaf", ("", "length"))]),
        ("reach.length", [("reach", ("", "length"))]),
        ("tricks.length", [("tricks", ("", "length"))]),
        ("lives", [("", ("", "lives"))]),
        ("puppy", [("", ("kind: dog or puppy", "leaf", "reach", "tricks", "lives", "size")), ("leaf", ("", "length"))]),
    ],
)
def test_a_path_narrows_it(path: str, told: list, pets: None):
    found = outline(sections(path))
    assert found == (told[:1] if path == "puppy" else told)


def test_what_two_mappings_say_differently_is_told_of_each():
    found = outline(sections("model"))
    assert found[0] == ("", ("kind: train", "model"), ("kind: evaluate", "model"))
    assert [tag for tag, *_ in found[1][1:]][:2] == ["arch: paper_cnn", "arch: small_cnn"]


def test_a_kind_of_job_is_told_by_its_name():
    (found,) = outline(sections("prepare"))
    assert found == ("", ("kind: prepare", "data", "loader"))


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (
            "optim.shedule",
            r"optim\.shedule: there is no field shedule \(did you mean schedule\?\); the fields of optim",
        ),
        ("modle", r"modle: there is no field modle \(did you mean model\?\); the fields of a job are kind, data"),
        ("seed.x", r"seed\.x: seed has no fields of its own"),
        ("optim.lr.x", r"optim\.lr\.x: optim\.lr has no fields of its own"),
        ("prepair", r"there is no field prepair \(did you mean prepare\?\)"),
        ("train.optim.", r"train\.optim\.: there is no field ; the fields of train\.optim"),
        (".", "there is no field ; the fields of a job"),
    ],
)
def test_a_path_that_no_job_has_is_refused_with_the_nearest(path: str, told: str):
    with pytest.raises(JobError, match=told):
        sections(path)


def test_every_mapping_that_a_job_may_hold_is_told():
    told = {variant.meaning for section in EVERY for variant in section.variants}
    assert len(told) == len(everything(Job)) and "" not in told
    assert len({section.path for section in EVERY}) == len(EVERY)


def test_every_field_says_what_it_means():
    for section in EVERY:
        for variant in section.variants:
            dumb = [field.name for field in variant.fields if not field.meaning]
            assert not dumb, f"write a docstring below {section.path} {variant.tag}: {dumb}"

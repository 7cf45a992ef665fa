"""Validation errors in words: one line a field, its path as a person would write it, never pydantic's own."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from distrib.config.explain import explain, inside, nearest
from distrib.errors import JobError
from distrib.values import Radius, Value


class Leaf(Value):
    length: Annotated[int, Field(ge=1)] = 1
    colour: Literal["red", "green"] = "red"


class Cat(Value):
    kind: Literal["cat"]
    lives: int
    leaf: Leaf | None = None

    @model_validator(mode="after")
    def _old(self) -> "Cat":
        if self.leaf is not None and self.leaf.length > self.lives * 10:
            raise ValueError(f"lives: {self.lives}, but leaf.length is not in data.leaf.length; lower it")
        return self


class Dog(Value):
    kind: Literal["dog", "puppy"]
    tricks: tuple[Leaf, ...] = ()

    @model_validator(mode="after")
    def _clever(self) -> "Dog":
        if len(self.tricks) > 2:
            raise ValueError("too clever by half")
        return self


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class House(Value):
    pet: Pet
    pets: Annotated[tuple[Pet, ...], Field(min_length=1)] = (Cat(kind="cat", lives=9),)
    pair: tuple[int, float] = (1, 1.0)
    size: Radius = 0.1
    names: tuple[str, ...] = ()
    nest: "House | None" = None


def lines(document: dict, annotation: Any = House) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(annotation).validate_python(document, strict=False)
    return explain(caught.value, annotation, document)


CAT = {"kind": "cat", "lives": 9}
HOUSE = "the fields here are pet, pets, pair, size, names, nest"
DOG = "the fields here are kind, tricks"
LEAF = "the fields here are length, colour"
CASES = {
    "unknown at the top": ({"pet": CAT, "pest": 1}, f"pest: no such field (did you mean pet?); {HOUSE}"),
    "unknown in a union": (
        {"pet": {**CAT, "live": 1}},
        "pet.live: no such field (did you mean lives?); the fields here are kind, lives, leaf",
    ),
    "unknown in the other member": ({"pet": {"kind": "puppy", "lives": 1}}, f"pet.lives: no such field; {DOG}"),
    "unknown in an item": (
        {"pet": CAT, "pets": [CAT, {"kind": "dog", "trick": []}]},
        f"pets[1].trick: no such field (did you mean tricks?); {DOG}",
    ),
    "unknown in an item of an item": (
        {"pet": {"kind": "dog", "tricks": [{}, {"lenght": 1}]}},
        f"pet.tricks[1].lenght: no such field (did you mean length?); {LEAF}",
    ),
    "unknown below an optional": (
        {"pet": {**CAT, "leaf": {"lenght": 1}}},
        f"pet.leaf.lenght: no such field (did you mean length?); {LEAF}",
    ),
    "unknown, nested in itself": (
        {"pet": CAT, "nest": {"pet": CAT, "siz": 1}},
        f"nest.siz: no such field (did you mean size?); {HOUSE}",
    ),
    "unknown here, and a field deeper down": (
        {"pet": {**CAT, "leaf": {"length": 2}}, "nest": {"pet": {**CAT, "leaf": {}}}, "leaf": {"length": 2}},
        f"leaf: no such field (did you mean pet.leaf or nest.pet.leaf?); {HOUSE}",
    ),
    "missing": ({}, "pet: is missing"),
    "missing in a union": ({"pet": {"kind": "cat"}}, "pet.lives: is missing"),
    "missing in an item": ({"pet": CAT, "pets": [{"kind": "cat"}, CAT]}, "pets[0].lives: is missing"),
    "missing half of a pair": ({"pet": CAT, "pair": [1]}, "pair[1]: is missing"),
    "no tag": ({"pet": {"lives": 1}}, "pet: kind is missing; it is one of cat, dog, puppy"),
    "wrong tag": ({"pet": {"kind": "dogg"}}, "pet: kind: 'dogg' is none of cat, dog, puppy (did you mean dog?)"),
    "wrong literal": (
        {"pet": {**CAT, "leaf": {"colour": "gren"}}},
        "pet.leaf.colour: 'gren' is none of red, green (did you mean green?)",
    ),
    "far from any literal": (
        {"pet": {**CAT, "leaf": {"colour": "xyz"}}},
        "pet.leaf.colour: 'xyz' is none of red, green",
    ),
    "out of bounds": (
        {"pet": {**CAT, "leaf": {"length": 0}}},
        "pet.leaf.length: expected greater than or equal to 1, not 0",
    ),
    "wrong type": ({"pet": {"kind": "cat", "lives": []}}, "pet.lives: expected a valid integer, not []"),
    "wrong type in a list": ({"pet": CAT, "names": ["a", 3]}, "names[1]: expected a valid string, not 3"),
    "no mapping": ({"pet": CAT, "nest": 3}, "nest: expected"),
    "own words": ({"pet": {"kind": "dog", "tricks": [{}, {}, {}]}}, "pet: too clever by half"),
    "own words that name fields": (
        {"pet": {**CAT, "leaf": {"length": 99}, "lives": 1}},
        "pet.lives: 1, but pet.leaf.length is not in data.leaf.length; lower it",
    ),
    "own words of a parser": (
        {"pet": CAT, "size": "8/0"},
        "size: expected a number or a fraction such as 8/255, not '8/0'",
    ),
}


@pytest.mark.parametrize(("document", "expected"), CASES.values(), ids=CASES.keys())
def test_one_fault_one_line(document: dict, expected: str):
    (line,) = lines(document)
    assert line.startswith(expected) if expected.endswith("expected") else line == expected


def test_every_fault_has_its_line_and_none_has_two():
    wrong = {
        "pet": {"kind": "cat"},
        "size": "x",
        "pets": [{"kind": "cow"}, {**CAT, "leaf": {"length": 0, "colour": 1}}],
        "x": 1,
    }
    found = {line.split(":")[0] for line in lines(wrong)}
    assert found >= {"pet.lives", "size", "pets[0]", "pets[1].leaf.length", "pets[1].leaf.colour", "x"}
    assert len(lines(wrong)) == len({line.split(":")[0] for line in lines(wrong)})


def test_the_words_are_for_people():
    for document, _ in CASES.values():
        (line,) = lines(document)
        assert not any(word in line for word in ("pydantic", "ctx", "Input should", "type=", "discriminator", "loc"))


def test_the_top_itself_may_be_what_is_wrong():
    assert lines({"lives": 1}, Pet) == ["kind is missing; it is one of cat, dog, puppy"]
    assert lines({"kind": "cat"}, Pet) == ["lives: is missing"]


def test_a_key_named_like_a_tag_is_a_key():
    """pydantic's path holds the tag beside the key; the document decides which is which."""
    assert [line.split(":")[0] for line in lines({"pet": {**CAT, "cat": 1}})] == ["pet.cat"]


@pytest.mark.parametrize(("longest", "told"), [(30, "at most 31"), (62, "at most 63")])
def test_a_name_is_told_how_long_it_may_be(longest: int, told: str):
    name = Annotated[str, Field(pattern=f"^[a-z][a-z]{{0,{longest}}}$")]
    (line,) = lines({"a name": "x" * (longest + 2)}, dict[str, name])
    assert line.endswith(f"dashes and underscores, {told}")
    TypeAdapter(name).validate_python("x" * (longest + 1))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size: too small; lower pet.lives, or nest.pet", "h.size: too small; lower h.pet.lives, or h.nest.pet"),
        ("a house of this size: too small\npets: too many", "a house of this size: too small\nh.pets: too many"),
        ("/tmp/pet.lives: no such file; see ../nest.pet", None),
        ("h.pet.lives: told already", None),
        ("garden: not one of its fields, nor is pet.fur", None),
    ],
)
def test_an_error_of_a_part_names_fields_by_their_path_in_the_whole(text: str, told: str | None):
    for kind in (JobError, ValueError):
        with pytest.raises(kind) as caught, inside("h", House):
            raise kind(text)
        assert type(caught.value) is kind and str(caught.value) == (told or text)


def test_what_is_no_message_of_ours_passes_through_as_it_is():
    with pytest.raises(UnicodeDecodeError) as caught, inside("h", House):
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "size: x")
    assert caught.value.reason == "size: x"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("epoch", " (did you mean epochs?)"), ("lr", " (did you mean lr?)"), ("qqq", ""), (3, ""), (None, "")],
)
def test_nearest(name: object, hint: str):
    assert nearest(name, ["epochs", "lr", "batch_size"]) == hint
    assert nearest(name, []) == ""

"""Values are frozen and strict; a Radius is read exactly and written as people write it."""

import math
import random
import subprocess
import sys

import pytest
from pydantic import Field, ValidationError

from distrib.values import Radius, Value, parse_fraction, shown_radius, write_fraction


class Inner(Value):
    width: float = 1.0


class Outer(Value):
    inner: Inner = Inner()
    radius: Radius = Field(default=0.0)
    number: int = 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.3", 0.3),
        ("3e-1", 0.3),
        ("1/3", 1 / 3),
        ("0", 0.0),
        ("0/255", 0.0),
        ("128/255", 128 / 255),
        ("300/255", 300 / 255),
        (0.1, 0.1),
        (1, 1.0),
    ],
)
def test_a_radius_is_the_nearest_float_to_what_is_written(text: object, number: float):
    radius = Outer.model_validate({"radius": text}).radius
    assert radius == number and isinstance(radius, float)


@pytest.mark.parametrize(
    ("wrong", "phrase"),
    [
        ("", "expected a number or a fraction such as 8/255, not ''"),
        ("eight", "not 'eight'"),
        ("8/0", "not '8/0'"),
        ("8/255/2", "not '8/255/2'"),
        ("8//255", "not '8//255'"),
        ("1/x", "not '1/x'"),
        ("nan", "not 'nan'"),
        ("inf", "not 'inf'"),
        ("__import__('os')", "not"),
        ("-1/255", "greater than or equal to 0"),
        (-0.1, "greater than or equal to 0"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (True, "valid number"),
        (None, "valid number"),
        ([8, 255], "valid number"),
    ],
)
def test_what_is_no_radius_is_refused(wrong: object, phrase: str):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"radius": wrong})
    (detail,) = caught.value.errors()
    assert detail["loc"] == ("radius",) and phrase in detail["msg"]


@pytest.mark.parametrize("text", ["1e400", "9" * 400 + "/1"], ids=["1e400", "400 digits"])
def test_a_radius_beyond_the_floats_is_refused(text: str):
    with pytest.raises(ValidationError, match="expected a number or a fraction"):
        Outer.model_validate({"radius": text})


def test_what_is_written_is_read_back_as_the_same_float():
    grey = [i / 255 for i in range(600)]
    numbers = [*grey, *(math.nextafter(number, 2) for number in grey), *(random.Random(0).random() for _ in range(600))]
    numbers += [0.3, 0.1, 1 / 3, 2 / 3, 1e-9, 5e-324, 1e300, 0.1 + 0.2]
    assert [parse_fraction(write_fraction(number)) for number in numbers] == numbers
    assert all(Outer.model_validate(Outer(radius=number).model_dump()).radius == number for number in numbers)


@pytest.mark.timeout(20)
def test_a_radius_with_a_huge_exponent_is_refused_at_once():
    """In a process of its own, which can be stopped."""
    code = """
from distrib.values import parse_fraction
for text in ("1e999999999", "1e-999999999"):
    try:
        parse_fraction(text)
    except ValueError:
        continue
    raise SystemExit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=5)


def test_a_radius_of_any_size_is_written():
    assert parse_fraction(write_fraction(1.7e308)) == 1.7e308


@pytest.mark.parametrize(
    ("number", "written"),
    [(8 / 255, "8/255"), (1 / 255, "1/255"), (300 / 255, "300/255"), (0.2, 0.2), (1.0, 1.0), (0.0, 0.0), (0.3, 0.3)],
)
def test_a_radius_is_written_short(number: float, written: object):
    assert Outer(radius=number).model_dump()["radius"] == written
    assert Outer(radius=number).model_dump(mode="json")["radius"] == written


def test_a_value_cannot_be_changed():
    value = Outer()
    for change in ("number", "inner", "anything"):
        with pytest.raises(ValidationError, match=r"frozen|no field"):
            setattr(value, change, 2)
    with pytest.raises(ValidationError, match="frozen"):
        value.inner.width = 2.0
    with pytest.raises(ValidationError, match="frozen"):
        del value.number
    assert value == Outer()


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"numbr": 1}, "extra_forbidden"),
        ({"inner": {"widht": 1.0}}, "extra_forbidden"),
        ({"number": "1"}, "int_type"),
        ({"number": 1.0}, "int_type"),
        ({"number": True}, "int_type"),
        ({"inner": {"width": "1"}}, "float_type"),
        ({"inner": {"width": float("inf")}}, "finite_number"),
        ({"inner": None}, "model_type"),
    ],
)
def test_a_value_is_strict(document: dict, kind: str):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(document)
    assert [detail["type"] for detail in caught.value.errors()] == [kind]


def test_values_compare_by_content_and_can_be_keys():
    assert Outer(number=2) == Outer(number=2) != Outer(number=3)
    assert len({Outer(number=2), Outer(number=2), Outer(number=3)}) == 2


@pytest.mark.parametrize(
    ("number", "shown"),
    [(8 / 255, "8/255"), (0.0313725, "8/255"), (0.3, "0.3"), (0.1, "0.1"), (0.0, "0"), (1.0, "1"), (12.0, "12"),
     (0.2, "0.2"), (0.123456, "0.1235"), (4 / 255, "4/255"), (16 / 255, "16/255"), (128 / 255, "128/255")],
)  # fmt: skip
def test_a_radius_is_shown_as_people_write_it(number: float, shown: str):
    assert shown_radius(number) == shown

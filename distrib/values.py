"""Frozen, strict values: what every part of a job is made of.

A :class:`Value` cannot be changed, refuses unknown keys and wrong types, compares by content and prints as it is
written in a job file.
"""

import re
from fractions import Fraction
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
)


class Value(BaseModel):
    """Base of all configuration values: immutable, strict, without unknown keys, without nan or inf."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _without_nul(cls, value: object) -> object:
        """Names of files and addresses are among the texts, and the system ends them at a NUL."""
        if any(
            isinstance(text, str) and "\0" in text for text in (value if isinstance(value, list | tuple) else [value])
        ):
            raise ValueError("has a NUL character in it; take it out")
        return value


NUMBER = re.compile(r"[-+]?[\d.]{1,30}(e[-+]?\d{1,3})?( ?/ ?\d{1,30})?", re.IGNORECASE)
"""A decimal number or a fraction of whole ones, short enough to be worked out at once."""


def parse_fraction(text: object) -> object:
    """``"8/255"`` -> 0.03137...; ``"0.3"`` -> 0.3; anything else is returned as it came, for pydantic to judge."""
    if not isinstance(text, str):
        return text
    try:
        if not NUMBER.fullmatch(text.strip()):
            raise ValueError
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"expected a number or a fraction such as 8/255, not {text!r}") from None


def write_fraction(number: float) -> float | str:
    """The shortest way to write ``number`` in a job file: 8/255 rather than 0.03137254901960784."""
    numerator = round(min(number, 1e6) * 255)
    if len(repr(number)) > 8 and numerator > 0 and numerator / 255 == number:
        return f"{numerator}/255"
    return number


def counted(number: int, noun: str) -> str:
    """1 worker, 2 workers."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table_cell(text: object, longest: int = 40) -> str:
    """A text as it can stand in a line or a table of Markdown, whatever is in it."""
    words = " ".join(str(text).split())
    words = words if len(words) <= longest else f"{words[: longest - 1]}…"
    return words.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def shown_radius(number: float) -> str:
    """A radius for people: 8/255 also where the number was rounded to six digits; else as short as it is."""
    numerator = round(number * 255)
    near = numerator > 0 and abs(numerator / 255 - number) < 1e-6 and len(f"{number:.6g}") > 5
    return f"{numerator}/255" if near else f"{number:.4g}"


FRACTION = {"type": "string", "pattern": r"^[0-9.]+/[0-9.]+$"}
IN_SCHEMA = {"anyOf": [{"type": "number", "minimum": 0}, FRACTION]}
"""What editors are told of a radius."""

Radius = Annotated[
    float,
    BeforeValidator(parse_fraction),
    PlainSerializer(write_fraction, when_used="always"),
    Field(ge=0),
    WithJsonSchema(IN_SCHEMA),
]
"""A length in pixel units (pixels lie in [0, 1]); written 0.3 or 8/255."""


def within_pixels(epsilon: float) -> float:
    """``epsilon``, at most 1: how far a pixel can move. Raises ValueError, with what 8 may have been meant to be."""
    if epsilon > 1:
        meant = f"; did you mean {epsilon:g}/255?" if epsilon <= 255 else ""
        raise ValueError(f"expected at most 1, not {epsilon:g}: pixels lie in [0, 1]{meant}")
    return epsilon


PixelRadius = Annotated[Radius, AfterValidator(within_pixels), Field(le=1), WithJsonSchema(IN_SCHEMA)]
"""A change of single pixels."""

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

MODEL_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d{1,9})|@(?P<alias>[^/@]+))$")
"""models:/NAME/VERSION or models:/NAME@ALIAS; databases number versions in 32 bits."""
PASSWORD = re.compile(
    r"https?://([^/]*|[^/@:\[]*:(?!\d+/)[^?#]*)@|(?!https?:)[^:/]+://[^:/@]*:[^@?]*@"
    r"|.*([?&](password|passwd|pwd|(?!ssl[_-]key=)(\w+[_-])?(token|key|secret|signature))=|pwd%3d)",
    re.IGNORECASE | re.DOTALL,
)
"""How an address begins that has a password or a token in it, or the user of a web server: that may be a token.

ssl_key names a file."""
WITHOUT = (
    "everyone who sees the run would see its password; leave user and password out, and set MLFLOW_TRACKING_USERNAME "
    "and MLFLOW_TRACKING_PASSWORD (a database has its own place for it, as PGPASSWORD)"
)
"""The cure."""


def _public(uri: str) -> str:
    if PASSWORD.match(uri):
        raise ValueError(WITHOUT)
    return uri


PublicUri = Annotated[str, AfterValidator(_public)]
"""An address that may be shown and kept: without a password or token."""


def sendable(name: str, text: str) -> str:
    """``text``, the value of the variable ``name``, where a header of HTTP can carry it; the error does not show it.

    Raises ValueError: what is raised later, by whoever sends it, prints the text.
    """
    if not re.fullmatch(r"[\x20-\x7e\xa0-\xff]*", text):
        raise ValueError(
            f"{name}: has a line break or a character that HTTP cannot send; set it to the token or password alone, in "
            "plain letters, digits and signs"
        )
    return text

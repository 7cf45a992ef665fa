"""Validation errors of a job, in words: the path of the key, what was expected, the nearest valid name."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distrib.errors import InputError, nearest
from distrib.models.libraries import library_of

KeyPath = tuple[str | int, ...]


def explain(error: ValidationError, annotation: Any, document: object) -> list[str]:
    """One line for each field of ``document`` that is wrong, as a value of the type ``annotation``."""
    lines: dict[KeyPath, list[str]] = {}
    known: dict[str, list[str]] = {}
    for field in _paths(document):
        known.setdefault(_last(field), []).append(field)
    for detail in error.errors():
        path = _path(detail, annotation, document)
        lines.setdefault(path, [])
        line = _line(detail, annotation, _dotted(path), known)
        if line not in lines[path]:
            lines[path].append(line)
    # Where something inside is wrong, what the whole is told (each member of a union, a length) is an echo of it.
    wholes = {path[:length] for path in lines for length in range(len(path))}
    return [_told(_dotted(path), " or ".join(found)) for path, found in lines.items() if path not in wholes]


def _told(place: str, words: str) -> str:
    return words if not place or words.startswith(f"{place}.") else f"{place}: {words}"


def _paths(document: object, above: str = "") -> Iterator[str]:
    """Every field of the document, with dots between the keys that lead to it."""
    for key, value in document.items() if isinstance(document, dict) else ():
        yield f"{above}{key}"
        yield from _paths(value, f"{above}{key}.")


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _placed(text: str, place: str, models: Sequence[type[BaseModel]]) -> str:
    """The text with ``place`` before the fields of ``models`` that it names: at its lines' beginnings, or by a path."""
    names = [(name, model) for model in models for name in model.model_fields]
    fields = [f"^{name}:" for name, _ in names]
    fields += [rf"{name}\.{inner}\b" for name, model in names for inner in _fields(model, (name,))]
    return re.sub(rf"(?m)(?<![\w./-])(?={'|'.join(fields)})", f"{place}.", text) if fields and place else text


@contextmanager
def inside(place: str, part: type[BaseModel]) -> Iterator[None]:
    """Within, an error that names a field of ``part`` names it by its path in the whole job: ``train.data.root``."""
    try:
        yield
    except ValueError as error:
        if not isinstance(error, InputError) and type(error) is not ValueError:  # pydantic's takes more than a message
            raise
        raise type(error)(_placed(str(error), place, [part])) from None


def in_letters(pattern: str) -> str:
    """What a pattern of names or paths demands, in words."""
    longest = re.search(r"\{0,(\d+)\}", pattern)  # after the first character, in a name
    if longest is None:
        return "path: fields with dots between them, as in model.width"
    return f"letters, digits, dots, dashes and underscores, at most {int(longest[1]) + 1}"


def _line(detail: ErrorDetails, annotation: Any, place: str, known: dict[str, list[str]]) -> str:
    """``known`` are the document's fields, by the last key of their paths."""
    found, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            names = _fields(annotation, detail["loc"][:-1])
            deeper = [path for path in known.get(_last(place), ()) if path.endswith(f".{place}")]
            meant = f" (did you mean {' or '.join(deeper)}?)" if deeper else ""
            near = nearest(detail["loc"][-1], names) or meant
            return f"no such field{near}; the fields here are {', '.join(names)}"
        case "missing":
            return "is missing"
        case "union_tag_not_found":
            tag = str(context["discriminator"]).strip("'")
            return f"{tag} is missing; it is one of {', '.join(_tags(annotation, detail['loc'], tag))}"
        case "union_tag_invalid":
            names = [name.strip(" '") for name in str(context["expected_tags"]).split(",")]
            key = str(context["discriminator"]).strip("'")
            meant = (library_of(str(context["tag"])) if key == "arch" else "") or nearest(context["tag"], names)
            return f"{key}: {context['tag']!r} is none of {', '.join(names)}{meant}"
        case "literal_error":
            names = [name.strip(" '") for name in str(context["expected"]).replace(" or ", ", ").split(",")]
            return f"{found!r} is none of {', '.join(names)}{nearest(found, names)}"
        case "value_error":
            return _placed(str(context["error"]), place, _at(annotation, detail["loc"]))
        case "string_pattern_mismatch":
            demand = in_letters(context["pattern"])
            return f"{found!r} is no {demand if demand.startswith('path') else f'name: use {demand}'}"
        case "model_type" | "model_attributes_type":
            return f"expected a mapping with {', '.join(_fields(annotation, detail['loc']))}, not {found!r}"
        case _:
            message = detail["msg"].removeprefix("Input should be ").removesuffix(" instance")
            return f"expected {message}, not {found!r}"


def _path(detail: ErrorDetails, annotation: Any, document: object) -> KeyPath:
    """The keys of the document that lead to the fault: pydantic's own path also holds the tags of unions."""
    path: list[str | int] = []
    last = len(detail["loc"]) - 1
    for i, key in enumerate(detail["loc"]):
        if _narrowed(_at(annotation, detail["loc"][:i]), key):
            continue
        inside: Any = dict(enumerate(document)) if isinstance(document, list) else document
        if isinstance(inside, dict) and key in inside:
            document = inside[key]
        elif i != last or detail["type"] != "missing":
            continue
        path.append(key)
    return tuple(path)


def _dotted(path: KeyPath) -> str:
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _members(annotation: Any) -> list[Any]:
    """The types that an annotation allows, unions and Annotated taken apart."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _tagged(model: type[BaseModel], tag: object) -> bool:
    return model.__name__ == tag or any(
        get_origin(field.annotation) is Literal and tag in get_args(field.annotation)
        for field in model.model_fields.values()
    )


def _narrowed(models: Sequence[type[BaseModel]], key: object) -> list[type[BaseModel]]:
    """Those of a union that pydantic's path means by ``key``; none where it is the name of a field."""
    return [one for one in models if (_tagged(one, key) if len(models) > 1 else one.__name__ == key)]


def _at(annotation: Any, loc: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that stand at pydantic's path ``loc`` inside ``annotation``."""
    members = _members(annotation)
    for key in loc:
        models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        inside = [model.model_fields[str(key)].annotation for model in models if str(key) in model.model_fields]
        tagged = _narrowed(models, key)
        items = [get_args(member)[0] for member in members if get_origin(member) in (tuple, list)]
        values = [get_args(member)[1] for member in members if get_origin(member) is dict]
        if isinstance(key, int):
            members = [part for item in items for part in _members(item)]
        elif tagged:
            members = tagged
        elif values:
            members = [part for value in values for part in _members(value)]
        elif inside:
            members = [part for annotation in inside for part in _members(annotation)]
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def _fields(annotation: Any, loc: Sequence[str | int]) -> list[str]:
    return [name for model in _at(annotation, loc) for name in model.model_fields]


def _tags(annotation: Any, loc: Sequence[str | int], tag: str) -> list[str]:
    models = [model for model in _at(annotation, loc) if tag in model.model_fields]
    return [value for model in models for value in get_args(model.model_fields[tag].annotation)]

"""Every field of a job, told from the models themselves: path, type in words, bounds, default and meaning.

Nothing is said twice: a bound stands in the type of its field, a meaning in the docstring below it; both are read here.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, JsonValue
from pydantic.fields import FieldInfo

from distrib.config.explain import in_letters
from distrib.config.job import Job
from distrib.errors import JobError, nearest
from distrib.values import Value, parse_fraction

Mappings = tuple[type[Value], ...]
TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping",
              JsonValue: "any"}  # fmt: skip
LIMIT_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class JobField:
    """One field."""

    name: str
    type: str
    """In words, with its bounds."""
    default: str
    """As a job file writes it; empty where the field must be given."""
    meaning: str


@dataclass(frozen=True)
class Variant:
    """One of the mappings that may stand at a path."""

    tag: str
    """The field that tells it from the others, such as ``shape: cyclic``; empty where there are no others."""
    meaning: str
    fields: tuple[JobField, ...]


@dataclass(frozen=True)
class Section:
    """All that may stand at one path."""

    path: str
    """Dots between the fields; empty for the job itself."""
    variants: tuple[Variant, ...]


def sections(path: str = "") -> list[Section]:
    """The fields at ``path`` and below it; without one, those of every kind of job.

    A mapping that may stand at several paths is described at the first of them, and the others refer to it. Raises
    :class:`JobError` for a path that no job has, with the nearest name.
    """
    kinds = models_of(Job)
    if not path:
        return _described(_places("", kinds, {}))
    *parents, last = path.split(".")
    owners = kinds
    for done, key in enumerate(parents):
        owners = _inside(owners, key) or _refuse(path, ".".join(parents[:done]), key, owners)
    chosen = [model for model in kinds if not parents and last in _tags(model, "kind")]
    having = [model for model in owners if last in model.model_fields]
    if not chosen and not having:
        _refuse(path, ".".join(parents), last, owners)
    places = _places(path, _inside(owners, last), {})
    found = [Section("", tuple(_variant(model, kinds, "", places) for model in chosen))] if chosen else []
    if having:
        found.append(Section(".".join(parents), _alone(having, owners, path, places)))
    return found + _described(places)


def models_of(annotation: Any) -> Mappings:
    """The mappings that a type allows, by itself, in a list or in a mapping; each once."""
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return (annotation,)
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return tuple(dict.fromkeys(model for part in parts for model in models_of(part)))


def _inside(owners: Mappings, key: str) -> Mappings:
    """The mappings at the field ``key`` of any of ``owners``."""
    fields = [model.model_fields[key] for model in owners if key in model.model_fields]
    return tuple(dict.fromkeys(model for field in fields for model in models_of(field.annotation)))


def _refuse(path: str, parent: str, key: str, owners: Mappings) -> Any:
    names = list(dict.fromkeys(name for model in owners for name in model.model_fields))
    if key in names:
        raise JobError(f"{path}: {parent + '.' if parent else ''}{key} has no fields of its own")
    kinds = [] if parent else [kind for model in owners for kind in _tags(model, "kind")]
    known = f"the fields of {parent or 'a job'} are {', '.join(names)}"
    raise JobError(f"{path}: there is no field {key}{nearest(key, names + kinds)}; {known}")


def _places(path: str, models: Mappings, found: dict[Mappings, str]) -> dict[Mappings, str]:
    """Where each group of mappings is met first, at ``path`` and below, in the order in which they are described."""
    if models and models not in found:
        found[models] = path
        for model in models:
            for name, field in model.model_fields.items():
                _places(f"{path}.{name}" if path else name, models_of(field.annotation), found)
    return found


def _described(places: dict[Mappings, str]) -> list[Section]:
    return [
        Section(path, tuple(_variant(model, models, path, places) for model in models))
        for models, path in places.items()
    ]


def _variant(model: type[Value], models: Mappings, path: str, places: dict[Mappings, str]) -> Variant:
    """``model``, as one of ``models`` at ``path``."""
    tag = _tag(models)
    fields = [_field(name, field, path, places) for name, field in model.model_fields.items() if name != tag]
    return Variant(_told(model, models), _paragraph(inspect.getdoc(model)), tuple(fields))


def _alone(
    having: Sequence[type[Value]], owners: Mappings, path: str, places: dict[Mappings, str]
) -> tuple[Variant, ...]:
    """The last field of ``path`` by itself, once for all the mappings that say the same of it."""
    parent, _, name = path.rpartition(".")
    tags: dict[JobField, list[str]] = {}
    for model in having:
        tags.setdefault(_field(name, model.model_fields[name], parent, places), []).append(_told(model, owners))
    return tuple(Variant("" if len(tags) == 1 else " | ".join(told), "", (line,)) for line, told in tags.items())


def _tags(model: type[Value], name: str) -> tuple[str, ...]:
    """The names that the field ``name`` may have, where it is a choice of names."""
    field = model.model_fields.get(name)
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _tag(models: Mappings) -> str:
    """The field by which ``models`` are told from each other; empty where there is one, or none such."""
    for name in models[0].model_fields if len(models) > 1 else ():
        values = [value for model in models for value in _tags(model, name)]
        if len(values) == len(set(values)) and all(_tags(model, name) for model in models):
            return name
    return ""


def _told(model: type[Value], models: Mappings) -> str:
    """How ``model`` is told from the others: ``shape: cyclic``; by the field that only it has where there is no tag."""
    if tag := _tag(models):
        return f"{tag}: {' or '.join(_tags(model, tag))}"
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    return required[0] if len(models) > 1 and required else ""


def _field(name: str, field: FieldInfo, path: str, places: dict[Mappings, str]) -> JobField:
    own = f"{path}.{name}" if path else name
    default = "" if field.is_required() else _written(field.default)
    return JobField(
        name, _type(field.annotation, field.metadata, own, places), default, _plain(field.description or "")
    )


def _type(annotation: Any, metadata: Iterable[Any], path: str, places: dict[Mappings, str]) -> str:
    """A type in words, its bounds behind it; a mapping refers to the place where its fields are told."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0], [*_flat(parts[1:]), *metadata], path, places)
    if origin in (Union, UnionType):
        return _union(parts, metadata, path, places)
    limits = list(_limits(metadata))
    if models := models_of(annotation) if isinstance(annotation, type) else ():
        words = _reference(models, path, places)
    elif origin is Literal:
        words = " or ".join(filter(None, [", ".join(map(str, parts[:-1])), str(parts[-1])]))
    elif origin is tuple:
        each = [_type(part, (), path, places) for part in parts if part is not Ellipsis]
        words = f"a list, each {each[0]}" if Ellipsis in parts else f"[{', '.join(each)}]"
    elif origin is dict:
        words = f"a mapping, each value {_type(parts[1], (), path, places)}"
    else:
        fraction = any(isinstance(one, BeforeValidator) and one.func is parse_fraction for one in metadata)
        words = TYPE_WORDS[annotation] + (" or a fraction such as 8/255" if fraction else "")
    return ", ".join([words, *limits])


def _union(parts: Sequence[Any], metadata: Iterable[Any], path: str, places: dict[Mappings, str]) -> str:
    models = models_of(Union[tuple(parts)])  # noqa: UP007  (they are known only here)
    mapping = [part for part in parts if models_of(part) and get_origin(part) is not tuple]
    words = [_type(part, (), path, places) for part in parts if part not in mapping and part is not type(None)]
    words += [_reference(models, path, places)] if mapping else []
    words += ["null"] if type(None) in parts else []
    return ", ".join(["; or ".join(words), *_limits(metadata)])


def _reference(models: Mappings, path: str, places: dict[Mappings, str]) -> str:
    place = places.get(models, path)
    tag = _tag(models)
    return f"a mapping{f' by {tag}' if tag else ''}" + ("" if place == path else f" (see {place})")


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for one in metadata:
        yield from one.metadata if isinstance(one, FieldInfo) else [one]


def _limits(metadata: Iterable[Any]) -> Iterator[str]:
    for one in metadata:
        for key, words in LIMIT_WORDS.items():
            if getattr(one, key, None) is not None:
                yield f"{words} {_written(getattr(one, key))}"
        if (least := getattr(one, "min_length", None)) is not None:
            yield "not empty" if least == 1 else f"at least {least}"
        if (most := getattr(one, "max_length", None)) is not None:
            yield f"at most {most} characters"
        if (pattern := getattr(one, "pattern", None)) is not None:
            yield in_letters(pattern)


def _written(value: Any) -> str:
    """A default, as a job file would write it; of a mapping what tells it from others, and what is not its default."""
    if isinstance(value, Value):
        tags = {name: _tags(type(value), name) for name in type(value).model_fields}
        own = {name: words[0] for name, words in tags.items() if len(words) == 1}
        return _written(own | value.model_dump(mode="json", exclude_defaults=True))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    short = f"{value:g}" if isinstance(value, float) else ""
    return "null" if value is None else short if short and float(short) == value else str(value)


def _paragraph(text: str | None) -> str:
    """The first paragraph of a docstring."""
    return _plain((text or "").split("\n\n")[0])


def _plain(text: str) -> str:
    """A docstring as one line of Markdown, in the words of a job file."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))

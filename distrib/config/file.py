"""Jobs as YAML files, with ``--set`` overrides.

:func:`read` gives a job, or raises :class:`JobError` with a line for each thing that is wrong: the path of the key,
what was expected, and the nearest valid name.
"""

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distrib.config.brought import brought, located
from distrib.config.explain import explain
from distrib.config.job import JOB, AnyJob, Job, dump
from distrib.config.moved import moves
from distrib.errors import JobError
from distrib.models.custom import with_source
from distrib.values import Value

LARGEST_FILE = 1 << 20
"""Bytes; also the characters of a document once its aliases are written out: 306 bytes of them can mean gigabytes."""
DEEPEST = 50
"""Mappings and lists inside each other; a job has fewer than ten, and Python's own limit is met in a traceback."""
LONGEST_NUMBER = 100
"""Characters: what is longer takes YAML minutes to work out (1:59:59:... counts by sixties)."""


class _Loader(yaml.SafeLoader):
    """YAML without its traps: keys given twice, 1e-3 read as text, few bytes that mean very much."""

    def compose_document(self) -> yaml.Node | None:
        """As PyYAML does, but what would take all memory, or all of Python's stack, is refused before it is built."""
        node = super().compose_document()
        if node is not None:
            _measure(node, {})
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does, but what it raises for dates and numbers that are none says where they stand."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # as !!int '' or !!timestamp x
            reason = error if isinstance(error, ValueError) else f"{node.value!r} is no {node.tag.rpartition(':')[2]}"
            problem = f"{reason}; put text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        if not isinstance(node, yaml.MappingNode):  # !!map x
            raise yaml.MarkedYAMLError(problem="is no mapping, but says so", problem_mark=node.start_mark)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is no text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the text that :class:`_Loader` would read as a number, and writes a text of lines in lines."""


def _in_lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _in_lines)

for _one in (_Loader, _Dumper):
    _one.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int] | None]) -> tuple[int, int]:
    """(characters, levels) of ``node``, its aliases written out. Raises :class:`yaml.MarkedYAMLError` beyond bounds.

    ``known`` holds what was measured, so that an alias costs nothing; None: what is being measured.
    """

    def refuse(problem: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > LONGEST_NUMBER and node.tag != "tag:yaml.org,2002:str":
            raise refuse(f"a number of {len(node.value)} characters; put text in quotes")
        return len(node.value) + 1, 0
    if node in known:
        inside = known[node]
        if inside is None:
            raise refuse("an alias of itself")
        return inside
    known[node] = None
    children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    measured = [_measure(child, known) for child in children]
    characters = 1 + sum(one for one, _ in measured)
    levels = 1 + max((one for _, one in measured), default=0)
    if characters > LARGEST_FILE:
        raise refuse(f"more than {LARGEST_FILE} characters with its aliases written out")
    if levels > DEEPEST:
        raise refuse(f"nested too deeply: more than {DEEPEST} levels")
    known[node] = characters, levels
    return characters, levels


def job_yaml(job: Value) -> str:
    """The job as a job file; :func:`read` gives it back."""
    return yaml.dump(dump(job), Dumper=_Dumper, sort_keys=False)


def read(path: str | Path, overrides: Sequence[str] = (), removals: Sequence[str] = ()) -> AnyJob:
    """The job in the YAML file ``path``, or the one that distrib brings along under that name (``digits``).

    ``overrides`` set fields of it, such as ``optim.epochs=3``; ``removals`` take some out. Raises :class:`JobError`
    with everything that is wrong with it.
    """
    place = located(Path(path))
    return parse(_document(place), overrides, str(path), place.parent, removals)


def parse(
    document: object, overrides: Sequence[str], origin: str, folder: Path | None = None, removals: Sequence[str] = ()
) -> AnyJob:
    """The job in a document already read from YAML; ``origin`` names it in errors, ``folder`` holds its file."""
    if not isinstance(document, dict):
        raise JobError(f"{origin}: a job is a mapping that begins with kind: prepare, train, evaluate, study or tune")
    plain: dict = _plain(document, origin)
    _must_be_in_place(plain, origin)
    for removal in removals:
        _remove(plain, removal)
    for override in overrides:
        _override(plain, override)
        _must_be_in_place(plain, f"--set {override}")
    if folder is not None:
        with_source(plain, folder)
    try:
        return JOB.validate_json(json.dumps(plain))
    except ValidationError as error:
        raise JobError("\n".join(f"{origin}: {line}" for line in explain(error, Job, plain))) from None


def _must_be_in_place(document: dict, origin: str) -> None:
    """Raises :class:`JobError` where a field stands where an older distrib had it."""
    if lines := moves(document):
        raise JobError("\n".join(f"{origin}: {line}" for line in lines))


def _document(path: Path) -> object:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise JobError(f"{path}: {path.stat().st_size} bytes: too large for a job file")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = {other.stem: str(other) for other in sorted(path.parent.glob("*.yaml"))} if path.parent.is_dir() else {}
        alike = get_close_matches(path.stem, near, 1, 0.75)
        told = f"; there are {', '.join(near.values())}" if near else ""
        told = f"; did you mean {near[alike[0]]}?" if alike else told
        there = f"; distrib run {path.stem} runs the one that distrib brings" if path.stem in brought() else ""
        raise JobError(f"{path}: there is no such job file{told}{there}") from None
    except IsADirectoryError:
        raise JobError(f"{path}: a folder; name a job file in it") from None
    except UnicodeDecodeError:
        raise JobError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from None
    return yaml_value(text, str(path))


def yaml_value(text: str, origin: str) -> Any:
    """What the YAML ``text`` says. Raises :class:`JobError` with the line and column."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark else origin
        raise JobError(f"{place}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise JobError(f"{origin}: not YAML: nested too deeply") from None


def _plain(document: Any, origin: str) -> Any:
    """A copy made of JSON values, in which nothing is shared."""
    try:
        return json.loads(json.dumps(document))
    except (TypeError, ValueError) as error:
        raise JobError(f"{origin}: {error}; write dates and the like in quotes") from None


def _override(document: dict, override: str) -> None:
    path, equals, text = override.partition("=")
    keys = _keys(path.strip(), f"--set {override}")
    if not equals or not keys:
        raise JobError(f"--set {override}: write it as path.to.field=value, such as optim.epochs=3")
    try:
        value = yaml_value(text, "")
    except JobError:
        raise JobError(f"--set {override}: {text!r} is no value; quote it if it is text") from None
    *above, last = keys
    place = _place(document, [*above, last], f"--set {override}", make=True)
    place[last] = _plain(value, f"--set {override}")


def _remove(document: dict, removal: str) -> None:
    *above, last = _keys(removal, f"--unset {removal}") or [""]
    place = _place(document, [*above, last], f"--unset {removal}", make=False)
    if isinstance(place, dict) and last not in place:
        raise JobError(f"--unset {removal}: the job does not say it; there is nothing to take out")
    del place[last]


def _keys(path: str, said: str) -> list[str | int]:
    """The steps of ``evaluation.attacks[0].num_steps``; none where it is written otherwise, or too deep."""
    keys: list[str | int] = []
    for part in path.split("."):
        found = re.fullmatch(r"([^\[\]]+)((?:\[\d{1,4}\])*)", part)
        if found is None:
            return []
        keys += [found[1], *(int(number) for number in re.findall(r"\d+", found[2]))]
    if len(keys) > DEEPEST:
        raise JobError(f"{said}: nested too deeply: more than {DEEPEST} levels")
    return keys


def _place(document: Any, keys: Sequence[Any], said: str, make: bool) -> Any:
    """The mapping or list that the last of ``keys`` is, or would be, in; mappings are made, if asked for."""
    for key, following in pairwise(keys):
        if make and isinstance(document, dict):
            document.setdefault(key, {})
        document = document.get(key, {}) if isinstance(document, dict) else document[key]
        if isinstance(following, int):
            count = len(document) if isinstance(document, list) else None
            if count is None or following >= count:
                what = "is no list" if count is None else f"has {count}, counted from 0"
                raise JobError(f"{said}: there is no {key}[{following}]: {key} {what}")
        elif isinstance(document, list):
            raise JobError(f"{said}: {key} is a list; name one of its elements, such as {key}[0]")
        elif not isinstance(document, dict):
            raise JobError(f"{said}: {key} is no mapping, so it has no fields")
    return document

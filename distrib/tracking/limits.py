"""How long a text MLflow's stores take, in one place; every tag, parameter and description is written within them.

SQLite takes any length. PostgreSQL refuses a longer text, and MLflow itself checks only some of them. What is longer is
cut, and says so. The limits are the smallest of MLflow's SQL columns (of the migrations before, too, where a tag was
shorter) and of its own checks.
"""

import hashlib
import json
from typing import Any

NAME = 250
"""Of the name of a tag, a parameter or a metric."""
RUN_TAG = 5000
PARAMETER = 6000
VERSION_TAG = 5000
MODEL_TAG = 5000
DESCRIPTION = 5000
DATASET, DIGEST = 500, 36
"""Of a data set's name, and of its digest."""


def fitting_name(name: str) -> str:
    """A name that MLflow takes: itself, or its beginning and a mark of the whole."""
    mark = hashlib.sha256(name.encode()).hexdigest()[:12]
    return name if len(name) <= NAME else f"{name[: NAME - 13]}-{mark}"


def shortened(text: str, limit: int, whole: str = "") -> str:
    """The text, or its beginning and where the ``whole`` is."""
    if len(text) <= limit:
        return text
    word = f" ... (cut, of {len(text)} characters{'; the whole is ' + whole if whole else ''})"
    return text[: limit - len(word)] + word


def compact(record: dict, limit: int) -> str:
    """The record as JSON within ``limit``: its longest texts are cut, its hashes never."""
    text = json.dumps(record)
    for longest in (1000, 300, 100):
        if len(text) > limit:
            text = json.dumps(_cut_inside(record, longest))
    return text


def _cut_inside(value: Any, limit: int) -> Any:
    match value:
        case dict():
            return {name: _cut_inside(inner, limit) for name, inner in value.items()}
        case list():
            return [_cut_inside(inner, limit) for inner in value]
        case str():
            return shortened(value, limit)
    return value


def version_tags(tags: dict[str, str], whole: str = "") -> dict[str, str]:
    """Tags that a model version takes; ``whole`` says where longer ones are whole."""
    return {fitting_name(name): shortened(value, VERSION_TAG, whole) for name, value in tags.items()}


def tag_version(registry: Any, name: str, number: str, tags: dict[str, str], whole: str = "") -> None:
    """Sets tags of a model version."""
    for tag, value in version_tags(tags, whole).items():
        registry.set_model_version_tag(name, number, tag, value)


def describe_version(registry: Any, name: str, number: str, text: str, whole: str) -> None:
    """Sets the description of a model version."""
    registry.update_model_version(name, number, shortened(text, DESCRIPTION, whole))


def describe_model(registry: Any, name: str, text: str) -> None:
    """Sets the description of a registered model."""
    registry.update_registered_model(name, shortened(text, DESCRIPTION))


def tag_model(registry: Any, name: str, tag: str, record: dict) -> None:
    """Sets a tag of a registered model to a record, as JSON."""
    registry.set_registered_model_tag(name, fitting_name(tag), compact(record, MODEL_TAG))

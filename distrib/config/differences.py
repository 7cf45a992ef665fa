"""Whether two jobs are one: what of a recorded job would give another result."""

import json

from distrib.config.job import dump
from distrib.values import Value

PLACEMENT = {"cluster", "tracking", "storage", "loader", "keep_checkpoints", "concurrent", "budget_hours"}
"""Fields that say where and how a job runs, not what it computes: they may change between a run and its resumption."""
DATA_PLACEMENT = {"root", "store", "download"}
"""Fields that say where its data lie: a named set may lie anywhere, its content is compared. A folder's root says which
images are meant."""


NAMING = ("label", "attack", "source")
"""What an item of a list is called by."""


def differences(job: Value, other: dict) -> list[str]:
    """What of ``other`` (a dumped job) would give another result than ``job``: lines "optim.epochs: 3, not 5"."""
    return _differences(_what(dump(job)), _what(other), "")


def _what(job: dict) -> dict:
    """Of a dumped job: what its result depends on."""
    kept = {key: value for key, value in job.items() if key not in PLACEMENT}
    if isinstance(data := kept.get("data"), dict):
        free = DATA_PLACEMENT - {"root"} if data.get("source") == "folder" else DATA_PLACEMENT
        kept["data"] = {key: value for key, value in data.items() if key not in free}
    if isinstance(training := kept.get("train"), dict):  # of a search
        kept["train"] = _what(training)
    return kept


def _differences(mine: object, theirs: object, path: str) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        if mine.get("precision") == "auto" and "precision" in theirs:  # it is what a run began in, and goes on in
            theirs = theirs | {"precision": "auto"}
        if "factory" in mine and None in (mine.get("sha256"), theirs.get("sha256")):  # not known on that machine
            mine, theirs = mine | {"sha256": None}, theirs | {"sha256": None}
        keys = [key for key in [*mine, *(key for key in theirs if key not in mine)] if mine.get(key) != theirs.get(key)]
        return [line for key in keys for line in _differences(mine.get(key), theirs.get(key), f"{path}.{key}")]
    if mine == theirs:
        return []
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        pairs = enumerate(zip(mine, theirs, strict=True))
        return [line for i, (one, other) in pairs for line in _differences(one, other, f"{path}[{i}]")]
    if isinstance(mine, str) and "\n" in mine:  # of a module
        return [f"{path[1:]}: this text, not that of before"]
    return [f"{path[1:]}: {_shown(mine)}, not {_shown(theirs)}"]


def _shown(value: object) -> str:
    """As a job file says it; of a list of mappings, what each is."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        names = [next((one[key] for key in NAMING if one.get(key)), "...") for one in value]
        return f"[{', '.join(names)}]"
    return value if isinstance(value, str) else json.dumps(value)

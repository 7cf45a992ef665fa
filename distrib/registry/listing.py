"""What is registered: a version by its address, and all of them in a list. It imports no torch, so that it is quick."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from distrib.errors import RegistryError
from distrib.tracking.client import connect, is_there, or_none
from distrib.values import MODEL_ADDRESS


def find(address: str, uri: str):
    """(client, model version) of ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``. Raises :class:`RegistryError`.

    Where ``uri`` is a SQLite file that is not there, none is made.
    """
    parts = MODEL_ADDRESS.match(address)
    if parts is None:
        raise RegistryError(
            f"{address}: write it as models:/NAME/VERSION (a number of at most 9 digits) or models:/NAME@ALIAS; on the "
            "command line NAME/VERSION and NAME@ALIAS do, such as digits@champion"
        )
    if not is_there(uri):
        raise _absent(address, uri, [])
    registry, name = connect(uri), parts["name"]
    number, alias = parts["version"], parts["alias"]
    found = or_none(
        lambda: registry.get_model_version(name, number) if number else registry.get_model_version_by_alias(name, alias)
    )
    if found is None:
        raise _absent(address, uri, sorted(model.name for model in _models(registry)))
    return registry, found


def _absent(address: str, uri: str, names: list[str]) -> RegistryError:
    there = f"registered there: {', '.join(names)}" if names else "nothing is registered there"
    return RegistryError(f"{address}: not in {uri}; {there} (see distrib models)")


def _models(registry) -> Iterator[Any]:
    """Every registered model; the server gives a hundred at a time."""
    page = registry.search_registered_models()
    yield from page
    while page.token:
        page = registry.search_registered_models(page_token=page.token)
        yield from page


def list_versions(uri: str, name: str | None = None) -> list[dict]:
    """Every version of every model (of the one called ``name``) with its robustness, newest first within a model."""
    registry = connect(uri)
    rows = []
    for model in _models(registry):
        if name not in (None, model.name):
            continue
        aliases: dict[str, list[str]] = {}
        for alias, number in model.aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        found = registry.search_model_versions(f"name = '{model.name}'")
        rows += [
            {
                "model": f"models:/{model.name}/{one.version}",
                "aliases": sorted(aliases.get(str(one.version), [])),
                "created": datetime.fromtimestamp(one.creation_timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
                **_claimed(one.tags),
                "run_id": one.run_id,
            }
            for one in sorted(found, key=lambda one: -int(one.version))
        ]
    return rows


def _claimed(tags: Mapping[str, str]) -> dict[str, Any]:
    """What the tags of a version say of it; None where they do not."""
    return {
        "arch": tags.get("arch"),
        "parameters": int(tags["parameters"]) if "parameters" in tags else None,
        "data": tags.get("data"),
        "clean_accuracy": _number(tags.get("clean_accuracy")),
        "robust_accuracy": _number(tags.get("robust_accuracy")),
        "tier": tags.get("tier"),
        "norm": tags.get("norm"),
        "epsilon": _number(tags.get("epsilon")),
        "attacks": tags["attacks"].split(",") if tags.get("attacks") else [],
        "n": int(tags["n"]) if "n" in tags else None,
        "flags": tags.get("flags"),
    }


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


ORDERS = {"robust": "robust_accuracy", "clean": "clean_accuracy", "date": "created"}


def ordered(rows: list[dict], by: str) -> list[dict]:
    """The rows with the largest ``by`` (robust, clean, date) first, those without it last; else as they are."""
    if by not in ORDERS:
        return rows
    known = [row for row in rows if row[ORDERS[by]] is not None]
    return sorted(known, key=lambda row: row[ORDERS[by]], reverse=True) + [row for row in rows if row not in known]

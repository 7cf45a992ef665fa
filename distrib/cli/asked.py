"""What the command line says of models and evaluations, as addresses and jobs."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from distrib.cli.parser import Options
from distrib.config.file import parse, yaml_value
from distrib.config.job import AnyJob
from distrib.data.named import THEIR_NAMES
from distrib.errors import JobError, RegistryError
from distrib.registry.listing import find
from distrib.registry.versions import fetch_card
from distrib.tracking import client

SOURCES = ("digits", *THEIR_NAMES)


def as_address(text: str) -> str:
    """``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, also where ``models:/`` is left out; else the text itself."""
    short = re.fullmatch(r"[^/@:]+(/\d{1,9}|@[^/@]+)", text) and not os.path.exists(text)
    return f"models:/{text}" if short else text


def evaluation_of(options: Options) -> AnyJob:
    """The job of ``distrib evaluate``. Raises :class:`JobError` where it lacks something that no card says."""
    model = as_address(options.model)
    card = _card(model, options.tracking_uri)
    data = _data(options.data) if options.data else card.get("job", {}).get("data")
    if data is None:
        raise JobError(f"--data: is missing; name one of {', '.join(SOURCES)}, or a folder that holds train and test")
    claim = card.get("claim", {})
    epsilon = options.epsilon if options.epsilon is not None else claim.get("epsilon")
    if epsilon is None:
        raise JobError("--epsilon: is missing; say how far the adversary may go, such as 8/255")
    threat = {"norm": options.norm or claim.get("norm", "linf"), "epsilon": epsilon}
    if options.norm is not None and options.epsilon is None and options.norm != claim.get("norm"):
        raise JobError("--epsilon: is missing; the card's is of another norm")
    asked: dict[str, Any] = {"threat": threat, "tier": options.tier} | ({} if options.n is None else {"n": options.n})
    document = {"kind": "evaluate", "model": model, "data": data, "evaluation": asked}
    if options.tracking_uri:
        document["tracking"] = {"uri": options.tracking_uri}
    version = find(model, client.address(options.tracking_uri))[1].version if model.startswith("models:") else None
    terms = [document, str(version), options.overrides, options.removals]  # another champion is another question
    document["name"] = options.name or _name(model, options.tier, terms)
    return parse(document, options.overrides, "distrib evaluate", Path.cwd(), options.removals)


def _card(model: str, tracking_uri: str | None) -> dict[str, Any]:
    """The card of a registered model; nothing where it has none, or is no registered one."""
    if not model.startswith("models:"):
        return {}
    uri = client.address(tracking_uri)
    client.must_exist(uri)
    try:
        return fetch_card(model, uri, None)[0]
    except RegistryError as error:
        if "has no robustness card" in str(error):
            return {}
        raise


def _data(text: str) -> dict[str, Any]:
    if text in SOURCES:
        return {"source": text}
    if text.lstrip().startswith("{"):
        return yaml_value(text, "--data")
    if not Path(text).is_dir():
        raise JobError(f"--data: {text!r} is none of {', '.join(SOURCES)}, and no folder that holds train and test")
    return {"source": "folder", "root": text}


def _name(model: str, tier: str, terms: object) -> str:
    """A name of the run: another one for another question."""
    mark = hashlib.sha256(json.dumps(terms, sort_keys=True, default=str).encode()).hexdigest()[:6]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(model.removeprefix("models:/").replace("/", "-")).stem).strip("-.")
    return f"evaluate-{plain[:30]}-{tier}-{mark}"

"""What stood elsewhere in a job of an older distrib: a job file is told where to, a record of a run is read as it is.

Up to 0.1 the threat stood inside the attack, and the study landscape had the fields of its attack itself.
"""

import copy
from collections.abc import Iterator

BESIDE = "moved beside the attack in 0.2"
INSIDE = "moved into the attack in 0.2"
OLD, NEW = "objective.attack.threat", "objective.threat"
"""The threat in the paths of a search's space."""
ADDED = {
    "step_schedule": "constant", "random_start": True, "restarts": 1, "loss": "cross_entropy", "kappa": 0.0,
    "target": "none", "batch_norm": "eval",
}  # fmt: skip
"""What 0.1 could not tell an evaluation's pgd or a landscape's attack, and took for granted."""


def new_path(path: str) -> str:
    """Where the field ``path`` of a search's space stands now."""
    return NEW + path.removeprefix(OLD) if path == OLD or path.startswith(f"{OLD}.") else path


def new_settings(settings: dict) -> dict:
    """What a trial of a search sets, by the paths of today."""
    settings = {new_path(path): value for path, value in copy.deepcopy(settings).items()}
    if isinstance(settings.get("objective"), dict):
        _move(settings["objective"])
    return settings


def moves(job: dict) -> list[str]:
    """A line for each field of the job ``job``, as plain values, that stands elsewhere now."""
    lines = []
    for path, part in _parts(job):
        if _has_threat(part.get("attack")):
            lines.append(f"{path}.attack.threat: {BESIDE}: write it as {path}.threat")
        lines += [f"{path}.{key}: {INSIDE}: write it as {path}.attack.{key}" for key in _of_landscape(part)]
    for path, domain in _space(job).items():
        if new_path(path) != path:
            lines.append(f"space.{path}: {BESIDE}: write it as {new_path(path)}")
        by = domain.get("divided_by") if isinstance(domain, dict) else None
        if isinstance(by, str) and new_path(by) != by:
            lines.append(f"space.{path}.divided_by: {by} {BESIDE}: write it as {new_path(by)}")
        for value in _listed(domain):
            inside = value.get("attack") if path == "objective" else value if path == "objective.attack" else None
            if _has_threat(inside):
                lines.append(f"space.{path}: the threat {BESIDE}: write it as {NEW}")
    return list(dict.fromkeys(lines))


def renewed(job: dict) -> dict:
    """The job of a run's record as today's distrib writes it; ``job``, which is left as it is, may be of 0.1."""
    job = copy.deepcopy(job)
    for _, part in _parts(job):
        _move(part)
        if names := _of_landscape(part):
            part["attack"] = ADDED | {name: part.pop(name) for name in names}
    if space := _space(job):
        job["space"] = {new_path(path): domain for path, domain in space.items()}
        for path, domain in job["space"].items():
            if isinstance(domain, dict) and isinstance(domain.get("divided_by"), str):
                domain["divided_by"] = new_path(domain["divided_by"])
            for value in _listed(domain) if path == "objective" else ():
                _move(value)
    for attack in _evaluated(job):
        if attack.get("attack") in ("pgd", "transfer"):
            attack.update(ADDED | attack)
    return job


def _parts(job: dict) -> Iterator[tuple[str, dict]]:
    """The mappings of a job that name a threat and an attack, by their path."""
    for path in ("objective", "validation", "train.objective", "score", "study"):
        found = _at(job, path)
        if isinstance(found, dict):
            yield path, found


def _evaluated(job: dict) -> Iterator[dict]:
    """The attacks that a job judges with."""
    for path in ("evaluation.attacks", "train.evaluation.attacks", "study.attacks"):
        found = _at(job, path)
        yield from (one for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


def _at(job: object, path: str) -> object:
    for key in path.split("."):
        job = job.get(key) if isinstance(job, dict) else None
    return job


def _space(job: dict) -> dict:
    found = job.get("space")
    return found if isinstance(found, dict) else {}


def _listed(domain: object) -> Iterator[dict]:
    """The mappings that a domain lists."""
    lists = [domain.get(kind) for kind in ("choice", "grid")] if isinstance(domain, dict) else []
    yield from (value for found in lists if isinstance(found, list) for value in found if isinstance(value, dict))


def _has_threat(attack: object) -> bool:
    return isinstance(attack, dict) and "threat" in attack


def _of_landscape(part: dict) -> list[str]:
    return [key for key in ("num_steps", "step_size") if key in part] if part.get("of") == "landscape" else []


def _move(part: dict) -> None:
    if _has_threat(part.get("attack")):
        part["threat"] = part["attack"].pop("threat")

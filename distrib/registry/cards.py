"""The cards of a registered model's versions: what each was judged on, what it found, and image by image what stood.

Two figures are compared only where their cards share all :data:`TERMS`. Every decision about ``champion`` keeps the
terms of the card that led to it, as a tag of the registered model: together they are all that was ever found out about
a version, and about other versions with the same weights.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distrib.errors import RegistryError
from distrib.evaluation.attacks import EvaluationPlan
from distrib.tracking.client import or_none

QUESTION = ("norm", "epsilon", "data_sha256")
"""The tags that say what a version was asked. Its own card stays with one question; others are kept beside it."""
DRAWN = ("seed", "shard_size")
"""The terms that change random numbers only: cards that differ in them alone are of one kind, and are pooled."""
TERMS = (*QUESTION, "attacks_sha256", "n", "examples_sha256", *DRAWN)
"""The tags that two cards must share for their figures to be compared."""
SETTING = {"n": "evaluation.n", "seed": "evaluation.seed", "shard_size": "evaluation.shard_size"}
"""Terms that a job file gives under these names."""
NEVER_BLOCKING = (
    "steps_not_converged", "restarts_not_converged", "few_classes", "precision_gap", "epsilon_curve_rises",
    "images_projected",
)  # fmt: skip
"""Flags that leave a figure usable, for old decisions that do not say which of their flags blocked."""
KEPT = "mlflow.distrib.promotion."
"""Tags of a registered model: the decisions, by their time. MLflow's pages do not show tags that begin with its name:
they are records for programs."""
KEPT_BEFORE = "promotion."
"""How an older distrib named them."""


@dataclass(frozen=True)
class Kept:
    """One evaluation of a version, as the decision after it keeps it."""

    version: str
    weights_sha256: str | None
    run_id: str
    """Of MLflow, where the card and every image's fate are."""
    tier: str
    terms: dict
    """``attacks`` (their names) and :data:`TERMS`."""
    blocking: tuple[str, ...]
    """The flags for which the figure is not to be used."""


def same(term: str, a: object, b: object) -> bool:
    """Whether two cards say the same; a number may be rounded to six digits, as tags have it."""
    if term == "epsilon" and a is not None and b is not None:
        return math.isclose(float(a), float(b), rel_tol=1e-5)  # type: ignore[arg-type]
    return str(a) == str(b)


def different(a: Mapping, b: Mapping) -> list[str]:
    """What keeps two cards' figures from being compared, in words; both hold ``attacks`` and :data:`TERMS`."""
    found = [term for term in TERMS if not same(term, a.get(term), b.get(term))]
    if len(found) > 1 and "examples_sha256" in found:
        found.remove("examples_sha256")  # another seed, number or data set draws other images
    named = []
    for term in found:
        if term != "attacks_sha256":
            named.append(f"{term} {_told(a.get(term))} against {_told(b.get(term))}")
        elif a.get("attacks") != b.get("attacks"):
            named.append(f"attacks {a.get('attacks')} against {b.get('attacks')}")
        elif not {"norm", "epsilon"} & set(found):  # a step size in pixels is another share of another epsilon
            named.append(f"the attacks {a.get('attacks')} with other settings")
    return named


def _told(value: object) -> str:
    return "unknown" if value is None else str(value)


def terms_of(card: dict) -> dict:
    """What two cards must share, and the attacks' names; of a card of an older distrib too, which says less."""
    claim = card["claim"]
    whole = {**claim, **card, "attacks": ",".join(sorted(claim["attacks"]))}
    if "shard_size" not in card:
        asked = card["job"].get("evaluation", {}).get("shard_size")
        whole["shard_size"] = asked and min(asked, claim["n_clean"])
        whole["attacks_sha256"] = _identity(card)
    return {term: whole.get(term) for term in ("attacks", *TERMS)}


def _identity(card: dict) -> str:
    """The hash of an older card's attacks as it is made today; its own where they take images from elsewhere."""
    threat = {name: card["claim"][name] for name in ("norm", "epsilon")}
    plan = EvaluationPlan.model_validate({"threat": threat, "attacks": list(card["attacks"].values())}, strict=False)
    try:
        return plan.identity({})
    except KeyError:
        return card["attacks_sha256"]


def fetch(run_id: str, beside: str = "examples.csv") -> tuple[dict, str]:
    """(the card of an MLflow run, the text of a file beside it). Raises :class:`RegistryError`."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        card, text = (mlflow.artifacts.load_text(f"runs:/{run_id}/card/{file}") for file in ("card.json", beside))
        return json.loads(card), text
    except (MlflowException, OSError, ValueError) as error:  # OSError: also what a server's HTTP raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RegistryError(f"the card of the run {run_id} cannot be fetched ({reason})") from None


def outcomes(examples: str, column: str) -> dict[int, bool]:
    """Whether each image stood, by its index in the test split; those that were not asked for are left out."""
    rows = csv.DictReader(io.StringIO(examples))
    return {int(row["index"]): row[column] == "1" for row in rows if row.get(column)}


def pooled(cards: Iterable[Kept]) -> dict[int, bool]:
    """Whether each image stood in every one of these evaluations: what broke once is broken.

    Raises :class:`RegistryError`.
    """
    stood: dict[int, bool] = {}
    for card in cards:
        for index, one in outcomes(fetch(card.run_id)[1], "worst").items():
            stood[index] = stood.get(index, True) and one
    return stood


def kept_decisions(tags: Mapping[str, str]) -> dict[str, dict]:
    """Every decision about ``champion`` that the tags of a registered model keep, by its time, oldest first."""
    found = {
        key.removeprefix(prefix): json.loads(value)
        for key, value in tags.items()
        for prefix in (KEPT, KEPT_BEFORE)
        if key.startswith(prefix)
    }
    return dict(sorted(found.items()))


def kept(registry, name: str) -> list[Kept]:
    """Every evaluation of every version of a registered model, oldest first."""
    model = or_none(lambda: registry.get_registered_model(name))
    versions = registry.search_model_versions(f"name = '{name}'") if model else []
    weights = {str(one.version): one.tags.get("weights_sha256") for one in versions}
    told = list(kept_decisions(model.tags).values()) if model else []
    known = {(one["version"], one["run_id"]) for one in told}
    earlier = [_of_tags(str(one.version), one.tags) for one in versions if "card_run" in one.tags]
    earlier = [one for one in earlier if (one["version"], one["run_id"]) not in known]  # before decisions were kept
    return [_of(plain, weights.get(plain["version"])) for plain in (*earlier, *told)]


def _of_tags(version: str, tags: dict[str, str]) -> dict:
    blocking = tags.get("blocking", "none")
    return {
        "version": version, "run_id": tags["card_run"], "tier": tags["tier"],
        "terms": {term: tags.get(term) for term in ("attacks", *TERMS)},
        "flags": [] if blocking == "none" else blocking.split(","),
        "tagged": [] if blocking == "none" else blocking.split(","),
    }  # fmt: skip


def _of(plain: dict, weights: str | None) -> Kept:
    """What a decision keeps. What an older one does not say is read from its card, or stays unknown."""
    terms, blocking = plain["terms"], plain.get("blocking")
    if blocking is None:
        try:
            card, _ = fetch(plain["run_id"])
            terms = terms_of(card)
            found = [flag["name"] for flag in card["claim"]["flags"] if flag["blocking"]]
            blocking = dict.fromkeys([*found, *plain.get("tagged", ())])  # also those of cards that are not here
        except RegistryError:
            blocking = [flag for flag in plain["flags"] if flag not in NEVER_BLOCKING]
    weights = plain.get("weights_sha256", weights)
    return Kept(plain["version"], weights, plain["run_id"], plain["tier"], terms, tuple(blocking))

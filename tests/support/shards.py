"""Shard results that are made up, image by image, for tests of what is concluded from them."""

from collections.abc import Sequence

from distrib.evaluation.attacks import EvaluationPlan
from distrib.evaluation.evidence import gather
from distrib.evaluation.outcomes import BROKEN, NOT_ASKED, SPARED, STOOD, ShardResult
from distrib.evaluation.probes import Probes
from distrib.evaluation.result import Result, conclude

FGSM, PGD_20, AUTO = {"attack": "fgsm"}, {"attack": "pgd", "num_steps": 20}, {"attack": "autoattack"}


def evaluation_of(*attacks: dict, **fields) -> EvaluationPlan:
    document = {"threat": {"norm": "linf", "epsilon": 0.3}, "attacks": list(attacks) or [FGSM, PGD_20], **fields}
    return EvaluationPlan.model_validate(document, strict=False)


def outcomes_of(text: str) -> list[int]:
    """``"1.0s"``: stood, not asked, broken, spared."""
    return [{"1": STOOD, "0": BROKEN, ".": NOT_ASKED, "s": SPARED}[letter] for letter in text]


def quiet(count: int, **fields) -> Probes:
    """The probes of a model of which there is nothing to say."""
    plain = {
        "repeat_change": 0.0, "company_change": 1e-6, "state_changed": False, "optimises": False,
        "probabilities": False, "spread": 10.0, "zero_gradient": [False] * count, "epsilon_curve": [(1.0, 0, count)],
        "fell": [False] * count,
        "float32_right": 0, "bfloat16_right": 0, "reduced": count,
        "jumps": [1e-3] * 30, "ledges": [1e-6] * 30, "gradient_errors": [0.1] * 30,
    }  # fmt: skip
    return Probes(**plain | fields)


def shard(clean: str, position: list[int] | None = None, **fields) -> ShardResult:
    """One shard of images; ``fgsm="110"`` and the like are their outcomes. Images stand at 1000 + position."""
    places = list(range(len(clean))) if position is None else position
    label = [place % 10 for place in places]
    wrong = [(place + 1 + place // 10 % 9) % 10 for place in places]
    plain = {
        "position": places, "index": [1000 + place for place in places], "label": label, "worst": [""] * len(clean),
        "attacked": [one if hit == "1" else other for one, other, hit in zip(label, wrong, clean, strict=True)],
        "predicted": [one if hit == "1" else other for one, other, hit in zip(label, wrong, clean, strict=True)],
        "parts": [], "stage": [""] * len(clean), "starts": {}, "probes": quiet(len(clean)),
        "lost": [False] * len(clean), "infinite": [False] * len(clean),
    }  # fmt: skip
    given = {name: fields.pop(name) for name in list(fields) if name in plain}
    outcome = {name.replace("_", "-"): outcomes_of(text) for name, text in fields.items()}
    amounts = {name: 1.5 for name in outcome}
    return ShardResult(outcomes=outcome, largest_change=amounts, seconds=amounts, **plain | given)


def concluded(shards: Sequence[ShardResult], evaluation: EvaluationPlan, count: int, classes: int) -> Result:
    return conclude(gather(shards, evaluation, count, classes))


def result_of(*shards: ShardResult, attacks: tuple[dict, ...] = (FGSM, PGD_20), classes: int = 10, **fields) -> Result:
    count = sum(len(one.position) for one in shards)
    return concluded(shards, evaluation_of(*attacks, **fields), count, classes)


def flag_names(found: Result) -> set[str]:
    return {flag.name for flag in found.flags}


CALM = {"clean": "1" * 200, "fgsm": "1" * 150 + "0" * 50, "pgd_20": "1" * 100 + "0" * 100}


def probed(count: int = 200, **fields) -> ShardResult:
    return shard(**CALM, probes=quiet(count, **fields))

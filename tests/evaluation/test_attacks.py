"""Evaluation attacks: what they become over a threat, what they are called, and that no two share a name."""

import pytest
from adversaries import lengths
from pydantic import TypeAdapter, ValidationError

from distrib.attack import FGSM, PGD, OfEpsilon
from distrib.evaluation.attacks import (
    AutoAttack,
    Evaluation,
    EvaluationAttack,
    Fgsm,
    Pgd,
    Transfer,
    attacks_of,
    tier_of,
)
from distrib.threat import L1, L2, Linf, Threat

ATTACK = TypeAdapter(EvaluationAttack)
LINF, TWO = Linf(epsilon=0.3), L2(epsilon=2.0)
threats = pytest.mark.parametrize("threat", [LINF, TWO, L1(epsilon=8.0)], ids=["linf", "l2", "l1"])


def pgd(num_steps: int = 20, **fields) -> Pgd:
    return ATTACK.validate_python({"attack": "pgd", "num_steps": num_steps, **fields}, strict=False)


@threats
def test_fgsm_is_one_whole_step_from_the_image_itself(threat: Threat):
    attack = Fgsm(attack="fgsm").pgd
    assert attack == FGSM and (attack.num_steps, attack.random_start, attack.restarts) == (1, False, 1)
    assert lengths(attack, threat) == [threat.epsilon]


@pytest.mark.parametrize("threat", [LINF, TWO], ids=["linf", "l2"])
@pytest.mark.parametrize("num_steps", [1, 3, 20, 100])
def test_the_default_steps_can_reach_every_point_of_the_ball(threat: Threat, num_steps: int):
    """From one side of it to the other (2 epsilon), with a quarter to spare."""
    for attack in (pgd(num_steps), PGD(num_steps=num_steps)):  # an evaluation's, a training's
        assert sum(lengths(attack, threat)) == pytest.approx(2.5 * threat.epsilon)
        assert attack.random_start


@pytest.mark.parametrize("threat", [LINF, TWO], ids=["linf", "l2"])
@pytest.mark.parametrize("step_size", [0.01, "2/255", {"of_epsilon": 0.5}])
def test_a_step_size_that_is_given_is_kept(threat: Threat, step_size: object):
    expected = {"0.01": 0.01, "2/255": 2 / 255}.get(str(step_size), 0.5 * threat.epsilon)
    assert lengths(pgd(8, step_size=step_size), threat) == pytest.approx([expected] * 8)


def test_every_field_reaches_the_attack():
    fields = {"restarts": 3, "loss": "cw_margin", "kappa": 5.0, "target": "random", "step_size": 0.01}
    source = {"attack": "transfer", "source": "models:/m/1"}
    for attack in (pgd(30, **fields).pgd, ATTACK.validate_python(source | fields | {"num_steps": 30}).pgd):
        assert attack.model_dump(include=set(PGD.model_fields)) == PGD(num_steps=30, **fields).model_dump()
    assert ATTACK.validate_python(source | {"num_steps": 1}).pgd == FGSM
    assert ATTACK.validate_python({"attack": "pgd"}).num_steps == PGD().num_steps


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (Fgsm(attack="fgsm"), "fgsm"),
        (Fgsm(attack="fgsm", n=5), "fgsm"),
        (pgd(20), "pgd-20"),
        (pgd(100, restarts=20), "pgd-100x20"),
        (pgd(30, loss="cw_margin"), "cw-30"),
        (pgd(30, loss="cw_margin", kappa=50.0), "cw-30-k50"),
        (pgd(20, target="least_likely"), "pgd-20-least-likely"),
        (pgd(20, target="all", restarts=2), "pgd-20x2-all"),
        (pgd(20, target="random", restarts=2), "pgd-20x2-random"),
        (AutoAttack(attack="autoattack"), "autoattack"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names(attack: EvaluationAttack, name: str):
    assert attack.name == name


DISTINCT = [
    Fgsm(attack="fgsm"), AutoAttack(attack="autoattack"), pgd(20), pgd(40), pgd(20, restarts=2),
    pgd(20, target="random"), pgd(20, target="least_likely"), pgd(20, target="all"), pgd(20, loss="cw_margin"),
    pgd(20, loss="cw_margin", kappa=1.0),
    pgd(20, loss="cw_margin", target="random"),
]  # fmt: skip


def test_attacks_that_differ_may_stand_side_by_side():
    assert Evaluation(attacks=tuple(DISTINCT)).attacks == tuple(DISTINCT)


@pytest.mark.parametrize("attack", DISTINCT, ids=lambda attack: attack.name)
def test_the_same_attack_twice_is_refused(attack: EvaluationAttack):
    """Results are kept by name: one would overwrite the other."""
    other = attack.model_copy(update={"n": 10})
    with pytest.raises(ValidationError, match=f"the attack {attack.name} is listed twice"):
        Evaluation(attacks=(attack, Fgsm(attack="fgsm", n=3) if attack.attack == "pgd" else pgd(7), other))


def test_two_that_differ_in_their_step_are_told_apart_by_a_label():
    """Behind the name, so that none passes for a stronger attack."""
    plain, other = (
        Pgd(attack="pgd", num_steps=20, step_size=k / 255, label=label) for k, label in ((1, None), (2, "step-2"))
    )
    with pytest.raises(ValidationError, match=r"pgd-20 is listed twice; .* by a label"):
        Evaluation(attacks=(plain, other.model_copy(update={"label": None})))
    assert [one.name for one in Evaluation(attacks=(plain, other)).attacks] == ["pgd-20", "pgd-20-step-2"]
    transfer = Transfer(attack="transfer", source="models:/a/1", label="b")
    assert transfer.name == "transfer-a-1-pgd-40-b"


def names(tier: str | None, grey: bool = True, **fields) -> list[str]:
    evaluation = TypeAdapter(Evaluation).validate_python({"tier": tier, **fields}, strict=False)
    return [attack.name for attack in evaluation.resolved(LINF, grey).attacks]


def test_the_default_is_the_standard_tier():
    assert names(None) == names("standard") == ["fgsm", "pgd-20", "autoattack"]
    resolved = Evaluation().resolved(LINF, True)
    assert all(attack.n is None for attack in resolved.attacks) and resolved.threat == LINF


def test_the_paper_tier_is_the_papers_table():
    """Madry et al., Tables 1 and 2: steps, restarts, kappa, and the step sizes 0.01 of 0.3 and 2 of 8."""
    assert names("paper") == [
        "fgsm", "pgd-40", "pgd-100", "pgd-40x20", "pgd-100x20", "pgd-40-random", "pgd-40-all", "cw-40", "cw-40-k50"
    ]  # fmt: skip
    assert names("paper", grey=False) == ["fgsm", "pgd-7", "pgd-20", "cw-30"]
    for grey, epsilon, step in ((True, 0.3, 0.01), (False, 8 / 255, 2 / 255)):
        for attack in Evaluation(tier="paper").resolved(Linf(epsilon=epsilon), grey).attacks[1:]:
            assert lengths(attack, Linf(epsilon=epsilon)) == pytest.approx([step] * attack.num_steps)


def test_the_paranoid_tier_holds_the_standard_and_its_doubts():
    found = names("paranoid", sources=["models:/mnist-b/1", "runs/natural/robust/epoch-00003"])
    assert found == [
        "fgsm", "pgd-20", "pgd-40", "noise-100", "transfer-mnist-b-1-pgd-40",
        "transfer-robust-epoch-00003-c59bf0-pgd-40", "pgd-100x20", "pgd-200", "autoattack",
    ]  # fmt: skip


@pytest.mark.parametrize("tier", ["quick", "paper", "standard", "paranoid"])
@pytest.mark.parametrize("grey", [True, False])
def test_a_tier_is_known_by_its_attacks(tier: str, grey: bool):
    resolved = TypeAdapter(Evaluation).validate_python({"tier": tier}, strict=False).resolved(LINF, grey)
    assert tier_of(resolved.attacks, LINF) == tier
    assert tier_of((*resolved.attacks, pgd(7, restarts=9)), LINF) == tier
    assert tier_of(resolved.attacks[1:], LINF) != tier
    assert resolved.resolved(TWO, grey) == resolved, "what is written out stays as it is"


def test_a_tier_is_not_known_by_names_alone():
    """Steps so small that they lead nowhere have the same name; the same step in pixel units is the same attack."""
    (fgsm, right) = (
        TypeAdapter(Evaluation).validate_python({"tier": "quick"}, strict=False).resolved(LINF, True).attacks
    )
    weak, same = (right.model_copy(update={"step_size": size}) for size in (1e-6, 2.5 / 20 * LINF.epsilon))
    still = right.model_copy(update={"random_start": False})
    assert weak.name == same.name == still.name == right.name
    found = [tier_of((fgsm, one), LINF) for one in (weak, same, still)]
    assert found == ["custom", "quick", "custom"]


def test_sources_whose_paths_end_alike_are_told_apart():
    sources = [f"runs/{one}/robust/epoch-00014" for one in "ab"]
    found = names("paranoid", sources=sources)
    assert len(set(found)) == len(found) == 9
    with pytest.raises(ValidationError, match=r"the attack transfer-a-1-pgd-40 is listed twice"):
        names("paranoid", sources=["models:/a/1", "models:/a-1"])


def test_attacks_are_known_by_where_they_come_from():
    read = ATTACK.validate_python
    assert (
        read({"attack": "transfer", "source": "models:/a@champion", "num_steps": 1}).name == "transfer-a-champion-fgsm"
    )
    assert read({"attack": "square", "queries": 9}).name == "square-9"
    assert read({"attack": "noise", "draws": 3}).name == "noise-3"
    assert read({"attack": "stored", "path": "/x/sets/theirs"}).name == "stored-sets-theirs-1c3a15"


@pytest.mark.parametrize(
    ("document", "phrase"),
    [
        ({"tier": "quick", "attacks": [{"attack": "fgsm"}]}, "tier and attacks exclude each other"),
        ({"sources": ["models:/a/1"]}, "sources belong to tier: paranoid"),
        ({"tier": "paranoid", "sources": ["a", "a"]}, "listed twice"),
        ({"tier": "best"}, "Input should be"),
        ({"attacks": [{"attack": "transfer", "source": "a", "kappa": 1.0}]}, "kappa belongs to loss: cw_margin"),
        ({"attacks": [{"attack": "pgd", "num_steps": 0}]}, "greater than or equal to 1"),
        ({"attacks": [{"attack": "pgd", "num_steps": 5, "kappa": 1.0}]}, "kappa belongs to loss: cw_margin"),
        ({"attacks": [{"attack": "pgd", "num_steps": 5, "draws": 3}]}, "Extra inputs"),
        ({"attacks": [{"attack": "pgd", "batch_norm": "train"}]}, "judges each image by itself"),
        ({"attacks": [{"attack": "pgd", "random_start": False, "restarts": 2}]}, "repeat one attack"),
        ({"attacks": [{"attack": "fgsm", "num_steps": 5}]}, "Extra inputs"),
        ({"attacks": [{"attack": "fgsm", "n": 0}]}, "greater than or equal to 1"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"shard_size": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_suites_are_refused(document: dict, phrase: str):
    with pytest.raises(ValidationError, match=phrase):
        TypeAdapter(Evaluation).validate_python(document, strict=False)


@pytest.mark.parametrize("attack", DISTINCT, ids=lambda attack: attack.name)
def test_attacks_are_written_and_read_back(attack: EvaluationAttack):
    assert ATTACK.validate_json(ATTACK.dump_json(attack)) == attack


IDENTITIES = {
    "quick": "730c9defedf4aeb7", "paper": "49331ddf89b94ead", "standard": "c483ff7a491a1c9b",
    "paranoid": "504428906f082863",
}  # fmt: skip
MIXED = [
    {"attack": "pgd", "num_steps": 10}, {"attack": "pgd", "num_steps": 1},
    {"attack": "pgd", "num_steps": 30, "step_size": 0.01, "restarts": 3, "loss": "cw_margin", "kappa": 5.0,
     "target": "random", "n": 7, "meets": "standing"},
    {"attack": "transfer", "source": "models:/m/1", "num_steps": 1},
    {"attack": "transfer", "source": "models:/m/1", "num_steps": 10}, {"attack": "square"},
    {"attack": "noise", "draws": 3},
]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "grey", "expected"),
    [
        *(({"tier": tier}, True, mark) for tier, mark in IDENTITIES.items()),
        ({"tier": "paper"}, False, "ab0f8891285bd673"),
        ({"attacks": MIXED}, True, "55953dc0c64deb12"),
    ],
)
def test_identities_are_those_of_0_1_so_that_cards_of_before_compare(asked: dict, grey: bool, expected: str):
    sources = ["models:/m/1"] if asked.get("tier") == "paranoid" else []
    one = TypeAdapter(Evaluation).validate_python(asked | {"sources": sources}, strict=False)
    plan = one.plan(Linf(epsilon=0.1) if "attacks" in asked else Linf(epsilon=8 / 255), grey)
    assert plan.identity({"models:/m/1": "c" * 64})[:16] == expected


def test_a_plan_has_a_threat_and_its_attacks_and_is_what_the_record_says():
    asked = Evaluation(tier="quick", n=7, seed=3)
    plan, written = asked.plan(LINF, True), asked.resolved(LINF, True)
    assert (plan.threat, plan.n, plan.seed) == (LINF, 7, 3) and plan.attacks == attacks_of("quick", True)
    assert written.plan(None, False) == plan, "a record needs nothing more"
    assert Evaluation(threat=L2(epsilon=1)).plan(LINF, True).threat == L2(epsilon=1)
    with pytest.raises(ValueError, match=r"^evaluation\.threat: is missing"):
        asked.plan(None, True)


JUDGED = Evaluation(tier="standard").plan(Linf(epsilon=0.1), grey=True)


def test_one_epsilon_written_in_two_ways_has_one_identity():
    one, other = (JUDGED.model_copy(update={"threat": Linf(epsilon=epsilon)}) for epsilon in (8 / 255, 0.0313725))
    assert one.identity({}) == other.identity({})


@pytest.mark.parametrize(("of_epsilon", "pixels"), [(0.25, 2 / 255), (2.5 / 20, 1 / 255), (1 / 30, 8 / 255 / 30)])
def test_a_step_in_pixels_is_the_same_step_as_its_share(of_epsilon: float, pixels: float):
    fgsm, pgd, auto = JUDGED.attacks
    suites = [
        JUDGED.model_copy(
            update={
                "threat": Linf(epsilon=8 / 255),
                "attacks": (fgsm, pgd.model_copy(update={"step_size": step}), auto),
            }
        )
        for step in (OfEpsilon(of_epsilon=of_epsilon), pixels, 1.1 * pixels)
    ]
    share, absolute, other = (suite.identity({}) for suite in suites)
    assert share == absolute != other

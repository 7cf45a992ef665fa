"""From shards to a claim: the worst case is taken image by image, every image counts once, suspicion is told."""

import hashlib
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest

from distrib.errors import RunError
from distrib.evaluation.attacks import Evaluation
from distrib.evaluation.autoattack import parts_for
from distrib.evaluation.probes import Probes
from distrib.evaluation.result import Result, conclude, gather, wilson
from distrib.evaluation.shard import BROKEN, NOT_ASKED, SPARED, STOOD, ShardResult

FGSM, PGD, AUTO = {"attack": "fgsm"}, {"attack": "pgd", "num_steps": 20}, {"attack": "autoattack"}


def suite(*attacks: dict, **fields) -> Evaluation:
    document = {"threat": {"norm": "linf", "epsilon": 0.3}, "attacks": list(attacks) or [FGSM, PGD], **fields}
    return Evaluation.model_validate(document, strict=False)


def fates(text: str) -> list[int]:
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
    """One shard of images; ``fgsm="110"`` and the like are their fates. Images stand at 1000 + position."""
    places = list(range(len(clean))) if position is None else position
    label = [place % 10 for place in places]
    wrong = [(place + 1 + place // 10 % 9) % 10 for place in places]
    plain = {
        "position": places, "index": [1000 + place for place in places], "label": label, "worst": [""] * len(clean),
        "predicted": [one if hit == "1" else other for one, other, hit in zip(label, wrong, clean, strict=True)],
        "parts": [], "stage": [""] * len(clean), "starts": {}, "probes": quiet(len(clean)),
        "lost": [False] * len(clean), "infinite": [False] * len(clean),
    }  # fmt: skip
    given = {name: fields.pop(name) for name in list(fields) if name in plain}
    fate = {name.replace("_", "-"): fates(text) for name, text in fields.items()}
    amounts = {name: 1.5 for name in fate}
    return ShardResult(fate=fate, largest_change=amounts, seconds=amounts, **plain | given)


def judged(shards: Sequence[ShardResult], terms: Evaluation, count: int, classes: int) -> Result:
    return conclude(gather(shards, terms, count, classes))


def claim(*shards: ShardResult, attacks: tuple[dict, ...] = (FGSM, PGD), classes: int = 10, **fields) -> Result:
    count = sum(len(one.position) for one in shards)
    return judged(shards, suite(*attacks, **fields), count, classes)


def flags(found: Result) -> set[str]:
    return {flag.name for flag in found.flags}


def test_a_share_is_one_of_the_images_that_were_asked():
    """20 of 100 more are broken by twice the steps; that 400 others were not asked makes it no smaller."""
    rest = "." * 400
    pgd_40 = {"attack": "pgd", "num_steps": 40, "n": 100}
    some = shard("1" * 500, fgsm="1" * 500, pgd_20="1" * 100 + rest, pgd_40="0" * 20 + "1" * 80 + rest)
    told = [flag for flag in claim(some, attacks=(FGSM, PGD | {"n": 100}, pgd_40)).flags]
    assert [flag.detail for flag in told] == [
        "pgd-20 to pgd-40: 20.0% more images broken; a stronger attack would go on"
    ]
    some = shard("1" * 500, fgsm="0" * 4 + "1" * 496, pgd_20="1" * 100 + rest)
    assert flags(claim(some, attacks=(FGSM, PGD | {"n": 100}))) == set()
    some = shard("1" * 500, fgsm="0" * 8 + "1" * 492, pgd_20="1" * 100 + rest)
    assert flags(claim(some, attacks=(FGSM, PGD | {"n": 100}))) == {"fgsm_stronger_than_pgd"}


@pytest.mark.parametrize(
    ("labels", "predicted", "collapsed"),
    [
        ([0] * 76 + [1] * 24, [0] * 100, True),
        ([0] * 97 + [1] * 3, [0] * 100, True),
        ([0] * 98 + [1] * 2, [0] * 100, False),
        ([0] * 76 + [1] * 24, [0] * 98 + [1] * 2, True),
        ([0] * 76 + [1] * 24, [0] * 80 + [1] * 20, False),
        ([0] * 98 + [1] * 2, [0] * 98 + [1] * 2, False),
        ([0] * 100, [0] * 100, False),
    ],
)
def test_a_model_that_says_one_class_has_collapsed_however_often_that_is_right(labels, predicted, collapsed):
    told = claim(shard("1" * 100, fgsm="1" * 100, label=labels, predicted=predicted), attacks=(FGSM,), classes=2)
    assert ("constant_output" in flags(told)) is collapsed, told.flags


def test_what_only_a_black_box_broke_still_meets_a_standing_white_box():
    """The fate under the white box is its own; the accuracy of what still stood counts all before it."""
    square, later = {"attack": "square", "queries": 9}, {"attack": "autoattack", "meets": "standing"}
    stages = {"parts": list(parts_for(10, True)), "stage": ["apgd-ce"] * 5 + [""] * 95}
    some = shard("1" * 100, fgsm="1" * 100, pgd_20="1" * 100, square_9="0" * 5 + "1" * 95,
                 autoattack="0" * 5 + "1" * 95, **stages)  # fmt: skip
    found = claim(some, attacks=(FGSM, PGD, square, later))
    assert found.flags == () and found.attacks["autoattack"] == found.robust_accuracy == 0.95
    assert set(found.stages.values()) == {0.95}
    some = shard("1" * 100, fgsm="1" * 100, pgd_20="1" * 100, square_9="0" * 5 + "1" * 95, autoattack="1" * 100,
                 **stages | {"stage": [""] * 100})  # fmt: skip
    found = claim(some, attacks=(FGSM, PGD, square, later))
    assert flags(found) == {"black_box_beats_white_box"} and found.attacks["autoattack"] == 0.95


def test_the_worst_case_is_the_mean_of_minima_not_the_minimum_of_means():
    found = claim(shard("1111", fgsm="1100", pgd_20="0110"))
    assert found.attacks == {"fgsm": 0.5, "pgd-20": 0.5}
    assert found.robust_accuracy == 0.25 and found.clean_accuracy == 1.0
    assert (found.n, found.n_clean, found.attacks_n) == (4, 4, {"fgsm": 4, "pgd-20": 4})


def test_against_a_count_by_hand_over_random_fates():
    """Sums over loops, for many seeds, however the images are cut into shards."""
    draw = np.random.default_rng(0)
    for _ in range(30):
        count = int(draw.integers(1, 40))
        clean = draw.random(count) < 0.8
        fate = {name: clean & (draw.random(count) < 0.6) for name in ("fgsm", "pgd-20")}
        cuts = np.split(np.arange(count), np.unique(draw.integers(1, count + 1, 3)))
        cuts = [cut for cut in cuts if len(cut)]
        letters = {name: "".join("01"[int(hit)] for hit in fate[name]) for name in fate} | {
            "clean": "".join("01"[int(hit)] for hit in clean)
        }
        shards = [
            shard("".join(letters["clean"][i] for i in cut), cut.tolist(),
                  fgsm="".join(letters["fgsm"][i] for i in cut), pgd_20="".join(letters["pgd-20"][i] for i in cut))
            for cut in cuts
        ]  # fmt: skip
        found = judged(shards, suite(), count, 10)
        standing = sum(bool(clean[i] and fate["fgsm"][i] and fate["pgd-20"][i]) for i in range(count))
        assert found.robust_accuracy == standing / count and found.clean_accuracy == sum(clean) / count
        assert found.attacks == {name: pytest.approx(sum(fate[name]) / count) for name in fate}
        assert found.interval == wilson(standing, count)
        assert found.robust_accuracy <= min(found.attacks.values()) <= found.clean_accuracy
        assert found.attack_seconds == dict.fromkeys(fate, 1.5 * len(shards))


def test_the_claim_does_not_depend_on_how_and_when_shards_come():
    parts = [shard("110", [0, 1, 2], fgsm="100", pgd_20="110"), shard("11", [3, 4], fgsm="11", pgd_20="01"),
             shard("1", [5], fgsm="1", pgd_20="1")]  # fmt: skip
    one = shard("110111", fgsm="100111", pgd_20="110011")
    figures = [claim(*order).model_dump(exclude={"attack_seconds"}) for order in permutations(parts)]
    assert all(found == claim(one).model_dump(exclude={"attack_seconds"}) for found in figures)


def test_an_image_that_is_wrong_already_is_never_robust():
    """Even if a shard said that it withstood every attack."""
    assert claim(shard("01", fgsm="11", pgd_20="11")).robust_accuracy == 0.5


BAD = {
    "one missing": ([shard("11", [0, 1], fgsm="11", pgd_20="11")], 3),
    "one too many": ([shard("11", [0, 1], fgsm="11", pgd_20="11")], 1),
    "a shard twice": ([shard("11", fgsm="11", pgd_20="11")] * 2, 2),
    "a shard twice, by count": ([shard("11", fgsm="11", pgd_20="11")] * 2, 4),
    "overlap": ([shard("11", [0, 1], fgsm="11", pgd_20="11"), shard("11", [1, 2], fgsm="11", pgd_20="11")], 4),
    "a gap": ([shard("11", [0, 2], fgsm="11", pgd_20="11")], 2),
    "one image at two places": ([shard("11", index=[5, 5], fgsm="11", pgd_20="11")], 2),
    "nothing": ([], 2),
}


@pytest.mark.parametrize(("shards", "count"), BAD.values(), ids=BAD.keys())
def test_every_image_counts_exactly_once_or_there_is_no_result(shards: list[ShardResult], count: int):
    with pytest.raises(RunError, match=f"each of the {count} images exactly once; no result"):
        judged(shards, suite(), count, 10)


def test_the_headline_is_on_the_images_that_met_every_attack():
    """AutoAttack on the first two of five: the others say nothing about it, for good or ill."""
    found = claim(
        shard("11", [0, 1], fgsm="11", pgd_20="11", autoattack="10"),
        shard("111", [2, 3, 4], fgsm="100", pgd_20="110", autoattack="..."),
        attacks=(FGSM, PGD, AUTO | {"n": 2}),
    )
    assert (found.n, found.robust_accuracy, found.interval) == (2, 0.5, wilson(1, 2))
    assert (found.n_clean, found.clean_accuracy) == (5, 1.0)
    assert found.attacks == {"fgsm": 3 / 5, "pgd-20": 4 / 5, "autoattack": 0.5}
    assert found.attacks_n == {"fgsm": 5, "pgd-20": 5, "autoattack": 2}


def test_attacks_on_different_first_images_meet_on_the_fewest():
    found = claim(shard("1111", fgsm="1110", pgd_20="0..."), attacks=(FGSM | {"n": 4}, PGD | {"n": 1}))
    assert (found.n, found.robust_accuracy, found.attacks_n) == (1, 0.0, {"fgsm": 4, "pgd-20": 1})


def test_the_claim_says_on_what_terms():
    found = judged([shard("1", fgsm="1", pgd_20="1")], suite(seed=7), 1, 10)
    assert (found.norm, found.epsilon, found.seed, found.tier) == ("linf", 0.3, 7, "quick")
    assert found.examples_sha256 == hashlib.sha256((1000).to_bytes(8, "little")).hexdigest()
    with pytest.raises(AssertionError):
        judged([shard("1", fgsm="1", pgd_20="1")], Evaluation(), 1, 10)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3, to its four digits
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_are_where_the_score_test_rejects():
    """The interval's definition: both ends p solve (share - p)^2 = z^2 p (1 - p) / n."""
    for n in (1, 2, 7, 100, 10_000):
        for successes in {0, 1, n // 3, n // 2, n - 1, n}:
            low, high = wilson(successes, n)
            assert 0 <= low <= successes / n + 1e-15 and successes / n - 1e-15 <= high <= 1 and low < high
            for end in (low, high):
                z2 = (successes / n - end) ** 2 * n
                assert z2 == pytest.approx(1.959963984540054**2 * end * (1 - end), abs=1e-9)
            assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low))


CALM = {"clean": "1" * 200, "fgsm": "1" * 150 + "0" * 50, "pgd_20": "1" * 100 + "0" * 100}


def probed(count: int = 200, **fields) -> ShardResult:
    return shard(**CALM, probes=quiet(count, **fields))


def test_no_suspicion_no_flags():
    assert claim(shard(**CALM)).flags == () and claim(probed(zero_gradient=[True] * 2 + [False] * 198)).flags == ()


@pytest.mark.parametrize(
    ("fields", "name", "blocking"),
    [
        ({"repeat_change": 1e-3}, "randomised_output", True),
        ({"company_change": 0.01}, "batch_dependent_output", True),
        ({"state_changed": True}, "state_changes", True),
        ({"optimises": True}, "optimisation_inside_forward", True),
        ({"probabilities": True}, "softmax_output", True),
        ({"spread": 1e-3}, "logit_scale", True),
        ({"spread": 1e4}, "logit_scale", True),
        ({"zero_gradient": [True] * 3 + [False] * 197}, "zero_gradients", True),
        ({"epsilon_curve": [(0.5, 70, 200), (1.0, 60, 200)]}, "epsilon_curve_above_chance", True),
        ({"jumps": [0.2] * 4 + [1e-3] * 26}, "discontinuous_output", True),
        ({"ledges": [0.05] * 4 + [1e-6] * 26}, "discontinuous_output", True),
        ({"gradient_errors": [1.0] * 4 + [0.1] * 26}, "wrong_gradients", True),
        ({"epsilon_curve": [(0.3, 50, 200), (0.5, 90, 200), (1.0, 0, 200)]}, "epsilon_curve_rises", False),
        ({"float32_right": 100, "bfloat16_right": 111}, "precision_gap", False),
        ({"float32_right": 100, "bfloat16_right": 89}, "precision_gap", False),
    ],
)
def test_each_suspicion_raises_its_own_flag(fields: dict, name: str, blocking: bool):
    (flag,) = claim(probed(**fields)).flags
    assert (flag.name, flag.blocking) == (name, blocking) and flag.detail


def test_one_suspicious_shard_suffices_except_for_softmax():
    """Logits that happen to be probabilities in one small shard are no softmax; all of them are."""
    calm = shard(**CALM)

    def other(**fields) -> ShardResult:
        return shard(**CALM, position=list(range(200, 400)), probes=quiet(200, **fields))

    assert flags(claim(calm, other(repeat_change=1.0))) == {"randomised_output"}
    assert flags(claim(calm, other(company_change=1.0))) == {"batch_dependent_output"}
    assert flags(claim(calm, other(probabilities=True))) == set()
    assert flags(claim(probed(probabilities=True), other(probabilities=True))) == {"softmax_output"}


def test_zero_gradients_count_on_rightly_classified_images_only():
    """A wrong image needs no attack; 3 flat ones of 100 right are 3 %, and 100 flat wrong ones are nothing."""
    wrong = {"clean": "1" * 100 + "0" * 100, "fgsm": "1" * 100 + "0" * 100, "pgd_20": "1" * 100 + "0" * 100}
    assert flags(claim(shard(**wrong, probes=quiet(200, zero_gradient=[False] * 100 + [True] * 100)))) == set()
    found = claim(shard(**wrong, probes=quiet(200, zero_gradient=[True] * 3 + [False] * 197)))
    assert flags(found) == {"zero_gradients"} and found.flags[0].detail.startswith("3.0%")
    assert found.flags[0].examples == (1000, 1001, 1002)


def test_images_that_are_scored_otherwise_later_are_told():
    found = conclude(gather([shard(**CALM)], suite(), 200, 10, disagree=[7, 3]))
    (flag,) = found.flags
    assert (flag.name, flag.blocking, flag.examples) == ("stored_examples_disagree", True, (1003, 1007))


def test_a_model_that_answers_with_one_class_has_collapsed():
    one = shard(**CALM | {"predicted": [3] * 200})
    assert flags(claim(one)) >= {"constant_output"}


def test_classes_in_another_order_are_told():
    """Two of ten swapped: 80 % clean, 100 % if they are renamed."""
    places = range(200)
    swapped = [{2: 5, 5: 2}.get(place % 10, place % 10) for place in places]
    (flag,) = claim(shard(**CALM | {"predicted": swapped})).flags
    assert flag.name == "wrong_labels" and flag.blocking and "2 -> 5, 5 -> 2" in flag.detail
    assert "80.0%, but 100.0%" in flag.detail


def test_a_standing_attack_spares_what_is_broken_and_its_accuracy_is_of_both():
    found = claim(
        shard(
            "11110", fgsm="00110", autoattack="ss100", parts=["apgd-ce", "square"], stage=["", "", "", "apgd-ce", ""]
        ),
        attacks=(FGSM, AUTO | {"meets": "standing"}),
    )
    assert found.attacks == {"fgsm": 0.4, "autoattack": 0.2} and found.robust_accuracy == 0.2
    assert found.cumulative == ("autoattack",) and found.stages == {"apgd-ce": 0.2, "square": 0.2}


@pytest.mark.parametrize(("by_square", "expected"), [(0, None), (2, None), (3, False), (11, True)])
def test_a_black_box_that_breaks_what_gradients_cannot_is_told(by_square: int, expected: bool | None):
    stage = ["square"] * by_square + ["apgd-t"] * (20 - by_square) + [""] * 180
    found = claim(
        shard("1" * 200, pgd_20="1" * 200, autoattack="0" * 20 + "1" * 180, stage=stage,
              parts=["apgd-ce", "apgd-t", "fab-t", "square"]),
        attacks=(PGD, AUTO),
    )  # fmt: skip
    assert [(flag.name, flag.blocking) for flag in found.flags] == (
        [] if expected is None else [("black_box_beats_white_box", expected)]
    )
    if expected is not None:
        assert found.flags[0].examples == tuple(range(1000, 1000 + by_square))


@pytest.mark.parametrize(
    ("n", "gain", "told"), [(1000, 0, False), (1000, 5, False), (1000, 6, True), (200, 4, False), (200, 5, True)]
)
def test_twice_the_steps_must_change_nothing(n: int, gain: int, told: bool):
    """Half a point of 1000 images is 5; of fewer images, up to 4 come by chance."""
    fate = {"pgd_20": "1" * n, "pgd_40": "0" * gain + "1" * (n - gain)}
    found = claim(shard("1" * n, **fate), attacks=(PGD, PGD | {"num_steps": 40}))
    assert [(flag.name, flag.blocking) for flag in found.flags] == [("steps_not_converged", False)] * told


@pytest.mark.parametrize(("curve", "told"), [([100, 150, 153, 155], False), ([100, 150, 153, 156], True)])
def test_twice_the_restarts_must_change_nothing(curve: list[int], told: bool):
    one = shard("1" * 1000, pgd_20x4="0" * 156 + "1" * 844, starts={"pgd-20x4": curve})
    found = claim(one, attacks=(PGD | {"restarts": 4},))
    assert [(flag.name, flag.blocking) for flag in found.flags] == [("restarts_not_converged", False)] * told
    assert found.restarts == {"pgd-20x4": tuple(count / 1000 for count in curve)}


@pytest.mark.parametrize(("n", "least"), [(10, 7), (100, 7), (1000, 11)])
def test_fgsm_may_beat_pgd_by_chance_but_not_by_more(n: int, least: int):
    """Chance: of 7 images that only one of them breaks, all 7 (p < 0.01); and more than 1 % of all images."""
    for more, expected in ((0, False), (least - 1, False), (least, True), (n, True)):
        fate = {"fgsm": "0" * more + "1" * (n - more), "pgd_20": "1" * n}
        assert ("fgsm_stronger_than_pgd" in flags(claim(shard("1" * n, **fate)))) == expected, more
        assert flags(claim(shard("1" * n, pgd_20="1" * n), attacks=(PGD,))) == set()
        weaker = {"fgsm": fate["pgd_20"], "pgd_20": fate["fgsm"]}
        assert flags(claim(shard("1" * n, **weaker))) == set(), "PGD may be as much stronger as it likes"


def test_fgsm_and_pgd_are_compared_on_the_images_that_both_met():
    fates = {"fgsm": "0" * 50 + "." * 50, "pgd_20": "0" * 50 + "1" * 50}
    assert flags(claim(shard("1" * 100, **fates), attacks=(FGSM | {"n": 50}, PGD))) == set()


@pytest.mark.parametrize("target", ["random", "least_likely", "all"])
def test_a_targeted_attack_is_weaker_by_design_and_no_suspicion(target: str):
    name = f"pgd-20-{target.replace('_', '-')}"
    found = claim(
        shard("1" * 200, **{"fgsm": "0" * 200, name: "1" * 200}),
        attacks=(FGSM, PGD | {"target": target}),
    )  # fmt: skip
    assert flags(found) == set()


@pytest.mark.parametrize(("classes", "expected"), [(2, {"few_classes"}), (3, {"few_classes"}), (4, set()), (10, set())])
def test_few_classes_are_told_but_do_not_block(classes: int, expected: set[str]):
    same = {"label": [0, 1], "predicted": [0, 1]}
    parts = list(parts_for(classes, True))
    found = claim(shard("11", autoattack="10", parts=parts, **same), attacks=(AUTO,), classes=classes)
    assert flags(found) == expected and not any(flag.blocking for flag in found.flags)
    assert flags(claim(shard("11", fgsm="10", **same), attacks=(FGSM,), classes=classes)) == set()


def test_a_claim_is_written_and_read_back():
    found = claim(probed(repeat_change=1.0))
    assert Result.model_validate_json(found.model_dump_json()) == found


def test_a_second_look_knows_what_nobody_attacked():
    """Of images that no attack was asked for, those misclassified as they are score below 0 and agree."""
    found = shard("1101", fgsm="10..")
    assert found.broken == [False, True, True, False]
    assert found.disagreeing([1.0, -1.0, -1.0, 1.0]) == []
    assert found.disagreeing([-1.0, 1.0, 1.0, -1.0]) == [0, 1, 2, 3]
    assert found.disagreeing([-1e-5, 1e-5, 1e-5, -1e-5]) == [], "float rounding"


@pytest.mark.parametrize("n", [2, 5])
def test_on_a_handful_of_images_no_share_is_judged(n: int):
    """Two images, one of them misclassified, read as "100 % if classes are renamed"; none right as "chance"."""
    half = shard("0" + "1" * (n - 1), fgsm="0" * n)
    none = shard("0" * n, fgsm="0" * n, probes=quiet(n, epsilon_curve=[(1.0, 1, n)]))
    flat = shard("1" * n, fgsm="0" * n, probes=quiet(n, zero_gradient=[True] + [False] * (n - 1)))
    one = shard("1" + "0" * (n - 1), fgsm="0" * n, predicted=[0] * n)
    for some in (half, none, flat, one):
        assert claim(some, attacks=(FGSM,), classes=100).flags == ()


def test_logits_that_are_not_numbers_have_a_flag_of_their_own():
    nan, minus = [True] * 3 + [False] * 197, [True] * 10 + [False] * 190
    (flag,) = claim(shard(**CALM, lost=nan, infinite=minus)).flags
    assert (flag.name, flag.blocking, flag.examples) == ("nonfinite_logits", True, (1000, 1001, 1002))
    (flag,) = claim(shard(**CALM, infinite=minus)).flags
    assert (flag.name, flag.blocking) == ("nonfinite_logits", False) and flag.detail.startswith("10 images")

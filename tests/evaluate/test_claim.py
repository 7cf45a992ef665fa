"""From shards to a claim: the worst case is taken image by image, every image counts once, suspicion is told."""

import math
from itertools import permutations

import numpy as np
import pytest

from distrib.errors import RunError
from distrib.evaluate.claim import Claim, chosen, conclude, wilson
from distrib.evaluate.suite import Evaluation
from distrib.evaluate.witness import ShardResult

FGSM, PGD, AUTO = {"attack": "fgsm"}, {"attack": "pgd", "num_steps": 20}, {"attack": "autoattack"}


def suite(*attacks: dict, **fields) -> Evaluation:
    document = {"threat": {"norm": "linf", "epsilon": 0.3}, "attacks": list(attacks) or [FGSM, PGD], **fields}
    return Evaluation.model_validate(document, strict=False)


def bools(text: str) -> list:
    """``"1.0"`` -> [True, None, False]: standing, not attacked, fallen."""
    return [{"1": True, "0": False, ".": None}[letter] for letter in text]


def shard(clean: str, position: list[int] | None = None, **fields) -> ShardResult:
    """One shard of images; ``fgsm="110"`` and the like are their fates. Images stand at 1000 + position."""
    places = list(range(len(clean))) if position is None else position
    plain = {
        "position": places, "index": [1000 + place for place in places], "zero_gradient": [False] * len(clean),
        "randomised": False, "batch_dependent": False, "probabilities": False,
    }  # fmt: skip
    given = {name: fields.pop(name) for name in list(fields) if name in plain}
    fates = {name.replace("_", "-"): bools(text) for name, text in fields.items()}
    amounts = {name: 1.5 for name in fates}
    return ShardResult(clean=bools(clean), robust=fates, largest_change=amounts, seconds=amounts, **plain | given)


def claim(*shards: ShardResult, attacks: tuple[dict, ...] = (FGSM, PGD), classes: int = 10, **fields) -> Claim:
    count = sum(len(one.position) for one in shards)
    return conclude(shards, suite(*attacks, **fields), count, classes)


def flags(found: Claim) -> set[str]:
    return {flag.name for flag in found.flags}


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
        order = draw.permutation(count)
        cuts = np.array_split(order, min(count, int(draw.integers(1, 5))))
        shards = [
            ShardResult(
                position=cut.tolist(), index=(cut + 7).tolist(), clean=clean[cut].tolist(),
                robust={name: fate[name][cut].tolist() for name in fate}, zero_gradient=[False] * len(cut),
                largest_change={name: float(cut.max()) for name in fate}, seconds={name: 1.0 for name in fate},
                randomised=False, batch_dependent=False, probabilities=False,
            )
            for cut in cuts
        ]  # fmt: skip
        found = conclude(shards, suite(), count, 10)
        standing = sum(bool(clean[i] and fate["fgsm"][i] and fate["pgd-20"][i]) for i in range(count))
        assert found.robust_accuracy == standing / count and found.clean_accuracy == sum(clean) / count
        assert found.attacks == {name: pytest.approx(sum(fate[name]) / count) for name in fate}
        assert found.interval == wilson(standing, count)
        assert found.robust_accuracy <= min(found.attacks.values()) <= found.clean_accuracy
        assert found.largest_change == dict.fromkeys(fate, count - 1.0)
        assert found.attack_seconds == dict.fromkeys(fate, float(len(shards)))


def test_the_claim_does_not_depend_on_how_and_when_shards_come():
    parts = [shard("110", [0, 1, 2], fgsm="100", pgd_20="110"), shard("11", [3, 4], fgsm="11", pgd_20="01"),
             shard("1", [5], fgsm="1", pgd_20="1")]  # fmt: skip
    one = shard("110111", fgsm="100111", pgd_20="110011")
    figures = [claim(*order).model_dump(exclude={"attack_seconds"}) for order in permutations(parts)]
    assert all(found == claim(one).model_dump(exclude={"attack_seconds"}) for found in figures)
    backwards = shard("111011", [5, 4, 3, 2, 1, 0], fgsm="111001", pgd_20="110011")
    assert claim(backwards) == claim(one)


def test_an_image_that_is_wrong_already_is_never_robust():
    """Even if a shard said that it withstood every attack."""
    assert claim(shard("01", fgsm="11", pgd_20="11")).robust_accuracy == 0.5


BROKEN = {
    "one missing": ([shard("11", [0, 1], fgsm="11", pgd_20="11")], 3),
    "one too many": ([shard("11", [0, 1], fgsm="11", pgd_20="11")], 1),
    "a shard twice": ([shard("11", fgsm="11", pgd_20="11")] * 2, 2),
    "a shard twice, by count": ([shard("11", fgsm="11", pgd_20="11")] * 2, 4),
    "overlap": ([shard("11", [0, 1], fgsm="11", pgd_20="11"), shard("11", [1, 2], fgsm="11", pgd_20="11")], 4),
    "a gap": ([shard("11", [0, 2], fgsm="11", pgd_20="11")], 2),
    "one image at two places": ([shard("11", index=[5, 5], fgsm="11", pgd_20="11")], 2),
    "nothing": ([], 2),
}


@pytest.mark.parametrize(("shards", "count"), BROKEN.values(), ids=BROKEN.keys())
def test_every_image_counts_exactly_once_or_there_is_no_result(shards: list[ShardResult], count: int):
    with pytest.raises(RunError, match=f"each of the {count} images exactly once; no result"):
        conclude(shards, suite(), count, 10)


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
    found = conclude([shard("1", fgsm="1", pgd_20="1")], suite(seed=7), 1, 10)
    assert (found.norm, found.epsilon, found.seed) == ("linf", 0.3, 7)
    with pytest.raises(AssertionError):
        conclude([shard("1", fgsm="1", pgd_20="1")], Evaluation(), 1, 10)


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


CALM = shard("1" * 200, fgsm="1" * 150 + "0" * 50, pgd_20="1" * 100 + "0" * 100)


def replaced(**fields) -> ShardResult:
    return ShardResult(**{**CALM.as_json(), **fields})


def test_no_suspicion_no_flags():
    assert claim(CALM).flags == () and claim(replaced(zero_gradient=[True] * 2 + [False] * 198)).flags == ()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"randomised": True}, "randomised_output"),
        ({"batch_dependent": True}, "batch_dependent_output"),
        ({"probabilities": True}, "softmax_output"),
        ({"zero_gradient": [True] * 3 + [False] * 197}, "zero_gradients"),
    ],
)
def test_each_suspicion_raises_its_own_blocking_flag(fields: dict, name: str):
    found = claim(replaced(**fields))
    assert flags(found) == {name} and found.flags[0].blocking and found.flags[0].detail


def test_one_suspicious_shard_suffices_except_for_softmax():
    """Logits that happen to be probabilities in one small shard are no softmax; all of them are."""
    other = {"position": list(range(200, 400)), "index": list(range(5000, 5200))}
    for name in ("randomised", "batch_dependent"):
        assert flags(claim(CALM, replaced(**{name: True}, **other))) == {f"{name}_output"}
    assert flags(claim(CALM, replaced(probabilities=True, **other))) == set()
    assert flags(claim(replaced(probabilities=True), replaced(probabilities=True, **other))) == {"softmax_output"}


def test_zero_gradients_count_on_rightly_classified_images_only():
    """A wrong image needs no attack; 3 flat ones of 100 right are 3 %, and 197 flat wrong ones are nothing."""
    wrong = "1" * 100 + "0" * 100
    fates = {"fgsm": wrong, "pgd_20": wrong}
    assert flags(claim(shard(wrong, zero_gradient=[False] * 100 + [True] * 100, **fates))) == set()
    found = claim(shard(wrong, zero_gradient=[True] * 3 + [False] * 197, **fates))
    assert flags(found) == {"zero_gradients"} and found.flags[0].detail.startswith("3.0%")
    nothing = "0" * 10
    assert flags(claim(shard(nothing, zero_gradient=[True] * 10, fgsm=nothing, pgd_20=nothing))) == set()


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_fgsm_may_beat_pgd_by_chance_but_not_by_more(n: int):
    """Chance is 3 deviations of 5 %, and one image; the flag is raised from there on, and never without FGSM."""
    least = math.floor(0.15 * math.sqrt(n) + 1) + 1
    for more, expected in (
        (0, set()),
        (least - 1, set()),
        (least, {"fgsm_stronger_than_pgd"}),
        (n, {"fgsm_stronger_than_pgd"}),
    ):
        fates = {"fgsm": "0" * more + "1" * (n - more), "pgd_20": "1" * n}
        assert flags(claim(shard("1" * n, **fates))) == expected, more
        assert flags(claim(shard("1" * n, pgd_20="1" * n), attacks=(PGD,))) == set()
        weaker = {"fgsm": fates["pgd_20"], "pgd_20": fates["fgsm"]}
        assert flags(claim(shard("1" * n, **weaker))) == set(), "PGD may be as much stronger as it likes"


def test_fgsm_and_pgd_are_compared_on_the_images_that_both_met():
    fates = {"fgsm": "0" * 50 + "." * 50, "pgd_20": "0" * 50 + "1" * 50}
    assert flags(claim(shard("1" * 100, **fates), attacks=(FGSM | {"n": 50}, PGD))) == set()


@pytest.mark.parametrize("target", ["random", "least_likely"])
def test_a_targeted_attack_is_weaker_by_design_and_no_suspicion(target: str):
    name = f"pgd-20-{target.replace('_', '-')}"
    found = claim(
        replaced(robust={"fgsm": bools("0" * 200), name: bools("1" * 200)}, seconds={"fgsm": 1.0, name: 1.0},
                 largest_change={"fgsm": 0.3, name: 0.3}),
        attacks=(FGSM, PGD | {"target": target}),
    )  # fmt: skip
    assert flags(found) == set()


@pytest.mark.parametrize(("classes", "expected"), [(2, {"few_classes"}), (3, {"few_classes"}), (4, set()), (10, set())])
def test_few_classes_are_told_but_do_not_block(classes: int, expected: set[str]):
    found = claim(shard("11", autoattack="10"), attacks=(AUTO,), classes=classes)
    assert flags(found) == expected and not any(flag.blocking for flag in found.flags)
    assert flags(claim(shard("11", fgsm="10"), attacks=(FGSM,), classes=classes)) == set()


@pytest.mark.parametrize("n", [None, 1, 7, 50, 80])
def test_the_chosen_images_are_a_draw_without_repetition(n: int | None):
    images = chosen(50, suite(n=n, seed=3))
    assert len(images) == min(50, n or 50) == len(set(images.tolist())) and set(images.tolist()) <= set(range(50))
    assert np.array_equal(images, chosen(50, suite(seed=3))[: len(images)]), "a smaller n is no other draw"
    assert np.array_equal(images, chosen(50, suite(n=n, seed=3, batch_size=3, shard_size=7)))


def test_the_chosen_images_are_not_the_first_and_depend_on_the_seed():
    draws = {tuple(chosen(200, suite(n=20, seed=seed)).tolist()) for seed in range(50)}
    assert len(draws) == 50
    counts = np.bincount([image for draw in draws for image in draw], minlength=200)
    assert counts.max() < 20 and counts.sum() == 1000  # a mean of 5


def test_a_claim_is_written_and_read_back():
    found = claim(replaced(randomised=True))
    assert Claim.model_validate_json(found.model_dump_json()) == found

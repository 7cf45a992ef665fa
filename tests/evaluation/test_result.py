"""distrib.evaluation.result: the worst case is taken image by image, and every figure has its n."""

import hashlib

import numpy as np
import pytest
from shards import AUTO, FGSM, PGD_20, concluded, evaluation_of, probed, result_of, shard

from distrib.evaluation.result import Result, wilson


def test_the_worst_case_is_the_mean_of_minima_not_the_minimum_of_means():
    found = result_of(shard("1111", fgsm="1100", pgd_20="0110"))
    assert found.attacks == {"fgsm": 0.5, "pgd-20": 0.5}
    assert found.robust_accuracy == 0.25 and found.clean_accuracy == 1.0
    assert (found.n, found.n_clean, found.attacks_n) == (4, 4, {"fgsm": 4, "pgd-20": 4})


def test_against_a_count_by_hand_over_random_fates():
    """Sums over loops, for many seeds, however the images are cut into shards."""
    draw = np.random.default_rng(0)
    for _ in range(30):
        count = int(draw.integers(1, 40))
        clean = draw.random(count) < 0.8
        outcome = {name: clean & (draw.random(count) < 0.6) for name in ("fgsm", "pgd-20")}
        cuts = np.split(np.arange(count), np.unique(draw.integers(1, count + 1, 3)))
        cuts = [cut for cut in cuts if len(cut)]
        letters = {name: "".join("01"[int(hit)] for hit in outcome[name]) for name in outcome} | {
            "clean": "".join("01"[int(hit)] for hit in clean)
        }
        shards = [
            shard("".join(letters["clean"][i] for i in cut), cut.tolist(),
                  fgsm="".join(letters["fgsm"][i] for i in cut), pgd_20="".join(letters["pgd-20"][i] for i in cut))
            for cut in cuts
        ]  # fmt: skip
        found = concluded(shards, evaluation_of(), count, 10)
        standing = sum(bool(clean[i] and outcome["fgsm"][i] and outcome["pgd-20"][i]) for i in range(count))
        assert found.robust_accuracy == standing / count and found.clean_accuracy == sum(clean) / count
        assert found.attacks == {name: pytest.approx(sum(outcome[name]) / count) for name in outcome}
        assert found.interval == wilson(standing, count)
        assert found.robust_accuracy <= min(found.attacks.values()) <= found.clean_accuracy
        assert found.attack_seconds == dict.fromkeys(outcome, 1.5 * len(shards))


def test_an_image_that_is_wrong_already_is_never_robust():
    """Even if a shard said that it withstood every attack."""
    assert result_of(shard("01", fgsm="11", pgd_20="11")).robust_accuracy == 0.5


def test_the_headline_is_on_the_images_that_met_every_attack():
    """AutoAttack on the first two of five: the others say nothing about it, for good or ill."""
    found = result_of(
        shard("11", [0, 1], fgsm="11", pgd_20="11", autoattack="10"),
        shard("111", [2, 3, 4], fgsm="100", pgd_20="110", autoattack="..."),
        attacks=(FGSM, PGD_20, AUTO | {"n": 2}),
    )
    assert (found.n, found.robust_accuracy, found.interval) == (2, 0.5, wilson(1, 2))
    assert (found.n_clean, found.clean_accuracy) == (5, 1.0)
    assert found.attacks == {"fgsm": 3 / 5, "pgd-20": 4 / 5, "autoattack": 0.5}
    assert found.attacks_n == {"fgsm": 5, "pgd-20": 5, "autoattack": 2}


def test_attacks_on_different_first_images_meet_on_the_fewest():
    found = result_of(shard("1111", fgsm="1110", pgd_20="0..."), attacks=(FGSM | {"n": 4}, PGD_20 | {"n": 1}))
    assert (found.n, found.robust_accuracy, found.attacks_n) == (1, 0.0, {"fgsm": 4, "pgd-20": 1})


def test_the_result_says_on_what_terms():
    found = concluded([shard("1", fgsm="1", pgd_20="1")], evaluation_of(seed=7), 1, 10)
    assert (found.norm, found.epsilon, found.seed, found.tier) == ("linf", 0.3, 7, "quick")
    assert found.examples_sha256 == hashlib.sha256((1000).to_bytes(8, "little")).hexdigest()


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


def test_a_standing_attack_spares_what_is_broken_and_its_accuracy_is_of_both():
    found = result_of(
        shard(
            "11110", fgsm="00110", autoattack="ss100", parts=["apgd-ce", "square"], stage=["", "", "", "apgd-ce", ""]
        ),
        attacks=(FGSM, AUTO | {"meets": "standing"}),
    )
    assert found.attacks == {"fgsm": 0.4, "autoattack": 0.2} and found.robust_accuracy == 0.2
    assert found.cumulative == ("autoattack",) and found.stages == {"apgd-ce": 0.2, "square": 0.2}


def test_a_result_is_written_and_read_back():
    found = result_of(probed(repeat_change=1.0))
    assert Result.model_validate_json(found.model_dump_json()) == found

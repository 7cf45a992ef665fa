"""distrib.evaluation.attack_flags: attacks that contradict each other raise a flag, chance differences none."""

import pytest
import torch
from attacked import Build, attacked, batch, pixels, two_classes
from shards import AUTO, CALM, FGSM, PGD_20, concluded, evaluation_of, flag_names, quiet, result_of, shard
from torch import Tensor, nn

from distrib.attack import Adversary
from distrib.evaluation import autoattack
from distrib.evaluation.attacks import Evaluation
from distrib.evaluation.autoattack import parts_for
from distrib.evaluation.evidence import gather
from distrib.evaluation.result import conclude
from distrib.threat import Linf


def test_a_share_is_one_of_the_images_that_were_asked():
    """20 of 100 more are broken by twice the steps; that 400 others were not asked makes it no smaller."""
    rest = "." * 400
    pgd_40 = {"attack": "pgd", "num_steps": 40, "n": 100}
    some = shard("1" * 500, fgsm="1" * 500, pgd_20="1" * 100 + rest, pgd_40="0" * 20 + "1" * 80 + rest)
    told = [flag for flag in result_of(some, attacks=(FGSM, PGD_20 | {"n": 100}, pgd_40)).flags]
    assert [flag.detail for flag in told] == [
        "pgd-20 to pgd-40: 20.0% more images broken; a stronger attack would go on"
    ]
    some = shard("1" * 500, fgsm="0" * 4 + "1" * 496, pgd_20="1" * 100 + rest)
    assert flag_names(result_of(some, attacks=(FGSM, PGD_20 | {"n": 100}))) == set()
    some = shard("1" * 500, fgsm="0" * 8 + "1" * 492, pgd_20="1" * 100 + rest)
    assert flag_names(result_of(some, attacks=(FGSM, PGD_20 | {"n": 100}))) == {"fgsm_stronger_than_pgd"}


def test_what_only_a_black_box_broke_still_meets_a_standing_white_box():
    """The outcome under the white box is its own; the accuracy of what still stood counts all before it."""
    square, later = {"attack": "square", "queries": 9}, {"attack": "autoattack", "meets": "standing"}
    stages = {"parts": list(parts_for(10, True)), "stage": ["apgd-ce"] * 5 + [""] * 95}
    some = shard("1" * 100, fgsm="1" * 100, pgd_20="1" * 100, square_9="0" * 5 + "1" * 95,
                 autoattack="0" * 5 + "1" * 95, **stages)  # fmt: skip
    found = result_of(some, attacks=(FGSM, PGD_20, square, later))
    assert found.flags == () and found.attacks["autoattack"] == found.robust_accuracy == 0.95
    assert set(found.stages.values()) == {0.95}
    some = shard("1" * 100, fgsm="1" * 100, pgd_20="1" * 100, square_9="0" * 5 + "1" * 95, autoattack="1" * 100,
                 **stages | {"stage": [""] * 100})  # fmt: skip
    found = result_of(some, attacks=(FGSM, PGD_20, square, later))
    assert flag_names(found) == {"black_box_beats_white_box"} and found.attacks["autoattack"] == 0.95


def test_zero_gradients_count_on_rightly_classified_images_only():
    """A wrong image needs no attack; 3 flat ones of 100 right are 3 %, and 100 flat wrong ones are nothing."""
    wrong = {"clean": "1" * 100 + "0" * 100, "fgsm": "1" * 100 + "0" * 100, "pgd_20": "1" * 100 + "0" * 100}
    assert flag_names(result_of(shard(**wrong, probes=quiet(200, zero_gradient=[False] * 100 + [True] * 100)))) == set()
    found = result_of(shard(**wrong, probes=quiet(200, zero_gradient=[True] * 3 + [False] * 197)))
    assert flag_names(found) == {"zero_gradients"} and found.flags[0].detail.startswith("3.0%")
    assert found.flags[0].examples == (1000, 1001, 1002)


def test_images_that_are_scored_otherwise_later_are_told():
    found = conclude(gather([shard(**CALM)], evaluation_of(), 200, 10, disagree=[7, 3]))
    (flag,) = found.flags
    assert (flag.name, flag.blocking, flag.examples) == ("stored_examples_disagree", True, (1003, 1007))


@pytest.mark.parametrize(("by_square", "expected"), [(0, None), (2, None), (3, False), (11, True)])
def test_a_black_box_that_breaks_what_gradients_cannot_is_told(by_square: int, expected: bool | None):
    stage = ["square"] * by_square + ["apgd-t"] * (20 - by_square) + [""] * 180
    found = result_of(
        shard("1" * 200, pgd_20="1" * by_square + "0" * (20 - by_square) + "1" * 180,
              autoattack="0" * 20 + "1" * 180, stage=stage,
              parts=["apgd-ce", "apgd-t", "fab-t", "square"]),
        attacks=(PGD_20, AUTO),
    )  # fmt: skip
    assert [(flag.name, flag.blocking) for flag in found.flags] == (
        [] if expected is None else [("black_box_beats_white_box", expected)]
    )
    if expected is not None:
        assert found.flags[0].examples == tuple(range(1000, 1000 + by_square))


@pytest.mark.parametrize(
    ("alone", "n", "told"), [(20, 200, False), (21, 200, True), (4, 30, False), (5, 30, True), (0, 200, False)]
)
def test_images_that_autoattack_breaks_and_no_pgd_are_told(alone: int, n: int, told: bool):
    """More than a tenth of those that both met, and at least five; what one of two PGDs broke is no such image."""
    broken = alone + 8
    some = shard("1" * n, pgd_20="1" * alone + "0" * 4 + "1" * (n - alone - 4),
                 pgd_20_x="1" * (alone + 4) + "0" * 4 + "1" * (n - broken),
                 autoattack="0" * broken + "1" * (n - broken),
                 stage=["apgd-ce"] * broken + [""] * (n - broken), parts=list(parts_for(10, True)))  # fmt: skip
    found = result_of(some, attacks=(PGD_20, PGD_20 | {"label": "x"}, AUTO))
    flags = [flag for flag in found.flags if flag.name == "autoattack_beats_pgd"]
    assert bool(flags) == told
    if told:
        share = f"{alone / n:.1%}"
        assert (
            flags[0].detail.startswith(f"AutoAttack breaks {alone} of {n} images ({share})") and not flags[0].blocking
        )
        assert flags[0].examples == tuple(range(1000, 1000 + min(alone, 20))), "of many, the first twenty"


@pytest.mark.parametrize(
    ("n", "gain", "told"), [(1000, 0, False), (1000, 5, False), (1000, 6, True), (200, 4, False), (200, 5, True)]
)
def test_twice_the_steps_must_change_nothing(n: int, gain: int, told: bool):
    """Half a point of 1000 images is 5; of fewer images, up to 4 come by chance."""
    outcome = {"pgd_20": "1" * n, "pgd_40": "0" * gain + "1" * (n - gain)}
    found = result_of(shard("1" * n, **outcome), attacks=(PGD_20, PGD_20 | {"num_steps": 40}))
    assert [(flag.name, flag.blocking) for flag in found.flags] == [("steps_not_converged", False)] * told


@pytest.mark.parametrize(("curve", "told"), [([100, 150, 153, 155], False), ([100, 150, 153, 156], True)])
def test_twice_the_restarts_must_change_nothing(curve: list[int], told: bool):
    one = shard("1" * 1000, pgd_20x4="0" * 156 + "1" * 844, starts={"pgd-20x4": curve})
    found = result_of(one, attacks=(PGD_20 | {"restarts": 4},))
    assert [(flag.name, flag.blocking) for flag in found.flags] == [("restarts_not_converged", False)] * told
    assert found.restarts == {"pgd-20x4": tuple(count / 1000 for count in curve)}


@pytest.mark.parametrize(("n", "least"), [(10, 7), (100, 7), (1000, 11)])
def test_fgsm_may_beat_pgd_by_chance_but_not_by_more(n: int, least: int):
    """Chance: of 7 images that only one of them breaks, all 7 (p < 0.01); and more than 1 % of all images."""
    for more, expected in ((0, False), (least - 1, False), (least, True), (n, True)):
        outcome = {"fgsm": "0" * more + "1" * (n - more), "pgd_20": "1" * n}
        assert ("fgsm_stronger_than_pgd" in flag_names(result_of(shard("1" * n, **outcome)))) == expected, more
        assert flag_names(result_of(shard("1" * n, pgd_20="1" * n), attacks=(PGD_20,))) == set()
        weaker = {"fgsm": outcome["pgd_20"], "pgd_20": outcome["fgsm"]}
        assert flag_names(result_of(shard("1" * n, **weaker))) == set(), "PGD_20 may be as much stronger as it likes"


def test_fgsm_and_pgd_are_compared_on_the_images_that_both_met():
    outcomes = {"fgsm": "0" * 50 + "." * 50, "pgd_20": "0" * 50 + "1" * 50}
    assert flag_names(result_of(shard("1" * 100, **outcomes), attacks=(FGSM | {"n": 50}, PGD_20))) == set()


@pytest.mark.parametrize("target", ["random", "least_likely", "all"])
def test_a_targeted_attack_is_weaker_by_design_and_raises_no_flag(target: str):
    name = f"pgd-20-{target.replace('_', '-')}"
    found = result_of(
        shard("1" * 200, **{"fgsm": "0" * 200, name: "1" * 200}),
        attacks=(FGSM, PGD_20 | {"target": target}),
    )  # fmt: skip
    assert flag_names(found) == set()


@pytest.mark.parametrize(("classes", "expected"), [(2, {"few_classes"}), (3, {"few_classes"}), (4, set()), (10, set())])
def test_few_classes_are_told_but_do_not_block(classes: int, expected: set[str]):
    same = {"label": [0, 1], "predicted": [0, 1]}
    parts = list(parts_for(classes, True))
    found = result_of(shard("11", autoattack="10", parts=parts, **same), attacks=(AUTO,), classes=classes)
    assert flag_names(found) == expected and not any(flag.blocking for flag in found.flags)
    assert flag_names(result_of(shard("11", fgsm="10", **same), attacks=(FGSM,), classes=classes)) == set()


def test_in_the_tier_paranoid_convergence_can_be_told(linear: Build, monkeypatch: pytest.MonkeyPatch):
    """An AutoAttack that breaks everything left nothing for longer PGD: its flags had no image to speak of."""
    (model, _), x = two_classes(linear), pixels(30)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    monkeypatch.setattr(autoattack, "autoattack", lambda _, part, *__: (1 - part.x, ["apgd-ce"] * len(part.x)))

    def weak(self: Adversary, model: nn.Module, x: Tensor, y: Tensor, *rest: object) -> list[Tensor]:
        """PGD finds something in 200 steps and at the eleventh start only."""
        worst = 1 - x if self.attack.num_steps == 200 else x
        return [x] * 10 + [1 - x] * 10 if self.attack.restarts == 20 else [worst]

    monkeypatch.setattr(Adversary, "starts", weak)
    evaluation = Evaluation(tier="paranoid").plan(Linf(epsilon=1), grey=True)
    found = concluded([attacked(model, batch(x, y), evaluation)], evaluation, 30, 2)
    assert {"steps_not_converged", "restarts_not_converged"} <= {flag.name for flag in found.flags}

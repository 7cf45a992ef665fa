"""Flags of the attacks: what one attack, restart or epsilon says against the figures of the others.

The thresholds were set on the broken and on the healthy models of tests/evaluation/test_defences.py.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from scipy.stats import binomtest

from distrib.evaluation.attacks import WITHOUT_GRADIENT, Fgsm, Pgd
from distrib.evaluation.autoattack import STANDARD, parts_for
from distrib.evaluation.evidence import Evidence, epsilon_curve
from distrib.evaluation.flags import FEWEST_IMAGES, Flag, examples_of
from distrib.evaluation.outcomes import BROKEN, NOT_ASKED, STOOD
from distrib.evaluation.probes import PROBED


def _gradients(evidence: Evidence) -> Iterator[Flag]:
    """Checks that the gradient which most attacks follow exists, and that many steps along it break more than one."""
    zero = np.array([flat for shard in evidence.shards for flat in shard.probes.zero_gradient])
    share = (zero & evidence.clean).sum() / max(1, evidence.clean.sum())
    if share > 0.01 and (zero & evidence.clean).sum() >= 3:
        detail = f"{share:.1%} of the rightly classified images have no gradient: attacks by gradient are blind there"
        yield Flag(
            name="zero_gradients", blocking=True, detail=detail, examples=examples_of(evidence, zero & evidence.clean)
        )
    fgsm = next(
        (evidence.outcomes[attack.name] for attack in evidence.evaluation.attacks if isinstance(attack, Fgsm)), None
    )
    for attack in evidence.evaluation.attacks:
        if fgsm is None or not isinstance(attack, Pgd) or attack.target != "none" or attack.loss != "cross_entropy":
            continue
        outcome = evidence.outcomes[attack.name]
        only_fgsm = evidence.clean & (fgsm == BROKEN) & (outcome == STOOD)
        only_pgd = evidence.clean & (fgsm == STOOD) & (outcome == BROKEN)
        more, differing = int(only_fgsm.sum()) - int(only_pgd.sum()), int(only_fgsm.sum()) + int(only_pgd.sum())
        asked = int(((fgsm != NOT_ASKED) & (outcome != NOT_ASKED)).sum())
        if more > 0.01 * asked and binomtest(int(only_fgsm.sum()), differing, 0.5, "greater").pvalue < 0.01:
            detail = f"fgsm breaks {more} more of {asked} images than {attack.name}: gradients mislead"
            yield Flag(
                name="fgsm_stronger_than_pgd", blocking=True, detail=detail, examples=examples_of(evidence, only_fgsm)
            )


def _black_box(evidence: Evidence) -> Iterator[Flag]:
    """Checks that attacks with the model's gradient break what those without it break."""
    white, tried = np.zeros(len(evidence.label), dtype=bool), np.zeros(len(evidence.label), dtype=bool)
    for attack in evidence.evaluation.attacks:
        if not isinstance(attack, WITHOUT_GRADIENT) and attack.name != "autoattack":
            if not isinstance(attack, Fgsm):  # one step alone is no search
                tried |= np.isin(evidence.outcomes[attack.name], (STOOD, BROKEN))
            white |= evidence.outcomes[attack.name] == BROKEN
    if "autoattack" in evidence.outcomes:
        tried |= np.isin(evidence.outcomes["autoattack"], (STOOD, BROKEN))
        white |= (evidence.outcomes["autoattack"] == BROKEN) & ~_by_square(evidence)
    black = _by_square(evidence)
    for attack in evidence.evaluation.attacks:
        if isinstance(attack, WITHOUT_GRADIENT):
            black |= evidence.outcomes[attack.name] == BROKEN
    only = evidence.clean & tried & black & ~white
    share = only.sum() / max(1, tried.sum())
    if only.sum() >= 3 and share > 0.002:  # the threshold of AutoAttack's own check
        detail = f"{int(only.sum())} images ({share:.1%}) are broken only by attacks that use no gradient"
        yield Flag(
            name="black_box_beats_white_box",
            blocking=bool(share > 0.05),
            detail=detail,
            examples=examples_of(evidence, only),
        )


def _by_square(evidence: Evidence) -> np.ndarray:
    """Images that AutoAttack broke only by its part without gradients."""
    return np.array([part == "square" for shard in evidence.shards for part in shard.stage], dtype=bool)


def _listed_attacks(evidence: Evidence) -> Iterator[Flag]:
    """Checks that the listed attacks break what the evaluation's own probe breaks at epsilon."""
    fell = np.array([one for shard in evidence.shards for one in shard.probes.fell])
    outcomes = np.stack(list(evidence.outcomes.values()))
    tried = (np.arange(len(fell)) < PROBED) & (outcomes != NOT_ASKED).all(axis=0)
    only = tried & evidence.clean & (outcomes != BROKEN).all(axis=0) & fell
    share = only.sum() / max(1, tried.sum())
    if only.sum() >= 3 and share > 0.02:
        detail = (
            f"PGD-40 on the margin breaks {int(only.sum())} of {int(tried.sum())} images that no listed attack breaks: "
            "the figure is too high; take a stronger tier"
        )
        yield Flag(
            name="listed_attacks_too_weak",
            blocking=bool(share > 0.1),
            detail=detail,
            examples=examples_of(evidence, only),
        )


def _autoattack(evidence: Evidence) -> Iterator[Flag]:
    """Checks that PGD breaks nearly what AutoAttack breaks: it also ranks the epochs, and the trials of a search."""
    climbs = [evidence.outcomes[one.name] for one in evidence.evaluation.attacks if isinstance(one, Pgd)]
    if not climbs or "autoattack" not in evidence.outcomes:
        return
    found = evidence.outcomes["autoattack"]
    asked = (found != NOT_ASKED) & (np.stack(climbs) != NOT_ASKED).all(axis=0)
    only = evidence.clean & asked & (np.stack(climbs) != BROKEN).all(axis=0)
    only &= (found == BROKEN) & ~_by_square(evidence)  # what only Square breaks is another flag
    share = only.sum() / max(1, asked.sum())
    if only.sum() >= 5 and share > 0.1:
        detail = (
            f"AutoAttack breaks {int(only.sum())} of {int(asked.sum())} images ({share:.1%}) that no PGD breaks: "
            "figures of PGD alone, as those of validation, are too high"
        )
        yield Flag(name="autoattack_beats_pgd", blocking=False, detail=detail, examples=examples_of(evidence, only))


def _convergence(evidence: Evidence) -> Iterator[Flag]:
    """Checks that twice the steps, or twice the restarts, break hardly more."""
    for weak in evidence.evaluation.attacks:
        for strong in evidence.evaluation.attacks:
            if not isinstance(weak, Pgd) or not isinstance(strong, Pgd):
                continue
            free = {"num_steps", "step_size", "n", "meets"}
            same = weak.model_dump(exclude=free) == strong.model_dump(exclude=free)
            if not same or strong.num_steps < 2 * weak.num_steps:
                continue
            a, b = evidence.outcomes[weak.name], evidence.outcomes[strong.name]
            gain = int((evidence.clean & (a == STOOD) & (b == BROKEN)).sum())
            gain -= int((evidence.clean & (a == BROKEN) & (b == STOOD)).sum())
            asked = int(((a != NOT_ASKED) & (b != NOT_ASKED)).sum())
            yield from _gain("steps_not_converged", gain, asked, f"{weak.name} to {strong.name}")
    for attack in evidence.evaluation.attacks:
        curves = [shard.starts[attack.name] for shard in evidence.shards if attack.name in shard.starts]
        if curves:
            curve = np.sum(curves, axis=0)
            half = len(curve) // 2
            what = f"{attack.name}, from {half} to {len(curve)} restarts"
            asked = int(np.isin(evidence.outcomes[attack.name], (STOOD, BROKEN)).sum())
            yield from _gain("restarts_not_converged", int(curve[-1] - curve[half - 1]), asked, what)


def _gain(name: str, gain: int, count: int, what: str) -> Iterator[Flag]:
    if gain >= 5 and gain / max(1, count) > 0.005:  # up to 4 lie within two standard errors (their root) of none
        detail = f"{what}: {gain / count:.1%} more images broken; a stronger attack would go on"
        yield Flag(name=name, blocking=False, detail=detail)


def _curve(evidence: Evidence) -> Iterator[Flag]:
    """Checks that accuracy falls as epsilon grows, down to chance: in the whole box any image can become any other."""
    curve = epsilon_curve(evidence.shards)
    if not curve:
        return
    (last, accuracy, count), slack = curve[-1], 2 * np.sqrt(0.25 / max(1, curve[-1][2]))
    chance = 1 / evidence.num_classes
    several = len(set(evidence.predicted.tolist())) > 1
    if count >= FEWEST_IMAGES and accuracy > chance + np.sqrt(chance * (1 - chance) / count) * 3 and several:
        detail = f"accuracy is {accuracy:.1%} at epsilon {last:.3g}, where every image can become any other"
        yield Flag(name="epsilon_curve_above_chance", blocking=True, detail=detail)
    for (small, before, _), (large, after, _) in pairwise(curve):
        if after > before + slack:
            detail = f"accuracy rises from {before:.1%} at epsilon {small:.3g} to {after:.1%} at {large:.3g}"
            yield Flag(name="epsilon_curve_rises", blocking=False, detail=detail)
            break


def _figures(evidence: Evidence) -> Iterator[Flag]:
    """Checks that the stored images score again as they did, and in bfloat16 as in float32."""
    for name in evidence.outcomes:
        count = sum(shard.projected.get(name, 0) for shard in evidence.shards)
        if count:
            detail = f"{count} images of {name} lay outside the ball by float rounding: projected onto it, scored again"
            yield Flag(name="images_projected", blocking=False, detail=detail)
    if evidence.disagree.any():
        detail = f"{int(evidence.disagree.sum())} stored images are scored otherwise when they are loaded again"
        yield Flag(
            name="stored_examples_disagree",
            blocking=True,
            detail=detail,
            examples=examples_of(evidence, evidence.disagree),
        )
    probes = [shard.probes for shard in evidence.shards]
    count = sum(probe.reduced for probe in probes)
    gap = sum(probe.bfloat16_right - probe.float32_right for probe in probes)
    if abs(gap) >= 3 and abs(gap) > 0.05 * count:
        detail = f"of {count} worst images, bfloat16 classifies {gap:+d} rightly, against float32"
        yield Flag(name="precision_gap", blocking=False, detail=detail)


def _classes(evidence: Evidence) -> Iterator[Flag]:
    """Checks that AutoAttack ran whole."""
    parts = {part for shard in evidence.shards for part in shard.parts}
    if "autoattack" not in evidence.outcomes or not parts:
        return
    if parts == set(parts_for(10, False)):
        detail = "the model lets no gradient through: of AutoAttack only Square could run"
        yield Flag(name="attacks_left_out", blocking=True, detail=detail)
    elif parts != set(STANDARD):
        detail = (
            f"{evidence.num_classes} classes: AutoAttack ran without its targeted attacks ({', '.join(sorted(parts))})"
        )
        yield Flag(name="few_classes", blocking=False, detail=detail)


ATTACK_CHECKS = (_gradients, _black_box, _listed_attacks, _autoattack, _convergence, _curve, _figures, _classes)

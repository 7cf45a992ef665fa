"""What speaks against believing an evaluation's figures, as fields of its result.

A blocking flag says that the figure is not to be used: no model is promoted on it. The others say where to look. The
thresholds were set on the broken and on the healthy models of tests/evaluate/test_defences.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from distrib.evaluation.attacks import WITHOUT_GRADIENT, Evaluation, Fgsm, Pgd
from distrib.evaluation.autoattack import STANDARD, parts_for
from distrib.evaluation.probes import PROBED
from distrib.evaluation.shard import BROKEN, NOT_ASKED, ROUNDED, STOOD, ShardResult
from distrib.values import Value

ROUNDING = 1e-4
"""Largest change of a logit, as a share of the logits' spread, that float rounding explains."""
MARGIN_JUMP = 0.1
"""A jump of the margin, as a share of its span. Healthy networks: at most 0.0015; a decision as one-hot: 1."""
LOGIT_JUMP = 0.01
"""A jump of the logits beside an image, a share of their spread. Healthy: 2e-6 at most; two networks in one: 0.16."""
GRADIENT_ERROR = 0.5
"""An error of the gradient. Healthy: at most 0.16, median 0.013; no gradient, or a random layer: 1."""
FEWEST_IMAGES = 20
"""On fewer images no share is held against chance: of 2 images, one misclassified is "wrong labels" to the half."""
MOST_EXAMPLES = 20
"""So many examples are named in a flag."""


class Flag(Value):
    """Something that speaks against believing the figures."""

    name: str
    blocking: bool
    """The figure is not to be used, and no model is promoted on it."""
    detail: str
    examples: tuple[int, ...] = ()
    """Images that show it, as places in the test split; the first 20."""


@dataclass(frozen=True)
class Evidence:
    """Everything that the shards found, in the evaluation's order."""

    shards: Sequence[ShardResult]
    suite: Evaluation
    num_classes: int
    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    fate: dict[str, np.ndarray]
    """For each attack, each image's fate."""
    disagree: np.ndarray
    """Images whose stored worst case is scored otherwise than in the attack."""

    @property
    def clean(self) -> np.ndarray:
        """Classified rightly as they are."""
        return self.label == self.predicted


def flags_of(evidence: Evidence) -> tuple[Flag, ...]:
    """Every flag that the evidence raises."""
    return tuple(flag for check in CHECKS for flag in check(evidence))


def _finite(found: Evidence) -> Iterator[Flag]:
    """Of the logits: they are numbers. Where no class can be told from them, the image counts as misclassified."""
    lost = np.array([one for shard in found.shards for one in shard.lost], dtype=bool)
    infinite = np.array([one for shard in found.shards for one in shard.infinite], dtype=bool)
    if lost.any():
        detail = (
            f"{int(lost.sum())} images, as they are or attacked, get NaN or a largest logit that is infinite: no class"
        )
        yield Flag(name="nonfinite_logits", blocking=True, detail=detail, examples=_listed(found, lost))
    elif infinite.any():
        detail = f"{int(infinite.sum())} images get infinite logits: a margin or a divergence cannot be computed there"
        yield Flag(name="nonfinite_logits", blocking=False, detail=detail, examples=_listed(found, infinite))


def needs_harder_attacks(found: Evidence) -> bool:
    """Whether a probe of the model as a function was set off: then its figure takes harder attacks."""
    return any(True for _ in _geometry(found))


def _geometry(found: Evidence) -> Iterator[Flag]:
    """Of the model as a function of the image: continuous, with a gradient of its own, the same on 8 bits."""
    probes = [shard.probes for shard in found.shards]
    said = [
        (
            MARGIN_JUMP,
            [one for probe in probes for one in probe.jumps],
            "segments the margin jumps where the decision changes",
        ),
        (LOGIT_JUMP, [one for probe in probes for one in probe.ledges], "images the logits jump just beside the image"),
    ]
    for least, sizes, what in said:
        if _often(sizes, least):
            detail = f"on {sum(one > least for one in sizes)} of {len(sizes)} {what}: no gradient leads across"
            yield Flag(name="discontinuous_output", blocking=True, detail=detail)
            break
    errors = [one for probe in probes for one in probe.gradient_errors]
    if _often(errors, GRADIENT_ERROR):
        detail = (
            f"at {sum(one > GRADIENT_ERROR for one in errors)} of {len(errors)} random points the gradient is not that "
            "of finite differences: attacks climb something else"
        )
        yield Flag(name="wrong_gradients", blocking=True, detail=detail)
    listed = [attack.name for attack in found.suite.attacks]
    fell = sum(shard.broke_alone(ROUNDED, listed) for shard in found.shards)
    tried = fell + sum(fate == STOOD for shard in found.shards for fate in shard.fate.get(ROUNDED, ()))
    if fell >= 3 and fell > 0.02 * tried:
        detail = (
            f"{fell} of {tried} worst images are misclassified once they are rounded to 8 bits, and were not before"
        )
        yield Flag(name="rounding_breaks", blocking=True, detail=detail)


def _often(sizes: Sequence[float], least: float) -> bool:
    """At least 3 of them, and a tenth, are larger than ``least``."""
    count = sum(one > least for one in sizes)
    return count >= 3 and count > 0.1 * len(sizes)


def _output(found: Evidence) -> Iterator[Flag]:
    """Of the model as a function: the same for the same image, logits, no work of its own on the gradient."""
    probes = [shard.probes for shard in found.shards]
    repeat = max(probe.repeat_change for probe in probes)
    company = max(probe.company_change for probe in probes)
    if repeat > ROUNDING:
        detail = f"identical calls differ by {repeat:.2g} of the logits' spread: a deterministic attack misleads"
        yield Flag(name="randomised_output", blocking=True, detail=detail)
    elif company > 10 * ROUNDING:
        detail = f"an image's logits change by {company:.2g} of their spread with the others in its batch"
        yield Flag(name="batch_dependent_output", blocking=True, detail=detail)
    if any(probe.state_changed for probe in probes):
        detail = "a call in evaluation mode changes the model's buffers: it is left in train mode"
        yield Flag(name="state_changes", blocking=True, detail=detail)
    if any(probe.optimises for probe in probes):
        detail = "the model differentiates or optimises inside forward: attacks by gradient see a part of it only"
        yield Flag(name="optimisation_inside_forward", blocking=True, detail=detail)
    if all(probe.probabilities for probe in probes):
        detail = "the model gives probabilities; gradients through a softmax vanish: export logits"
        yield Flag(name="softmax_output", blocking=True, detail=detail)
    spread = float(np.median([probe.spread for probe in probes]))
    if not 1e-2 < spread < 1e3 and len(set(found.predicted.tolist())) > 1:
        detail = f"an image's logits spread over {spread:.2g} (median): a cross-entropy cannot be climbed there"
        yield Flag(name="logit_scale", blocking=True, detail=detail)


def _labels(found: Evidence) -> Iterator[Flag]:
    """Of labels and predictions: the accuracy of a model that answers another question means nothing."""
    share, answered = found.clean.mean(), found.predicted >= 0
    if len(found.label) < FEWEST_IMAGES or not answered.any():
        return
    classes, counts = np.unique(found.predicted[answered], return_counts=True)
    usual, said = classes[counts.argmax()], counts.max() / len(found.label)
    others = int((found.label != usual).sum())
    if (said == 1 and others >= 3) or (said >= 0.98 and others >= 0.05 * len(found.label) and others >= 10):
        detail = f"{said:.1%} of the images are classified as {usual}, and {others} are not: the model has collapsed"
        yield Flag(name="constant_output", blocking=True, detail=detail)
        return
    counts = np.zeros((found.num_classes, found.num_classes), dtype=int)
    known = answered & (found.label < found.num_classes) & (found.predicted < found.num_classes)
    np.add.at(counts, (found.label[known], found.predicted[known]), 1)
    rows, columns = linear_sum_assignment(-counts)
    size = counts.sum(axis=1)
    renamed = [(a, b) for a, b in zip(rows, columns, strict=True) if a != b and 2 * counts[a, b] > size[a]]
    gain = sum(counts[a, b] - counts[a, a] for a, b in renamed) / len(found.label)
    if gain > 0.05:
        pairs = ", ".join(f"{a} -> {b}" for a, b in renamed)[:200]
        detail = f"clean accuracy {share:.1%}, but {share + gain:.1%} if classes are renamed ({pairs})"
        yield Flag(name="wrong_labels", blocking=True, detail=detail)
    elif share < 1 / found.num_classes + 0.05 * (1 - 1 / found.num_classes):
        detail = f"clean accuracy {share:.1%} is that of chance among {found.num_classes} classes"
        yield Flag(name="clean_accuracy_at_chance", blocking=True, detail=detail)


def _gradients(found: Evidence) -> Iterator[Flag]:
    """Of the gradient that most attacks climb: it is there, and it leads somewhere."""
    zero = np.array([flat for shard in found.shards for flat in shard.probes.zero_gradient])
    share = (zero & found.clean).sum() / max(1, found.clean.sum())
    if share > 0.01 and (zero & found.clean).sum() >= 3:
        detail = f"{share:.1%} of the rightly classified images have no gradient: attacks by gradient are blind there"
        yield Flag(name="zero_gradients", blocking=True, detail=detail, examples=_listed(found, zero & found.clean))
    fgsm = next((found.fate[attack.name] for attack in found.suite.attacks if isinstance(attack, Fgsm)), None)
    for attack in found.suite.attacks:
        if fgsm is None or not isinstance(attack, Pgd) or attack.target != "none" or attack.loss != "cross_entropy":
            continue
        fate = found.fate[attack.name]
        only_fgsm = found.clean & (fgsm == BROKEN) & (fate == STOOD)
        only_pgd = found.clean & (fgsm == STOOD) & (fate == BROKEN)
        more, differing = int(only_fgsm.sum()) - int(only_pgd.sum()), int(only_fgsm.sum()) + int(only_pgd.sum())
        asked = int(((fgsm != NOT_ASKED) & (fate != NOT_ASKED)).sum())
        if more > 0.01 * asked and binomtest(int(only_fgsm.sum()), differing, 0.5, "greater").pvalue < 0.01:
            detail = f"fgsm breaks {more} more of {asked} images than {attack.name}: gradients mislead"
            yield Flag(name="fgsm_stronger_than_pgd", blocking=True, detail=detail, examples=_listed(found, only_fgsm))


def _black_box(found: Evidence) -> Iterator[Flag]:
    """Of attacks without the model's gradient: what they break, those with it must break too."""
    white, tried = np.zeros(len(found.label), dtype=bool), np.zeros(len(found.label), dtype=bool)
    for attack in found.suite.attacks:
        if not isinstance(attack, WITHOUT_GRADIENT) and attack.name != "autoattack":
            if not isinstance(attack, Fgsm):  # one step alone is no search
                tried |= np.isin(found.fate[attack.name], (STOOD, BROKEN))
            white |= found.fate[attack.name] == BROKEN
    if "autoattack" in found.fate:
        tried |= np.isin(found.fate["autoattack"], (STOOD, BROKEN))
        white |= (found.fate["autoattack"] == BROKEN) & ~_by_square(found)
    black = _by_square(found)
    for attack in found.suite.attacks:
        if isinstance(attack, WITHOUT_GRADIENT):
            black |= found.fate[attack.name] == BROKEN
    only = found.clean & tried & black & ~white
    share = only.sum() / max(1, tried.sum())
    if only.sum() >= 3 and share > 0.002:  # the threshold of AutoAttack's own check
        detail = f"{int(only.sum())} images ({share:.1%}) are broken only by attacks that use no gradient"
        yield Flag(
            name="black_box_beats_white_box", blocking=bool(share > 0.05), detail=detail, examples=_listed(found, only)
        )


def _by_square(found: Evidence) -> np.ndarray:
    """Images that AutoAttack broke only by its part without gradients."""
    return np.array([part == "square" for shard in found.shards for part in shard.stage], dtype=bool)


def _convergence(found: Evidence) -> Iterator[Flag]:
    """Of the attacks' strength: twice as much of it must change nothing."""
    for weak in found.suite.attacks:
        for strong in found.suite.attacks:
            if not isinstance(weak, Pgd) or not isinstance(strong, Pgd):
                continue
            same = all(getattr(weak, name) == getattr(strong, name) for name in ("loss", "kappa", "target", "restarts"))
            if not same or strong.num_steps < 2 * weak.num_steps:
                continue
            a, b = found.fate[weak.name], found.fate[strong.name]
            gain = int((found.clean & (a == STOOD) & (b == BROKEN)).sum())
            gain -= int((found.clean & (a == BROKEN) & (b == STOOD)).sum())
            asked = int(((a != NOT_ASKED) & (b != NOT_ASKED)).sum())
            yield from _gain("steps_not_converged", gain, asked, f"{weak.name} to {strong.name}")
    for attack in found.suite.attacks:
        curves = [shard.starts[attack.name] for shard in found.shards if attack.name in shard.starts]
        if curves:
            curve = np.sum(curves, axis=0)
            half = len(curve) // 2
            what = f"{attack.name}, from {half} to {len(curve)} restarts"
            asked = int(np.isin(found.fate[attack.name], (STOOD, BROKEN)).sum())
            yield from _gain("restarts_not_converged", int(curve[-1] - curve[half - 1]), asked, what)


def _gain(name: str, gain: int, count: int, what: str) -> Iterator[Flag]:
    if gain >= 5 and gain / max(1, count) > 0.005:  # up to 4 lie within two standard errors (their root) of none
        detail = f"{what}: {gain / count:.1%} more images broken; a stronger attack would go on"
        yield Flag(name=name, blocking=False, detail=detail)


def _curve(found: Evidence) -> Iterator[Flag]:
    """Of growing epsilon: the accuracy falls, and reaches chance at last, for anything can be drawn there."""
    curve = epsilon_curve(found.shards)
    if not curve:
        return
    (last, accuracy, count), slack = curve[-1], 2 * np.sqrt(0.25 / max(1, curve[-1][2]))
    chance = 1 / found.num_classes
    several = len(set(found.predicted.tolist())) > 1
    if count >= FEWEST_IMAGES and accuracy > chance + np.sqrt(chance * (1 - chance) / count) * 3 and several:
        detail = f"accuracy is {accuracy:.1%} at epsilon {last:.3g}, where every image can become any other"
        yield Flag(name="epsilon_curve_above_chance", blocking=True, detail=detail)
    for (small, before, _), (large, after, _) in pairwise(curve):
        if after > before + slack:
            detail = f"accuracy rises from {before:.1%} at epsilon {small:.3g} to {after:.1%} at {large:.3g}"
            yield Flag(name="epsilon_curve_rises", blocking=False, detail=detail)
            break


def _listed_attacks(found: Evidence) -> Iterator[Flag]:
    """Of the listed attacks: what the evaluation's own probe breaks at epsilon, they must break too."""
    fell = np.array([one for shard in found.shards for one in shard.probes.fell])
    fates = np.stack(list(found.fate.values()))
    tried = (np.arange(len(fell)) < PROBED) & (fates != NOT_ASKED).all(axis=0)
    only = tried & found.clean & (fates != BROKEN).all(axis=0) & fell
    share = only.sum() / max(1, tried.sum())
    if only.sum() >= 3 and share > 0.02:
        detail = (
            f"PGD-40 on the margin breaks {int(only.sum())} of {int(tried.sum())} images that no listed attack breaks: "
            "the figure is too high; take a stronger tier"
        )
        yield Flag(
            name="listed_attacks_too_weak", blocking=bool(share > 0.1), detail=detail, examples=_listed(found, only)
        )


def epsilon_curve(shards: Sequence[ShardResult]) -> list[tuple[float, float, int]]:
    """(epsilon, accuracy under PGD-40, images) of the probed images, by growing epsilon."""
    found: dict[float, tuple[int, int]] = {}
    for shard in shards:
        for epsilon, stood, tried in shard.probes.epsilon_curve:
            before = found.get(epsilon, (0, 0))
            found[epsilon] = before[0] + stood, before[1] + tried
    return [(epsilon, stood / tried, tried) for epsilon, (stood, tried) in sorted(found.items())]


def _figures(found: Evidence) -> Iterator[Flag]:
    """Of the figures themselves: the same images, scored again, give them again."""
    for name in found.fate:
        count = sum(shard.projected.get(name, 0) for shard in found.shards)
        if count:
            detail = f"{count} images of {name} lay outside the ball by float rounding: projected onto it, scored again"
            yield Flag(name="images_projected", blocking=False, detail=detail)
    if found.disagree.any():
        detail = f"{int(found.disagree.sum())} stored images are scored otherwise when they are loaded again"
        yield Flag(
            name="stored_examples_disagree", blocking=True, detail=detail, examples=_listed(found, found.disagree)
        )
    probes = [shard.probes for shard in found.shards]
    count = sum(probe.reduced for probe in probes)
    gap = sum(probe.bfloat16_right - probe.float32_right for probe in probes)
    if abs(gap) >= 3 and abs(gap) > 0.05 * count:
        detail = f"of {count} worst images, bfloat16 classifies {gap:+d} rightly, against float32"
        yield Flag(name="precision_gap", blocking=False, detail=detail)


def _classes(found: Evidence) -> Iterator[Flag]:
    """Of AutoAttack: it ran whole."""
    parts = {part for shard in found.shards for part in shard.parts}
    if "autoattack" not in found.fate or not parts:
        return
    if parts == set(parts_for(10, False)):
        detail = "the model lets no gradient through: of AutoAttack only Square could run"
        yield Flag(name="attacks_left_out", blocking=True, detail=detail)
    elif parts != set(STANDARD):
        detail = (
            f"{found.num_classes} classes: AutoAttack ran without its targeted attacks ({', '.join(sorted(parts))})"
        )
        yield Flag(name="few_classes", blocking=False, detail=detail)


def _listed(found: Evidence, which: np.ndarray) -> tuple[int, ...]:
    return tuple(found.index[which][:MOST_EXAMPLES].tolist())


CHECKS = (
    _finite, _geometry, _output,
    _labels, _gradients, _black_box, _listed_attacks, _convergence, _curve, _figures, _classes,
)  # fmt: skip

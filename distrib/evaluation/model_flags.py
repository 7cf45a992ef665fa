"""Flags of the model itself: what its logits, its labels and its function of the image say against the figures.

The thresholds were set on the broken and on the healthy models of tests/evaluation/test_defences.py.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from distrib.evaluation.evidence import Evidence
from distrib.evaluation.flags import FEWEST_IMAGES, Flag, examples_of
from distrib.evaluation.outcomes import ROUNDED, STOOD

LOGIT_ROUNDING = 1e-4
"""Largest change of a logit, as a share of the logits' spread, that float rounding explains."""
MARGIN_JUMP = 0.1
"""A jump of the margin, as a share of its span. Healthy networks: at most 0.0015; a decision as one-hot: 1."""
LOGIT_JUMP = 0.01
"""A jump of the logits beside an image, a share of their spread. Healthy: 2e-6 at most; two networks in one: 0.16."""
GRADIENT_ERROR = 0.5
"""An error of the gradient. Healthy: at most 0.16, median 0.013; no gradient, or a random layer: 1."""


def _finite(evidence: Evidence) -> Iterator[Flag]:
    """Checks that logits are numbers. An image whose class cannot be told from them counts as misclassified."""
    lost = np.array([one for shard in evidence.shards for one in shard.lost], dtype=bool)
    infinite = np.array([one for shard in evidence.shards for one in shard.infinite], dtype=bool)
    if lost.any():
        detail = (
            f"{int(lost.sum())} images, as they are or attacked, get NaN or a largest logit that is infinite: no class"
        )
        yield Flag(name="nonfinite_logits", blocking=True, detail=detail, examples=examples_of(evidence, lost))
    elif infinite.any():
        detail = f"{int(infinite.sum())} images get infinite logits: a margin or a divergence cannot be computed there"
        yield Flag(name="nonfinite_logits", blocking=False, detail=detail, examples=examples_of(evidence, infinite))


def _output(evidence: Evidence) -> Iterator[Flag]:
    """Checks that a call can be repeated, judges each image by itself, changes nothing, and gives logits to climb."""
    probes = [shard.probes for shard in evidence.shards]
    repeat = max(probe.repeat_change for probe in probes)
    company = max(probe.company_change for probe in probes)
    if repeat > LOGIT_ROUNDING:
        detail = f"identical calls differ by {repeat:.2g} of the logits' spread: a deterministic attack misleads"
        yield Flag(name="randomised_output", blocking=True, detail=detail)
    elif company > 10 * LOGIT_ROUNDING:
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
    if not 1e-2 < spread < 1e3 and len(set(evidence.predicted.tolist())) > 1:
        detail = f"an image's logits spread over {spread:.2g} (median): a cross-entropy cannot be climbed there"
        yield Flag(name="logit_scale", blocking=True, detail=detail)


def _labels(evidence: Evidence) -> Iterator[Flag]:
    """Checks labels against predictions: the accuracy of a model that answers another question means nothing."""
    share, answered = evidence.clean.mean(), evidence.predicted >= 0
    if len(evidence.label) < FEWEST_IMAGES or not answered.any():
        return
    classes, counts = np.unique(evidence.predicted[answered], return_counts=True)
    usual, said = classes[counts.argmax()], counts.max() / len(evidence.label)
    others = int((evidence.label != usual).sum())
    if (said == 1 and others >= 3) or (said >= 0.98 and others >= 0.05 * len(evidence.label) and others >= 10):
        one = evidence.called(usual)
        detail = f"{said:.1%} of the images are classified as {one}, and {others} are not: the model has collapsed"
        yield Flag(name="constant_output", blocking=True, detail=detail)
        return
    counts = np.zeros((evidence.num_classes, evidence.num_classes), dtype=int)
    known = answered & (evidence.label < evidence.num_classes) & (evidence.predicted < evidence.num_classes)
    np.add.at(counts, (evidence.label[known], evidence.predicted[known]), 1)
    rows, columns = linear_sum_assignment(-counts)
    size = counts.sum(axis=1)
    renamed = [(a, b) for a, b in zip(rows, columns, strict=True) if a != b and 2 * counts[a, b] > size[a]]
    for _ in renamed:  # a name that is taken from a class is free only if that class has another, or no images
        weak = {a for a, b in zip(rows, columns, strict=True) if counts[a, b] > counts[a, a]}
        free = {a for a, _ in renamed} | weak | set(np.flatnonzero(size == 0))
        renamed = [(a, b) for a, b in renamed if b in free]
    gain = sum(counts[a, b] - counts[a, a] for a, b in renamed) / len(evidence.label)
    if gain > 0.05:
        pairs = ", ".join(f"{evidence.called(a)} -> {evidence.called(b)}" for a, b in renamed)[:200]
        detail = f"clean accuracy {share:.1%}, but {share + gain:.1%} if classes are renamed ({pairs})"
        yield Flag(name="wrong_labels", blocking=True, detail=detail)
    elif share < 1 / evidence.num_classes + 0.05 * (1 - 1 / evidence.num_classes):
        detail = f"clean accuracy {share:.1%} is that of chance among {evidence.num_classes} classes"
        yield Flag(name="clean_accuracy_at_chance", blocking=True, detail=detail)


def needs_harder_attacks(evidence: Evidence) -> bool:
    """Whether the model as a function of the image raises a flag: then attacks by gradient say too little of it."""
    return any(True for _ in _geometry(evidence))


def _geometry(evidence: Evidence) -> Iterator[Flag]:
    """Checks the model as a function of the image: it is continuous, its gradient is its own, 8 bits decide nothing."""
    probes = [shard.probes for shard in evidence.shards]
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
    listed = [attack.name for attack in evidence.evaluation.attacks]
    fell = sum(shard.broke_alone(ROUNDED, listed) for shard in evidence.shards)
    tried = fell + sum(outcome == STOOD for shard in evidence.shards for outcome in shard.outcomes.get(ROUNDED, ()))
    if fell >= 3 and fell > 0.02 * tried:
        detail = (
            f"{fell} of {tried} worst images are misclassified once they are rounded to 8 bits, and were not before"
        )
        yield Flag(name="rounding_breaks", blocking=True, detail=detail)


def _often(sizes: Sequence[float], least: float) -> bool:
    """At least 3 of them, and a tenth, are larger than ``least``."""
    count = sum(one > least for one in sizes)
    return count >= 3 and count > 0.1 * len(sizes)


MODEL_CHECKS = (_finite, _geometry, _output, _labels)

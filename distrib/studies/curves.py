"""Accuracy against epsilon in each norm (Madry et al., Figure 6), by PGD and by an attack that sees no gradient.

The paper's L2 curve of its MNIST model is known to be too high: the model's thresholds hide the gradient from PGD.
Square Attack needs no gradient: where it breaks more images than PGD, the curve by PGD is not to be believed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final, get_args

import torch

from distrib.attack import PGD, Adversary, predicted
from distrib.config.job import Study, Train
from distrib.config.study import CurvesStudy, addresses
from distrib.data.loader import Batch
from distrib.evaluation.autoattack import square
from distrib.evaluation.logits import logits_of
from distrib.noise import Noise
from distrib.plots import COLOURS, INK, MARKS, QUIET, drawn, figure, legend_beside
from distrib.studies.chart import Chart
from distrib.studies.findings import Expectation, Findings
from distrib.studies.task import StudyFacts, StudyTask, starts
from distrib.threat import Norm, threat_of
from distrib.values import shown_radius

if TYPE_CHECKING:
    from distrib.plots import Figure

MASKED = 0.05
"""The gradients mislead where the accuracy under Square Attack is lower than under PGD by this much."""


@final
@dataclass(frozen=True)
class AccuracyCurves:
    """Each part is one shard of the images at one epsilon: (model, norm, epsilon, start)."""

    study: CurvesStudy

    def models(self, job: Study) -> Mapping[str, str | Train]:
        """The models that the study names."""
        return addresses(self.study.models)

    def parts(self, count: int) -> list[tuple]:
        """Every shard of the images at every epsilon of every norm, for each model."""
        study = self.study
        return [
            (label, norm, epsilon, start)
            for label in addresses(study.models)
            for norm, epsilon in study.points
            for start in starts(count, study.n, study.shard_size)
        ]

    def part(self, task: StudyTask, which: tuple) -> dict:
        """How many images of the shard the model still classifies rightly: as they are, and under each attack."""
        (label, norm, epsilon, start), study = which, self.study
        model = task.model(label)
        x, y, index = task.batch(study.n, study.seed, start, start + study.shard_size)
        threat = threat_of(norm, epsilon)
        adversary = Adversary(threat, PGD(num_steps=study.num_steps))
        clean = predicted(logits_of(model, x, len(x))) == y
        by_pgd, by_square = clean.clone(), clean.clone()  # an image that is misclassified as it is counts as broken
        rows = clean.nonzero()[:, 0]
        if epsilon > 0 and len(rows):
            x_adv = adversary.perturb(model, x[rows], y[rows], Noise.of(index[rows], study.seed, "curves"))
            by_pgd[rows] = predicted(logits_of(model, x_adv, len(x))) == y[rows]
            x_adv = square(model, Batch(x[rows], y[rows], index[rows]), threat, study.seed, study.queries)
            by_square[rows] = predicted(logits_of(model, x_adv, len(x))) == y[rows]
        counts = {"images": len(y), "clean": clean, "pgd": by_pgd, "square": by_square, "worst": by_pgd & by_square}
        return {name: int(value.sum()) if isinstance(value, torch.Tensor) else value for name, value in counts.items()}

    def conclude(self, found: dict[tuple, dict], facts: StudyFacts) -> Findings:
        """The curves, and where each reaches chance."""
        rows: list[dict[str, Any]] = []
        for label, norm, epsilon in dict.fromkeys(key[:3] for key in found):
            shards = [one for key, one in found.items() if key[:3] == (label, norm, epsilon)]
            images = sum(one["images"] for one in shards)
            shares = {name: sum(one[name] for one in shards) / images for name in ("clean", "pgd", "square", "worst")}
            rows.append({"model": label, "norm": norm, "epsilon": epsilon, "n": images, **shares})
        expectations = []
        for label in addresses(self.study.models):
            for norm in get_args(Norm):
                mine = sorted(
                    (row for row in rows if (row["model"], row["norm"]) == (label, norm)), key=lambda r: r["epsilon"]
                )
                if mine:
                    expectations += _expected(label, norm, mine, 1 / facts.num_classes)
        about = facts.about(f"PGD-{self.study.num_steps} and Square", f"{rows[0]['n']} test images")
        plots = {
            f"curves_{norm}.svg": _plot(mine, facts, about)
            for norm in get_args(Norm)
            if (mine := [row for row in rows if row["norm"] == norm])
        }
        chart = Chart("epsilon", ("pgd", "square", "worst"), ("model", "norm"), "accuracy, %")
        return Findings(rows, expectations, plots, about, chart)


def _expected(label: str, norm: str, rows: list[dict], chance: float) -> list[Expectation]:
    reached = next((row["epsilon"] for row in rows if row["worst"] <= chance), None)
    last = rows[-1]
    most = f"{last['worst']:.1%} at {shown_radius(last['epsilon'])}"
    where = f"not reached: {most}" if reached is None else f"at {shown_radius(reached)}"
    rising = max((b["worst"] - a["worst"] for a, b in pairwise(rows)), default=0.0)
    gap = max([row for row in rows if row["epsilon"] > 0] or rows, key=lambda row: row["pgd"] - row["square"])
    masked = gap["pgd"] - gap["square"]
    return [
        Expectation(target=f"{label}, {norm}: the accuracy falls to chance", achieved=where, met=reached is not None),
        Expectation(
            target=f"{label}, {norm}: a larger epsilon never helps the model",
            achieved=f"largest rise between two epsilons {100 * max(rising, 0):.1f} points", met=rising < 0.03,
        ),
        Expectation(
            target=f"{label}, {norm}: an attack without gradients does not beat PGD (else gradients are masked)",
            achieved=f"at epsilon {shown_radius(gap['epsilon'])}: PGD {gap['pgd']:.1%}, Square {gap['square']:.1%}",
            met=masked < MASKED,
        ),
    ]  # fmt: skip


@drawn
def _plot(rows: Sequence[dict], facts: StudyFacts, about: str) -> "Figure":
    """Accuracy in one norm against epsilon, for each model: the worst case is a band, and both attacks lie on it."""
    norm = rows[0]["norm"]
    made = figure(7, 4.2, f"Accuracy as epsilon grows, {norm}", about)
    axes = made.subplots()
    for i, label in enumerate(dict.fromkeys(row["model"] for row in rows)):
        mine = sorted((row for row in rows if row["model"] == label), key=lambda row: row["epsilon"])
        colour, mark, epsilons = COLOURS[i % 6], MARKS[(i + i // 6) % 6], [row["epsilon"] for row in mine]
        heights = {name: [100 * row[name] for row in mine] for name in ("worst", "pgd", "square")}
        axes.plot(epsilons, heights["worst"], color=colour, linewidth=8, alpha=0.25)
        axes.plot(epsilons, heights["square"], "--", color=colour, marker=mark, fillstyle="none", markersize=9)
        axes.plot(epsilons, heights["pgd"], color=colour, marker=mark, label=label)
        trained = facts.trained_within.get(label)
        if trained is not None and trained[0] == norm:
            axes.axvline(trained[1], color=colour, linestyle="-.", linewidth=1,
                         label=f"{label} trained at {shown_radius(trained[1])}")  # fmt: skip
    axes.axhline(100 / facts.num_classes, color=QUIET, linestyle=":", linewidth=1.2, label="chance")
    axes.plot([], [], color=INK, marker=MARKS[0], label="PGD")
    axes.plot([], [], "--", color=INK, marker=MARKS[0], fillstyle="none", markersize=9, label="Square")
    axes.plot([], [], color=INK, linewidth=8, alpha=0.25, label="both together")
    axes.set(xlabel=f"{norm} epsilon", ylabel="accuracy, %", ylim=(-3, 103))
    legend_beside(axes)
    return made

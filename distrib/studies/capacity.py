"""Width against the adversary that was trained on (Madry et al., section 4 and Figure 4)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, final

from distrib.attack import FGSM, Adversary, predicted
from distrib.config.job import Study, Train
from distrib.config.study import CapacityMethod, CapacityStudy
from distrib.evaluation.attacks import Evaluation
from distrib.evaluation.logits import logits_of
from distrib.noise import Noise
from distrib.objective import Madry, Natural
from distrib.plots import COLOURS, INK, MARKS, drawn, figure
from distrib.studies.chart import Chart
from distrib.studies.findings import Expectation, Findings
from distrib.studies.task import StudyFacts, StudyTask, starts
from distrib.values import shown_radius

if TYPE_CHECKING:
    from distrib.plots import Figure


@final
@dataclass(frozen=True)
class CapacityGrid:
    """A cell is one method of training at one width; each part is one shard of the images: (cell, start)."""

    study: CapacityStudy

    def cells(self) -> dict[str, tuple[CapacityMethod, float]]:
        """The name of each cell, its method and its width; widths ascend."""
        widths = sorted(self.study.widths)
        return {f"{method}-{width:g}": (method, width) for method in self.study.methods for width in widths}

    def models(self, job: Study) -> Mapping[str, str | Train]:
        """The training of every cell."""
        return {cell: _training(job, self.study, method, width) for cell, (method, width) in self.cells().items()}

    def parts(self, count: int) -> list[tuple]:
        """Every shard of the images, for each cell."""
        shards = starts(count, self.study.n, self.study.shard_size)
        return [(cell, start) for cell in self.cells() for start in shards]

    def part(self, task: StudyTask, which: tuple) -> dict:
        """How many images of the shard the cell's model classifies rightly, as they are and under both adversaries."""
        (cell, start), study = which, self.study
        model = task.model(cell)
        x, y, index = task.batch(study.n, study.seed, start, start + study.shard_size)
        found: dict = {"images": len(y)}
        for name, attack in (("clean", None), ("fgsm", FGSM), ("pgd", study.attack)):
            noise = Noise.of(index, study.seed, "capacity")
            x_adv = x if attack is None else Adversary(study.threat, attack).perturb(model, x, y, noise)
            label = predicted(logits_of(model, x_adv, len(x)))
            found[name] = int((label == y).sum())
            if attack is None:
                found["classes"] = sorted(set(label.tolist()))
        return found

    def conclude(self, found: dict[tuple, dict], facts: StudyFacts) -> Findings:
        """A row for each cell; its training loss is against its own adversary."""
        rows = []
        for cell, (method, width) in self.cells().items():
            shards = [one for key, one in found.items() if key[0] == cell]
            images = sum(one["images"] for one in shards)
            classes = {label for one in shards for label in one["classes"]}
            rows.append({
                "method": method, "width": width, "n": images, "train_loss": facts.training_losses[cell],
                "collapsed": len(classes) == 1,
                **{name: sum(one[name] for one in shards) / images for name in ("clean", "fgsm", "pgd")},
            })  # fmt: skip
        threat = self.study.threat
        epsilon = f"{threat.title} {shown_radius(threat.epsilon)}"
        about = facts.about(self.study.model.arch, epsilon, f"{rows[0]['n']} test images")
        chart = Chart("width", ("clean", "fgsm", "pgd"), ("method",), "accuracy, %")
        return Findings(rows, _expectations(self.study, rows), {"capacity.svg": _plot(rows, about)}, about, chart)


def _training(job: Study, study: CapacityStudy, method: CapacityMethod, width: float) -> Train:
    threat, warmup = study.threat, study.epsilon_warmup_epochs
    objective = {
        "natural": Natural(method="natural"),
        "fgsm": Madry(method="madry", threat=threat, attack=FGSM, epsilon_warmup_epochs=warmup),
        "pgd": Madry(method="madry", threat=threat, attack=study.attack, epsilon_warmup_epochs=warmup),
    }[method]
    return Train(
        kind="train",
        name=job.name,
        seed=study.seed,
        data=job.data,
        loader=job.loader,
        augment=study.augment,
        model=study.model.model_copy(update={"width": width}),
        objective=objective,
        optim=study.optim,
        evaluation=Evaluation(threat=threat, tier="quick"),
        storage=job.storage,
        keep_checkpoints=1,
        cluster=job.cluster,
        tracking=job.tracking,
    ).resolved()


def _expectations(study: CapacityStudy, rows: list[dict]) -> list[Expectation]:
    """The paper's claims on capacity (section 4)."""
    by = {method: [row for row in rows if row["method"] == method] for method in study.methods}
    found = []

    def say(target: str, achieved: str, met: bool | None) -> None:
        found.append(Expectation(target=target, achieved=achieved, met=met))

    if "natural" in by:
        small, large = by["natural"][0], by["natural"][-1]
        say(
            "capacity alone helps: trained naturally, a wider net withstands FGSM better",
            f"FGSM {small['fgsm']:.1%} at width {small['width']:g}, {large['fgsm']:.1%} at width {large['width']:g}",
            _better(large, small, "fgsm"),
        )
    if "fgsm" in by:
        learnt = [row for row in by["fgsm"] if not row["collapsed"]]
        worst = max(learnt or by["fgsm"], key=lambda row: row["fgsm"] - row["pgd"])
        say(
            "FGSM adversaries do not make a net robust: trained on FGSM, it falls to PGD",
            f"at width {worst['width']:g}: FGSM {worst['fgsm']:.1%}, PGD {worst['pgd']:.1%}"
            if learnt
            else "all collapsed",
            worst["fgsm"] - worst["pgd"] > 0.2 if learnt else None,
        )
    if "pgd" in by:
        collapsed = [row["collapsed"] for row in by["pgd"]]
        fallen = [f"{row['width']:g}" for row in by["pgd"] if row["collapsed"]]
        say(
            "weak models may fail to learn: trained on PGD, the smallest nets collapse to one class",
            f"collapsed at widths {', '.join(fallen)}" if fallen else "none collapsed",
            None if all(collapsed) else any(collapsed) and collapsed == sorted(collapsed, reverse=True),
        )
        loss = [row["train_loss"] for row in by["pgd"]]
        say(
            "the value of the saddle point falls as capacity grows",
            "training loss " + ", ".join(f"{row['train_loss']:.3g} (width {row['width']:g})" for row in by["pgd"]),
            all(b <= a * 1.02 for a, b in pairwise(loss)) and loss[-1] < loss[0] if len(loss) > 1 else None,
        )
        say(
            "more capacity withstands PGD better",
            ", ".join(f"{row['pgd']:.1%} (width {row['width']:g})" for row in by["pgd"]),
            _better(by["pgd"][-1], by["pgd"][0], "pgd"),
        )
    return found


def _better(large: dict, small: dict, name: str) -> bool | None:
    """Whether the large net's accuracy is above the small one's; None where it may be chance (two standard errors)."""
    gain, variance = large[name] - small[name], sum(row[name] * (1 - row[name]) / row["n"] for row in (large, small))
    if large is small or 0 < gain <= 2 * math.sqrt(variance):
        return None
    return gain > 0


@drawn
def _plot(rows: Sequence[dict], about: str) -> "Figure":
    """For each method of training, accuracies against width; and the training loss against width."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    made = figure(3.1 * (len(methods) + 1), 3.9, "Width against the adversary that was trained on", about)
    *grid, last = made.subplots(1, len(methods) + 1)
    for i, (axes, method) in enumerate(zip(grid, methods, strict=True)):
        mine = sorted((row for row in rows if row["method"] == method), key=lambda row: row["width"])
        widths = [row["width"] for row in mine]
        for attack, mark in zip(("clean", "fgsm", "pgd"), MARKS, strict=False):
            axes.plot(widths, [100 * row[attack] for row in mine], marker=mark, label=attack)
        fallen = [row for row in mine if row["collapsed"]]
        axes.plot([row["width"] for row in fallen], [100 * row["clean"] for row in fallen], "x", color=INK, ms=12,
                  label="collapsed to one class")  # fmt: skip
        axes.set(title=f"trained: {method}", xlabel="width", ylim=(-3, 103), xscale="log")
        last.plot(widths, [row["train_loss"] for row in mine], color=COLOURS[3 + i], marker=MARKS[3 + i], label=method)
    grid[0].set_ylabel("accuracy, %")
    last.set(title="training loss, by what was trained against", xlabel="width", xscale="log", yscale="log")
    ticks = sorted({row["width"] for row in rows})
    for axes in (*grid, last):
        axes.set_xticks(ticks, [f"{width:g}" for width in ticks])
        axes.xaxis.minorticks_off()
    made.legend(*grid[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    made.legend(*last.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return made

"""Black-box transfer: images made on every source, judged by every target (Madry et al., Tables 1 to 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from distrib.attack import Adversary, predicted
from distrib.config.job import Study, Train
from distrib.config.study import TransferStudy, addresses
from distrib.errors import JobError
from distrib.evaluation.logits import logits_of
from distrib.noise import Noise
from distrib.plots import ON_BRIGHT, ON_DARK, drawn, figure
from distrib.studies.chart import Chart
from distrib.studies.findings import Expectation, Findings
from distrib.studies.task import StudyFacts, StudyTask, starts
from distrib.values import shown_radius

if TYPE_CHECKING:
    from distrib.plots import Figure

BRIGHT = 43.0
"""Per cent: from here on viridis is so bright that black is read better than white, at 4.5:1 or more."""


@final
@dataclass(frozen=True)
class TransferMatrix:
    """Each part is one shard of the images, attacked on one source: (source, attack, start)."""

    study: TransferStudy

    def models(self, job: Study) -> Mapping[str, str | Train]:
        """The sources and targets that the study names. The prefix keeps apart a source and a target of one label."""
        sources = {f"source:{label}": address for label, address in addresses(self.study.sources).items()}
        return sources | {f"target:{label}": address for label, address in addresses(self.study.targets).items()}

    def parts(self, count: int) -> list[tuple]:
        """Every shard of the images under every attack on every source; attack "" leaves them as they are."""
        study, sources = self.study, list(addresses(self.study.sources))
        cells = [(sources[0], "")] + [(source, attack.name) for source in sources for attack in study.attacks]
        return [(*cell, start) for cell in cells for start in starts(count, study.n, study.shard_size)]

    def part(self, task: StudyTask, which: tuple) -> dict:
        """How many images of the shard, attacked on the source, each target classifies rightly."""
        (source, name, start), study = which, self.study
        x, y, index = task.batch(study.n, study.seed, start, start + study.shard_size)
        if name:
            adversary = Adversary(study.threat, next(attack.pgd for attack in study.attacks if attack.name == name))
            x = adversary.perturb(task.model(f"source:{source}"), x, y, Noise.of(index, study.seed, "transfer", name))
        hits = {
            label: int((predicted(logits_of(task.model(f"target:{label}"), x, len(x))) == y).sum())
            for label in addresses(study.targets)
        }
        return {"images": len(y), "hits": hits}

    def conclude(self, found: dict[tuple, dict], facts: StudyFacts) -> Findings:
        """A row for each attack, source and target."""
        study, same = self.study, facts.fingerprints
        rows = []
        for source, name in dict.fromkeys(key[:2] for key in found):
            shards = [one for key, one in found.items() if key[:2] == (source, name)]
            images = sum(one["images"] for one in shards)
            rows += [
                {
                    "attack": name or "clean", "source": source if name else "", "target": target,
                    "white_box": bool(name) and same[f"source:{source}"] == same[f"target:{target}"],
                    "n": images,
                    "accuracy": sum(one["hits"][target] for one in shards) / images,
                }
                for target in addresses(study.targets)
            ]  # fmt: skip
        papers = facts.source == "mnist" and study.threat.norm == "linf" and abs(study.threat.epsilon - 0.3) < 1e-9
        threat = f"{study.threat.title} {shown_radius(study.threat.epsilon)}"
        about = facts.about(threat, f"{rows[0]['n']} test images")
        chart = Chart("source", ("accuracy",), ("attack", "target"), "accuracy of the target, %")
        return Findings(
            rows, _expectations(study, rows, papers), {"matrices.svg": _matrices(rows, about)}, about, chart
        )


def must_have_black_box(fingerprints: dict[str, str]) -> None:
    """Raises :class:`JobError` if every source is every target, so that nothing is transferred."""
    if len(set(fingerprints.values())) == 1:
        raise JobError("study.sources: source and target are one and the same model; name another model as a source")


def _expectations(study: TransferStudy, rows: list[dict], papers: bool) -> list[Expectation]:
    """That a white-box attack beats every transfer; for MNIST at epsilon 0.3, also the paper's figures."""
    found = []
    for target in addresses(study.targets):
        mine = [row for row in rows if row["target"] == target and row["attack"] != "clean"]
        white = [row["accuracy"] for row in mine if row["white_box"]]
        black = [row for row in mine if not row["white_box"]]
        if not black:
            continue
        worst = min(black, key=lambda row: row["accuracy"])
        found.append(Expectation(
            target=f"{target}: the strongest transfer attack is weaker than the strongest white-box attack (Table 1)",
            achieved=f"transfer {worst['accuracy']:.2%} ({worst['source']}, {worst['attack']}), white box "
            + (f"{min(white):.2%}" if white else "not run: the target is no source"),
            met=min(white) < worst["accuracy"] if white else None,
        ))  # fmt: skip
        if papers and min(row["accuracy"] for row in mine) > 0.5:  # what falls to its own images is no robust model
            found.append(Expectation(
                target="MNIST, epsilon 0.3, of the paper's model A: 95.7 % from A' (PGD-100x20), 95.4 % from B (FGSM)",
                achieved=f"{target}: worst over all sources {worst['accuracy']:.2%}", met=worst["accuracy"] >= 0.954,
            ))  # fmt: skip
    return found


@drawn
def _matrices(rows: Sequence[dict], about: str) -> "Figure":
    """Source against target for each attack: accuracies in per cent; a white-box attack is named in its cell."""
    attacks = [name for name in dict.fromkeys(row["attack"] for row in rows) if name != "clean"]
    sources, targets = (
        list(dict.fromkeys(row[side] for row in rows if row["attack"] == attacks[0])) for side in ("source", "target")
    )
    size = max(2.4, 0.85 * len(targets)) * len(attacks) + 1.8, max(1.6, 0.7 * len(sources)) + 1.9
    made = figure(*size, "Images made on a source, judged by a target", about)
    grid = made.subplots(1, len(attacks), squeeze=False, sharey=True)[0]
    for axes, name in zip(grid, attacks, strict=True):
        values = np.full((len(sources), len(targets)), np.nan)
        for row in rows:
            if row["attack"] == name:
                at = sources.index(row["source"]), targets.index(row["target"])
                values[at] = value = 100 * row["accuracy"]
                text = f"{value:.1f}" + "\nwhite box" * row["white_box"]
                axes.text(*at[::-1], text, ha="center", va="center", fontsize=8,
                          color=ON_BRIGHT if value > BRIGHT else ON_DARK)  # fmt: skip
        cells = axes.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        axes.set(title=name, xlabel="target")
        axes.set_xticks(range(len(targets)), targets, rotation=30, ha="right")
        axes.set_yticks(range(len(sources)), sources)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    grid[0].set_ylabel("source")
    made.colorbar(cells, ax=list(grid), label="accuracy of the target, %")
    return made

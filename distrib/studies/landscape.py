"""The loss landscape: what many random restarts of PGD find around a few images (Madry et al., section 5).

The paper's observation is that the inner maximum, though not concave, is tractable: all restarts of PGD end at
distinct points of much the same loss.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.attack import Adversary, predicted, undisturbed
from distrib.config.job import Study, Train
from distrib.config.study import LandscapeStudy, addresses
from distrib.noise import Noise
from distrib.plots import COLOURS, drawn, figure
from distrib.studies.chart import Chart
from distrib.studies.findings import Expectation, Findings
from distrib.studies.task import StudyFacts, StudyTask
from distrib.values import shown_radius

if TYPE_CHECKING:
    from distrib.plots import Figure

SEGMENTS, ALONG = 20, 11
"""How many pairs of maxima are joined by a segment, and at how many points of each the loss is taken."""
UNLIKE, LEAST = 20, 1e-4
"""Where the largest losses of two panels are so many times apart, the axis is logarithmic, down to this share."""
TITLES = {
    "trajectories": "The loss along the steps of PGD",
    "final": "The losses that the restarts end at",
    "segments": "The loss on segments between two maxima",
}
ACROSS = {"trajectories": "PGD step", "final": "final loss", "segments": "from one maximum to another"}


@final
@dataclass(frozen=True)
class LossLandscape:
    """Each part is one chunk of restarts around one image of one model: (model, example, chunk)."""

    study: LandscapeStudy

    def models(self, job: Study) -> Mapping[str, str | Train]:
        """The models that the study names."""
        return addresses(self.study.models)

    def parts(self, count: int) -> list[tuple]:
        """Every chunk of every example's restarts, for each model, whatever the ``count`` of images."""
        return [
            (label, example, chunk)
            for label in addresses(self.study.models)
            for example in range(self.study.examples)
            for chunk in range(math.ceil(self.study.restarts / self.study.chunk))
        ]

    def part(self, task: StudyTask, which: tuple) -> dict:
        """The losses at the starts and ends of the restarts; of the first chunk, the way there and between the ends."""
        (label, example, chunk), study = which, self.study
        model = task.model(label)
        one = task.batch(study.examples, study.seed, example, example + 1)
        size = min(study.chunk, study.restarts - chunk * study.chunk)
        x, y = one.x.expand(size, -1, -1, -1), one.y.expand(size)
        # noise is drawn by the number of the restart: how the restarts are cut into chunks changes nothing
        places = torch.arange(chunk * study.chunk, chunk * study.chunk + size, device=x.device)
        noise = Noise.of(places, study.seed, "landscape", int(one.index))
        begun = study.threat.sample(x, noise)
        ended, losses = climb(model, study.adversary, x, y, begun)
        with undisturbed(model, "eval"), torch.no_grad():
            logits = torch.cat([model(one.x), model(ended)])
        found = {
            "label": int(one.y),
            "index": int(one.index),
            "clean_loss": F.cross_entropy(logits[:1], one.y).item(),
            "start": losses[0].tolist(),
            "final": losses[-1].tolist(),
            "fooled": int((predicted(logits[1:]) != y).sum()),
        }
        if chunk == 0:
            found["trajectories"] = losses[:, : study.trajectories].T.tolist()
            found |= _between(model, x[0], ended[: study.maxima], begun[: study.maxima], int(one.y))
        return found

    def conclude(self, found: dict[tuple, dict], facts: StudyFacts) -> Findings:
        """A row for each image and model."""
        rows, curves, labels = [], {}, list(addresses(self.study.models))
        for label in labels:
            for example in range(self.study.examples):
                chunks = [one for key, one in found.items() if key[:2] == (label, example)]
                final, start = _losses(chunks, "final"), _losses(chunks, "start")
                curve = {name: torch.tensor(chunks[0][name]) for name in ("trajectories", "segments")}
                curves[label, example] = {"final": final, "label": chunks[0]["label"], **curve}
                rows.append({
                    "model": label, "example": example, "index": chunks[0]["index"], "label": chunks[0]["label"],
                    "restarts": len(final), "clean_loss": chunks[0]["clean_loss"], "start_loss": start.mean().item(),
                    "final_min": final.min().item(), "final_median": final.median().item(),
                    "final_max": final.max().item(), "final_std": final.std().item(),
                    "fooled": sum(chunk["fooled"] for chunk in chunks) / len(final),
                    **_between_maxima(chunks[0]), "last_tenth": _last_tenth(curve["trajectories"]),
                })  # fmt: skip
        threat = f"{self.study.threat.title} {shown_radius(self.study.threat.epsilon)}"
        tried = f"{self.study.examples} test images, {self.study.restarts} restarts of {self.study.attack.name} each"
        about = facts.about(threat, tried)
        files = {"trajectories": "trajectories.svg", "final": "final_losses.svg", "segments": "segments.svg"}
        plots = {file: _grid(curves, labels, what, about) for what, file in files.items()}
        chart = Chart("example", ("start_loss", "final_min", "final_median", "final_max"), ("model",), "loss")
        return Findings(rows, _expectations(rows, labels), plots, about, chart)


def _losses(chunks: list[dict], name: str) -> Tensor:
    """The losses of all restarts, in double precision."""
    return torch.tensor([loss for chunk in chunks for loss in chunk[name]], dtype=torch.double)


def _between_maxima(chunk: dict) -> dict[str, float]:
    """Mean distance and angle, and the mean loss at the ends and in the middle of the segments."""
    lines = torch.tensor(chunk["segments"])
    means = {
        name: chunk[of]
        for name, of in (("distance", "distances"), ("random_distance", "random_distances"), ("angle", "angles"))
    }
    return {
        **{name: torch.tensor(values).mean().item() for name, values in means.items()},
        "segment_ends": lines[:, [0, -1]].mean().item(),
        "segment_middle": lines[:, ALONG // 2].mean().item(),
    }


def _last_tenth(trajectories: Tensor) -> float:
    """The share of the final loss by which it still changes in the last tenth of the steps."""
    tenth = max(1, (trajectories.shape[1] - 1) // 10)
    return (1 - trajectories[:, -1 - tenth] / trajectories[:, -1]).abs().nan_to_num(0).mean().item()


def climb(model: nn.Module, adversary: Adversary, x: Tensor, y: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """(the end points, the loss before each step and after the last, ``[num_steps + 1, B]``) of PGD from ``x_adv``."""

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")

    ended, losses = adversary.climb(model, x, x_adv, loss)
    with undisturbed(model, "eval"), torch.no_grad():
        losses.append(loss(model(ended)))
    return ended, torch.stack(losses)


@torch.no_grad()
def _between(model: nn.Module, x: Tensor, ended: Tensor, begun: Tensor, label: int) -> dict:
    """Distances between the end points, the angles they make at the image, and the loss on segments between them."""
    delta, other = (ended - x).flatten(1).double(), (begun - x).flatten(1).double()
    pairs = torch.triu_indices(len(delta), len(delta), 1)
    direction = F.normalize(delta, dim=1)
    angles = (direction @ direction.T).clamp(-1, 1).arccos().rad2deg()[pairs[0], pairs[1]]
    share = torch.linspace(0, 1, ALONG, device=x.device)[:, None, None, None]
    lines = []
    with undisturbed(model, "eval"):
        for i in range(min(SEGMENTS, len(ended) // 2)):
            points = ended[2 * i] * (1 - share) + ended[2 * i + 1] * share
            y = torch.full((len(points),), label, device=points.device)
            lines.append(F.cross_entropy(model(points), y, reduction="none"))
    return {
        "distances": torch.pdist(delta).tolist(),
        "random_distances": torch.pdist(other).tolist(),
        "angles": angles.tolist(),
        "segments": torch.stack(lines).tolist(),
    }


def _expectations(rows: list[dict], labels: list[str]) -> list[Expectation]:
    """The paper's statements on its adversarially trained networks, put to every model of the study.

    Where the loss does not rise, no maxima were found: the statements on maxima can then not be told.
    """
    found = []
    for label in labels:
        mine = [row for row in rows if row["model"] == label]
        flat = sum(row["last_tenth"] < 0.05 for row in mine)
        rising = sum(row["final_median"] > row["start_loss"] for row in mine)
        climbed = rising == len(mine)
        found.append(Expectation(
            target=f"{label}: the loss rises and plateaus within the steps (Fig. 1)",
            achieved=f"rises in {rising}, and changes by less than 5 % in the last tenth of the steps in {flat} of "
            f"{len(mine)} examples",
            met=climbed and flat == len(mine),
        ))  # fmt: skip
        worst = max(_share(row["final_max"] - row["final_median"], row["final_median"]) for row in mine)
        deviation = max(_share(row["final_std"], row["final_median"]) for row in mine)
        found.append(Expectation(
            target=f"{label}: final losses are concentrated, without outliers (Fig. 2)",
            achieved=f"the largest is {worst:.0%} above the median, standard deviation {deviation:.0%} of it, at worst",
            met=worst < 1.0 if climbed else None,
        ))  # fmt: skip
        share = min(_share(row["distance"], row["random_distance"]) for row in mine)
        found.append(Expectation(
            target=f"{label}: the maxima are distinct points, as far apart as random ones (appendix)",
            achieved=f"mean distance at least {share:.2f} of that between random points of the ball",
            met=share > 0.5 if climbed else None,
        ))  # fmt: skip
        angle = min(row["angle"] for row in mine)
        found.append(Expectation(
            target=f"{label}: seen from the image, they lie at right angles (appendix)",
            achieved=f"mean angle at least {angle:.0f} degrees", met=angle > 60 if climbed else None,
        ))  # fmt: skip
        middles = [_share(row["segment_middle"], row["segment_ends"]) for row in mine]
        sagging = sum(middle <= 1 for middle in middles)
        above = sum(row["segment_middle"] > row["start_loss"] for row in mine)
        found.append(Expectation(
            target=f"{label}: between two maxima the loss sags, but stays above that of random points (appendix)",
            achieved=f"middle {min(middles):.2f} to {max(middles):.2f} of the ends, not above them in {sagging} and "
            f"above random points in {above} of {len(mine)} examples",
            met=above == sagging == len(mine) if climbed else None,
        ))  # fmt: skip
    if {"natural", "robust"} <= set(labels):
        low, high = (
            torch.tensor([row["final_median"] for row in rows if row["model"] == label]).median().item()
            for label in ("robust", "natural")
        )
        found.append(Expectation(
            target="the robust model's maximal losses are far below the natural model's (Fig. 1)",
            achieved=f"median over examples {low:.3g} against {high:.3g}", met=low < high / 5,
        ))  # fmt: skip
    return found


def _share(part: float, whole: float) -> float:
    """``part / whole`` of losses; ``whole`` is 0 where the model is surer than float32 can tell."""
    return part / whole if whole else 0.0 if not part else math.inf


@drawn
def _grid(curves: dict[tuple[str, int], dict], labels: list[str], what: str, about: str) -> "Figure":
    """A row for each model, a column for each example: loss by step, histograms of final losses, or segments.

    All panels share their axes, so that models are compared by eye.
    """
    examples = max(example for _, example in curves) + 1
    made = figure(max(7, 1.9 * examples + 0.8), 1.9 * len(labels) + 1.3, TITLES[what], about)
    grid = made.subplots(len(labels), examples, squeeze=False, sharex=True, sharey=True)
    low, high, scale = _range_of([found[what].numpy() for found in curves.values()])
    for (label, example), found in curves.items():
        row = labels.index(label)
        axes, values, colour = grid[row][example], found[what].numpy(), COLOURS[row % len(COLOURS)]
        if what == "final":
            bins = np.geomspace(low, high, 61) if scale == "log" else np.linspace(low, high, 61)
            axes.hist(values.clip(low, high), bins=bins, color=colour)
            axes.set_xscale(scale)
        else:
            span = np.linspace(0, 1, values.shape[1]) if what == "segments" else np.arange(values.shape[1])
            axes.plot(span, values.T.clip(low), linewidth=0.7, color=colour, alpha=0.6)
            axes.set(yscale=scale, ylim=(low, 1.05 * high))
        axes.set_title(f"example {example + 1}: a {found['label']}" if not row else f"a {found['label']}", fontsize=7)
        axes.tick_params(labelsize=7)
        if what != "final" or scale == "linear":
            axes.locator_params(axis="x", nbins=4)
        if not example:
            axes.set_ylabel(label)
    made.supxlabel(ACROSS[what] + (", log" if what == "final" and scale == "log" else ""), fontsize=9)
    made.supylabel("restarts" if what == "final" else "loss, log" if scale == "log" else "loss", fontsize=9)
    return made


def _range_of(panels: list[np.ndarray]) -> tuple[float, float, str]:
    """The lowest and the highest loss of an axis that all panels share, and its scale."""
    peaks = [float(panel.max()) for panel in panels]
    high = max(peaks)
    if not high > 0:
        return 0.0, 1.0, "linear"
    if min(peaks) * UNLIKE > high:
        return 0.0, high, "linear"
    return max(min(float(panel.min()) for panel in panels), LEAST * high), high, "log"

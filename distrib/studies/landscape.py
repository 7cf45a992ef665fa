"""The loss landscape: what many random restarts of PGD find around a few images (Madry et al., section 5).

The paper's observation is that the inner maximum, though not concave, is tractable: all restarts of PGD end at
distinct points of much the same loss.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.attack import GRADIENT_SCALE, PGD, input_gradient, predicted, undisturbed
from distrib.config.study import LandscapeStudy, addresses
from distrib.noise import Noise
from distrib.plots import figure, png
from distrib.precision import exact_float32
from distrib.studies.findings import Expectation, Findings
from distrib.studies.task import StudyTask

SEGMENTS, ALONG = 20, 11
"""Pairs of maxima that are joined, and the points on each segment."""


def parts(study: LandscapeStudy) -> list[tuple]:
    """(model, example, chunk) of each task."""
    chunks = range(math.ceil(study.restarts / study.chunk))
    return [
        (label, example, chunk)
        for label in addresses(study.models)
        for example in range(study.examples)
        for chunk in chunks
    ]


@exact_float32()
def part(task: StudyTask, label: str, example: int, chunk: int) -> dict:
    """One chunk of restarts around one image."""
    study = task.study
    assert isinstance(study, LandscapeStudy)
    model = task.model(label)
    one = task.batch(study.examples, study.seed, example, example + 1)
    size = min(study.chunk, study.restarts - chunk * study.chunk)
    x, y = one.x.expand(size, -1, -1, -1), one.y.expand(size)
    places = torch.arange(chunk * study.chunk, chunk * study.chunk + size, device=x.device)
    noise = Noise.of(places, study.seed, "landscape", int(one.index))
    begun = study.attack.threat.sample(x, noise)
    ended, losses = climb(model, study.attack, x, y, begun)
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


def climb(model: nn.Module, attack: PGD, x: Tensor, y: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """(the end points, the loss before each step and after the last, ``[num_steps + 1, B]``) of PGD from ``x_adv``."""
    losses = []
    with undisturbed(model, "eval"), torch.enable_grad():
        for i in range(attack.num_steps):
            x_adv = x_adv.detach().requires_grad_()
            loss = F.cross_entropy(model(x_adv), y, reduction="none")
            losses.append(loss.detach())
            gradient = input_gradient(loss.sum() * GRADIENT_SCALE, x_adv)
            with torch.no_grad():
                x_adv = attack.threat.project(x, x_adv + attack.step(i) * attack.threat.ascent(gradient))
        with torch.no_grad():
            losses.append(F.cross_entropy(model(x_adv), y, reduction="none"))
    return x_adv.detach(), torch.stack(losses)


@torch.no_grad()
def _between(model: nn.Module, x: Tensor, ended: Tensor, begun: Tensor, label: int) -> dict:
    """How far apart the maxima lie, at what angle seen from the image, and the loss on the way between them."""
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


def conclude(study: LandscapeStudy, found: dict[tuple, dict]) -> Findings:
    """What all parts together show."""
    rows, curves, labels = [], {}, list(addresses(study.models))
    for label in labels:
        for example in range(study.examples):
            chunks = [found[key] for key in parts(study) if key[:2] == (label, example)]
            final = torch.tensor([loss for chunk in chunks for loss in chunk["final"]], dtype=torch.double)
            start = torch.tensor([loss for chunk in chunks for loss in chunk["start"]], dtype=torch.double)
            first = chunks[0]
            paths, lines = torch.tensor(first["trajectories"]), torch.tensor(first["segments"])
            before = paths[:, -1 - max(1, study.num_steps // 10)]
            distances, apart = torch.tensor(first["distances"]), torch.tensor(first["random_distances"])
            curves[label, example] = {"trajectories": paths, "final": final, "segments": lines, "label": first["label"]}
            rows.append({
                "model": label, "example": example, "index": first["index"], "label": first["label"],
                "restarts": len(final), "clean_loss": first["clean_loss"], "start_loss": start.mean().item(),
                "final_min": final.min().item(), "final_median": final.median().item(),
                "final_max": final.max().item(), "final_std": final.std().item(),
                "fooled": sum(chunk["fooled"] for chunk in chunks) / len(final),
                "distance": distances.mean().item(), "random_distance": apart.mean().item(),
                "angle": torch.tensor(first["angles"]).mean().item(),
                "segment_ends": lines[:, [0, -1]].mean().item(), "segment_middle": lines[:, ALONG // 2].mean().item(),
                "last_tenth": (1 - before / paths[:, -1]).abs().nan_to_num(0).mean().item(),
            })  # fmt: skip
    plots = {
        "trajectories.png": _grid(curves, labels, "trajectories"),
        "final_losses.png": _grid(curves, labels, "final"),
        "segments.png": _grid(curves, labels, "segments"),
    }
    return Findings(rows, _expectations(rows, labels), plots)


def _expectations(rows: list[dict], labels: list[str]) -> list[Expectation]:
    """What the paper says of its adversarially trained networks, asked of every model here.

    Where the loss does not rise, no maxima were found, and what is said of them is neither met nor missed.
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
    """Of a loss that may be 0, where float32 sees no doubt at all."""
    return part / whole if whole else 0.0 if not part else math.inf


def _grid(curves: dict[tuple[str, int], dict], labels: list[str], what: str) -> bytes:
    """A row for each model, a column for each example: loss by step, histograms of final losses, or segments."""
    examples = max(example for _, example in curves) + 1
    drawn = figure(2.6 * examples, 2.3 * len(labels))
    grid = drawn.subplots(len(labels), examples, squeeze=False)
    for (label, example), found in curves.items():
        axes = grid[labels.index(label)][example]
        if what == "final":
            axes.hist(found["final"].numpy(), bins=40)
        else:
            values = found[what].numpy()
            span = np.linspace(0, 1, values.shape[1]) if what == "segments" else np.arange(values.shape[1])
            axes.plot(span, values.T, linewidth=0.6)
            axes.set_ylim(bottom=0)
        axes.set_title(f"{label}: a {found['label']}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=4)
    across = {"final": "final loss", "segments": "from one maximum to another", "trajectories": "PGD step"}[what]
    drawn.supxlabel(across, fontsize=9)
    drawn.supylabel("restarts" if what == "final" else "loss", fontsize=9)
    return png(drawn)

"""The README's picture: how a run trained, and what stood of it under attack on the test images.

    python benchmarks/picture.py runs/digits docs/digits.svg

On the left the validation accuracies of every epoch, of both models; on the right the figures of the robustness card.
The run must be complete, and have trained the natural model as well (``compare_natural``).
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from distrib import checkpoints

COLOURS = {"robust": "#1f6f8b", "natural": "#d1603d"}


def draw(run: Path) -> Figure:
    """The figure of a complete run."""
    result = json.loads((run / "result.json").read_text())
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    for phase, colour in COLOURS.items():
        history = checkpoints.history(run / phase, print)
        for name, style in (("clean", "--"), ("robust", "-")):
            values = [100 * epoch[f"validation_{name}_accuracy"] for epoch in history]
            label = f"{phase} model, {'as they are' if name == 'clean' else 'under PGD'}"
            curves.plot(range(1, len(values) + 1), values, style, color=colour, label=label)
    curves.set(title="held-out images, epoch by epoch", xlabel="epoch", ylabel="classified rightly, %", ylim=(0, 103))
    curves.legend(fontsize=7, loc="center right", bbox_to_anchor=(1, 0.31))
    claims = {"robust": result, "natural": result["natural"]}
    names = ["clean", *result["attacks"], "worst case"]
    for place, (phase, claim) in zip((-0.2, 0.2), claims.items(), strict=True):
        shares = [claim["clean_accuracy"], *claim["attacks"].values(), claim["robust_accuracy"]]
        drawn = bars.bar(np.arange(len(names)) + place, [100 * share for share in shares], 0.38, color=COLOURS[phase])
        bars.bar_label(drawn, [f"{100 * share:.1f}" for share in shares], fontsize=7)
        drawn.set_label(f"{phase} model")
    title = f"{result['n']} test images, {result['norm']} epsilon {result['epsilon']:g}"
    bars.set(title=title, xticks=range(len(names)), ylim=(0, 108))
    bars.set_xticklabels(names, fontsize=8)
    bars.legend(fontsize=7, loc="upper right", bbox_to_anchor=(1, 0.95))
    for axes in (curves, bars):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    return figure


def main() -> None:
    """Draws the picture; the same run gives the same bytes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path, help="the folder of the run")
    options.add_argument("picture", type=Path, help="the file to write: .svg or .png")
    given = options.parse_args()
    svg = given.picture.suffix == ".svg"
    with matplotlib.rc_context({"svg.hashsalt": "distrib"}):
        draw(given.run).savefig(given.picture, dpi=110, metadata={"Date": None} if svg else None, facecolor="white")


if __name__ == "__main__":
    main()

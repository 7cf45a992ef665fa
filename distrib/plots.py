"""Everything that is drawn, as PNG."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def training_curves(histories: dict[str, list[dict]], path: Path) -> None:
    """Draws loss, accuracies and learning rate over the epochs of each phase to ``path``."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    for phase, history in histories.items():
        epochs = range(1, len(history) + 1)
        style = "-" if phase == "robust" else "--"
        loss.plot(epochs, [entry["train_loss"] for entry in history], style, label=phase)
        for name in ("clean", "robust"):
            values = [100 * entry[f"validation_{name}_accuracy"] for entry in history]
            accuracy.plot(epochs, values, style, label=f"{phase} model, {name}")
        rate.plot(epochs, [entry["learning_rate"] for entry in history], style, label=phase)
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    accuracy.set(title="validation accuracy", xlabel="epoch", ylabel="%", ylim=(0, 100))
    rate.set(title="learning rate", xlabel="epoch")
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def plot_epsilon_curve(curve: Sequence[tuple[float, float, int]], epsilon: float, num_classes: int) -> bytes:
    """Accuracy against epsilon, with chance and the evaluated epsilon marked, as PNG."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([point[0] for point in curve], [100 * point[1] for point in curve], "o-")
    axes.axhline(100 / num_classes, color="grey", linestyle=":", label="chance")
    axes.axvline(epsilon, color="tab:red", linestyle="--", label="evaluated epsilon")
    axes.set(xlabel="epsilon", ylabel="accuracy under PGD-40, %", ylim=(-3, 103), xscale="log")
    return _png(axes, figure)


def restart_curves(curves: dict[str, tuple[float, ...]]) -> bytes:
    """The share of images that each attack had broken after each of its starts, as PNG."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, shares in curves.items():
        axes.plot(range(1, len(shares) + 1), [100 * share for share in shares], "o-", markersize=3, label=name)
    axes.set(xlabel="starts", ylabel="images broken, %", ylim=(0, 110 * max(map(max, curves.values())) + 1))
    return _png(axes, figure)


def plot_images(shown: Sequence[tuple]) -> bytes:
    """Pairs of an image and its worst one (arrays ``[H, W, C]`` in [0, 1]) with a caption each, as PNG."""
    figure = Figure(figsize=(1.4 * len(shown), 3.2), layout="constrained")
    for column, (image, worst, caption) in enumerate(shown):
        for row, picture in enumerate((image, worst)):
            axes = figure.add_subplot(2, len(shown), row * len(shown) + column + 1)
            grey = picture.shape[2] == 1
            axes.imshow(picture[:, :, 0] if grey else picture, cmap="gray" if grey else None, vmin=0, vmax=1)
            axes.set_axis_off()
            if row:
                axes.set_title("\n".join(line[:18] for line in caption.splitlines()), fontsize=8)
    return saved(figure)


def _png(axes, figure: Figure) -> bytes:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return saved(figure)


def saved(figure: Figure) -> bytes:
    """The figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    return file.getvalue()


def landscape_grid(curves: dict[tuple[str, int], dict], labels: Iterable[str], what: str) -> bytes:
    """A row for each model, a column for each example: loss by step, histograms of final losses, or segments."""
    labels, examples = list(labels), max(example for _, example in curves) + 1
    figure = Figure(figsize=(2.6 * examples, 2.3 * len(labels)), layout="constrained")
    grid = figure.subplots(len(labels), examples, squeeze=False)
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
    figure.supxlabel(across, fontsize=9)
    figure.supylabel("restarts" if what == "final" else "loss", fontsize=9)
    return saved(figure)


def accuracy_curves(rows: Sequence[dict], norm: str, chance: float) -> bytes:
    """Accuracy under PGD and under Square against epsilon, for each model, as PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, label in enumerate(dict.fromkeys(row["model"] for row in rows)):
        mine = sorted((row for row in rows if row["model"] == label), key=lambda row: row["epsilon"])
        for name, style in (("pgd", "-"), ("square", "--"), ("worst", ":")):
            epsilons = [row["epsilon"] for row in mine]
            axes.plot(epsilons, [100 * row[name] for row in mine], style, color=f"C{i}", label=f"{label}, {name}")
    axes.axhline(100 * chance, color="grey", linewidth=0.8, label="chance")
    axes.set(xlabel=f"{norm} epsilon", ylabel="accuracy, %", ylim=(-3, 103))
    return _png(axes, figure)


def matrices(rows: Sequence[dict]) -> bytes:
    """Source against target for each attack: accuracies in per cent, as PNG."""
    attacks = [name for name in dict.fromkeys(row["attack"] for row in rows) if name != "clean"]
    figure = Figure(figsize=(4.2 * len(attacks), 4), layout="constrained")
    grid = figure.subplots(1, len(attacks), squeeze=False)[0]
    for axes, name in zip(grid, attacks, strict=True):
        mine = [row for row in rows if row["attack"] == name]
        sources, targets = (list(dict.fromkeys(row[side] for row in mine)) for side in ("source", "target"))
        values = np.full((len(sources), len(targets)), np.nan)
        for row in mine:
            values[sources.index(row["source"]), targets.index(row["target"])] = 100 * row["accuracy"]
        axes.imshow(values, vmin=0, vmax=100, cmap="viridis")
        for (i, j), value in np.ndenumerate(values):
            axes.text(
                j, i, f"{value:.1f}", ha="center", va="center", color="black" if value > 60 else "white", fontsize=9
            )
        axes.set(title=name, xlabel="target", xticks=range(len(targets)), yticks=range(len(sources)))
        axes.set_xticklabels(targets, rotation=30, ha="right")
        axes.set_yticklabels(sources)
    grid[0].set_ylabel("source")
    return saved(figure)


def capacity_curves(rows: Sequence[dict]) -> bytes:
    """For each method of training, accuracies against width; and the training loss against width, as PNG."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(4.2 * (len(methods) + 1), 3.6), layout="constrained")
    *grid, last = figure.subplots(1, len(methods) + 1)
    for axes, method in zip(grid, methods, strict=True):
        mine = sorted((row for row in rows if row["method"] == method), key=lambda row: row["width"])
        widths = [row["width"] for row in mine]
        for name in ("clean", "fgsm", "pgd"):
            axes.plot(widths, [100 * row[name] for row in mine], "o-", label=name)
        fallen = [row for row in mine if row["collapsed"]]
        axes.plot(
            [row["width"] for row in fallen], [100 * row["clean"] for row in fallen], "rx", ms=12, label="collapsed"
        )
        axes.set(title=f"trained: {method}", xlabel="width", ylabel="accuracy, %", ylim=(-3, 103), xscale="log")
        last.plot(widths, [row["train_loss"] for row in mine], "o-", label=method)
    last.set(title="training loss", xlabel="width", xscale="log", yscale="log")
    for axes in (*grid, last):
        axes.set_xticks(
            sorted({row["width"] for row in rows}), [f"{w:g}" for w in sorted({row["width"] for row in rows})]
        )
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return saved(figure)

"""Everything that is drawn, as PNG."""

import io
from collections.abc import Sequence
from pathlib import Path

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


def epsilon_curve(curve: Sequence[tuple[float, float, int]], epsilon: float, num_classes: int) -> bytes:
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


def images(shown: Sequence[tuple]) -> bytes:
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
    return _saved(figure)


def _png(axes, figure: Figure) -> bytes:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _saved(figure)


def _saved(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    return file.getvalue()

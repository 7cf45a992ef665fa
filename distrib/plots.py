"""Training curves as a PNG."""

from pathlib import Path


def training_curves(histories: dict[str, list[dict]], path: Path) -> None:
    """Draws loss, accuracies and learning rate over the epochs of each phase to ``path``."""
    from matplotlib.figure import Figure

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

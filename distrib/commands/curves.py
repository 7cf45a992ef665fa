"""The curves of a training, as PNG."""

from distrib.plots import figure, grid_and_legend, png


def training_curves(histories: dict[str, list[dict]]) -> bytes:
    """Loss, accuracies and learning rate over the epochs of each phase."""
    drawn = figure(12, 4)
    loss, accuracy, rate = drawn.subplots(1, 3)
    for phase, history in histories.items():
        epochs = range(1, len(history) + 1)
        style = "-" if phase == "robust" else "--"
        loss.plot(epochs, [entry["train_loss"] for entry in history], style, label=phase)
        for name in ("clean", "robust"):
            field = f"validation_{name}_accuracy"
            found = {epoch: 100 * entry[field] for epoch, entry in enumerate(history, 1) if field in entry}
            point = "None" if len(found) == len(history) else "."
            accuracy.plot(found.keys(), found.values(), style, marker=point, label=f"{phase} model, {name}")
        rate.plot(epochs, [entry["learning_rate"] for entry in history], style, label=phase)
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    accuracy.set(title="validation accuracy", xlabel="epoch", ylabel="%", ylim=(0, 100))
    rate.set(title="learning rate", xlabel="epoch")
    grid_and_legend(loss, accuracy, rate)
    return png(drawn)

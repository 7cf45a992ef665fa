"""The curves of a training."""

from typing import TYPE_CHECKING

from distrib.plots import COLOURS, MARKS, QUIET, drawn, figure, whole_numbers

if TYPE_CHECKING:
    from distrib.plots import Figure


@drawn
def training_curves(histories: dict[str, list[dict]], registered: int, about: str, attack: str) -> "Figure":
    """Loss, accuracies and learning rate over the epochs of each phase, and the epoch that was registered.

    The validation's robust accuracy is that under ``attack``.
    """
    made = figure(8.3, 3.9, "Training", about)  # as wide as a run's description in MLflow
    loss, accuracy, rate = made.subplots(1, 3, width_ratios=(3, 4, 2.6))
    for phase, history in histories.items():
        epochs = range(1, len(history) + 1)
        style = "-" if phase == "robust" else "--"
        for axes, field in ((loss, "train_loss"), (rate, "learning_rate")):
            colour = COLOURS[2 if phase == "robust" else 3]
            axes.plot(epochs, [entry[field] for entry in history], style, color=colour, label=f"{phase} model")
        for place, name in enumerate(("clean", "robust")):
            field = f"validation_{name}_accuracy"
            found = {epoch: 100 * entry[field] for epoch, entry in enumerate(history, 1) if field in entry}
            mark = MARKS[place] if len(found) <= 40 else "None"
            label = f"{phase} model, {name if name == 'clean' else f'under {attack}'}"
            accuracy.plot(found.keys(), found.values(), style, marker=mark, color=COLOURS[place], label=label)
    for axes in (loss, accuracy, rate):
        axes.axvline(registered, color=QUIET, linestyle=":", linewidth=1, label=f"registered: epoch {registered}")
        whole_numbers(axes)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    accuracy.set(title="validation accuracy, %", xlabel="epoch", ylim=(-3, 103))
    rate.set(title="learning rate", xlabel="epoch")
    return made

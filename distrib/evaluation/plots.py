"""The plots of a robustness card."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from distrib.evaluation.by_class import ClassFigures
from distrib.plots import COLOURS, MARKS, ON_BRIGHT, ON_DARK, QUIET, drawn, figure, plain, whole_numbers
from distrib.values import shown_radius

if TYPE_CHECKING:
    from distrib.plots import Figure

WIDTH = 5.4
"""Inches: on a phone the letters are still read."""


class Shown(NamedTuple):
    """A test image and the worst one that was found for it: arrays ``[H, W, C]`` in [0, 1]."""

    image: np.ndarray
    worst: np.ndarray
    label: str
    """The true class."""
    taken_for: str
    """The class of the worst image."""
    attack: str
    """What found it."""


@drawn
def plot_epsilon_curve(
    curve: Sequence[tuple[float, float, int]], epsilon: float, num_classes: int, about: str
) -> "Figure":
    """Accuracy against epsilon, with chance and the evaluated epsilon marked."""
    made = figure(WIDTH, 3.4, "Accuracy as epsilon grows, PGD-40 on the margin", about)
    axes = made.subplots()
    axes.plot([point[0] for point in curve], [100 * point[1] for point in curve], "o-", label="accuracy")
    axes.axhline(100 / num_classes, color=QUIET, linestyle=":", label="chance")
    axes.axvline(epsilon, color=COLOURS[1], linestyle="--", label="evaluated epsilon")
    axes.set(xlabel="epsilon", ylabel="accuracy, %", ylim=(-3, 103), xscale="log")
    axes.set_xticks([point[0] for point in curve], [shown_radius(point[0]) for point in curve])
    axes.minorticks_off()
    made.legend(loc="outside lower center", ncols=3)
    return made


@drawn
def plot_restarts(curves: dict[str, tuple[float, ...]], about: str) -> "Figure":
    """The share of images that each attack had broken after each of its starts."""
    made = figure(WIDTH, 3.4, "Images broken after each random start", about)
    axes = made.subplots()
    for i, (name, shares) in enumerate(curves.items()):
        mark = MARKS[i % len(MARKS)]
        axes.plot(range(1, len(shares) + 1), [100 * share for share in shares], marker=mark, label=plain(name))
    axes.set(xlabel="starts", ylabel="images broken, %", ylim=(0, 110 * max(map(max, curves.values())) + 1))
    whole_numbers(axes)
    made.legend(loc="outside lower center", ncols=3)
    return made


@drawn
def plot_confusion(classes: Sequence[ClassFigures], about: str) -> "Figure":
    """What the images of each class are taken for under attack: per cent of each row, the true class."""
    names = [one.name for one in classes]
    names += sorted({name for one in classes for name, _ in one.taken_for} - set(names))
    shares = np.zeros((len(classes), len(names)))
    for row, one in enumerate(classes):
        shares[row, row] = one.robust / one.n
        for name, count in one.taken_for:
            shares[row, names.index(name)] = count / one.n
    made = figure(WIDTH, 1.6 + 0.34 * len(classes), "Taken for, under attack", about)
    axes = made.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(shares >= 0.005):
        dark = shares[row, column] > 0.5
        axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=7,
                  color=ON_DARK if dark else ON_BRIGHT)  # fmt: skip
    axes.set_xticks(range(len(names)), [plain(name[:14]) for name in names], rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), [plain(one.name[:20]) for one in classes])
    axes.set(xlabel="class of the worst image", ylabel="true class")
    axes.grid(False)
    return made


@drawn
def plot_images(shown: Sequence[Shown], about: str) -> "Figure":
    """Each image above its worst one, and what was added to it: the largest change is black or white."""
    made = figure(WIDTH, 1.1 + 3.0 * WIDTH / max(len(shown), 4), "Test images, and the worst found for each", about)
    panels = made.subplots(3, len(shown), squeeze=False)
    for column, one in enumerate(shown):
        change = one.worst - one.image
        enlarged = 0.5 + 0.5 * change / max(float(np.abs(change).max()), 1e-9)
        for axes, picture in zip(panels[:, column], (one.image, one.worst, enlarged), strict=True):
            grey = picture.shape[2] == 1
            axes.imshow(
                picture[:, :, 0] if grey else picture,
                cmap="gray" if grey else None,
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )  # else the mean of a sign pattern, which is grey
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set_visible(False)
        fooled = one.taken_for != one.label
        panels[0, column].set_title(plain(one.label[:11]), fontsize=7)
        panels[1, column].set_title(
            plain(one.taken_for[:11]) if fooled else "stood", fontsize=7, color=COLOURS[1] if fooled else COLOURS[2]
        )
        panels[2, column].set_xlabel(one.attack[:13], fontsize=6)
    for row, name in enumerate(("true class", "under attack", "change,\nenlarged")):
        panels[row, 0].set_ylabel(name, fontsize=7)
    return made

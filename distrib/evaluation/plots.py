"""The plots of a robustness card, as PNG."""

from collections.abc import Sequence

from distrib.plots import figure, grid_and_legend, png


def plot_epsilon_curve(curve: Sequence[tuple[float, float, int]], epsilon: float, num_classes: int) -> bytes:
    """Accuracy against epsilon, with chance and the evaluated epsilon marked."""
    drawn = figure(7, 3.5)
    axes = drawn.subplots()
    axes.plot([point[0] for point in curve], [100 * point[1] for point in curve], "o-")
    axes.axhline(100 / num_classes, color="grey", linestyle=":", label="chance")
    axes.axvline(epsilon, color="tab:red", linestyle="--", label="evaluated epsilon")
    axes.set(xlabel="epsilon", ylabel="accuracy under PGD-40, %", ylim=(-3, 103), xscale="log")
    grid_and_legend(axes)
    return png(drawn)


def plot_restarts(curves: dict[str, tuple[float, ...]]) -> bytes:
    """The share of images that each attack had broken after each of its starts."""
    drawn = figure(7, 3.5)
    axes = drawn.subplots()
    for name, shares in curves.items():
        axes.plot(range(1, len(shares) + 1), [100 * share for share in shares], "o-", markersize=3, label=name)
    axes.set(xlabel="starts", ylabel="images broken, %", ylim=(0, 110 * max(map(max, curves.values())) + 1))
    grid_and_legend(axes)
    return png(drawn)


def plot_images(shown: Sequence[tuple]) -> bytes:
    """Pairs of an image and its worst one (arrays ``[H, W, C]`` in [0, 1]), with a caption each."""
    drawn = figure(1.4 * len(shown), 3.2)
    for column, (image, worst, caption) in enumerate(shown):
        for row, picture in enumerate((image, worst)):
            axes = drawn.add_subplot(2, len(shown), row * len(shown) + column + 1)
            grey = picture.shape[2] == 1
            axes.imshow(picture[:, :, 0] if grey else picture, cmap="gray" if grey else None, vmin=0, vmax=1)
            axes.set_axis_off()
            if row:
                axes.set_title("\n".join(line[:18] for line in caption.splitlines()), fontsize=8)
    return png(drawn)

"""Published figures of well-known threats, for a card to stand among: AutoAttack's, each on the whole test set.

Where the source lists a lower one, by another attack, it is that.

The sources are the model_info files of RobustBench (commit 78fcc9e) and the README of AutoAttack's authors
(fra31/auto-attack), as they stood in November 2026.
"""

from typing import NamedTuple

from distrib.threat import Norm

ROBUSTBENCH, AUTOATTACK = "RobustBench", "auto-attack README"


class Published(NamedTuple):
    """A model that others published; accuracies in per cent."""

    name: str
    clean: float
    robust: float
    source: str


FIGURES: dict[tuple[str, Norm, float], tuple[Published, ...]] = {
    ("mnist", "linf", 0.3): (
        Published("Gowal et al. 2020", 99.26, 96.34, AUTOATTACK),
        Published("Zhang et al. 2019 (TRADES)", 99.48, 92.81, AUTOATTACK),
        Published("Madry et al. 2017", 98.53, 88.50, AUTOATTACK),
        Published("Wong et al. 2020 (fast)", 98.50, 82.93, AUTOATTACK),
    ),
    ("cifar10", "linf", 8 / 255): (
        Published("Bartoldson et al. 2024, WRN-94-16, synthetic images", 93.68, 73.71, ROBUSTBENCH),
        Published("Wang et al. 2023, WRN-28-10, synthetic images", 92.44, 67.31, ROBUSTBENCH),
        Published("Chen et al. 2024, WRN-34-20", 86.10, 58.09, ROBUSTBENCH),
        Published("Addepalli et al. 2022, ResNet-18", 85.71, 52.48, ROBUSTBENCH),
        Published("Madry et al. 2017, WRN-34-10", 87.14, 44.04, ROBUSTBENCH),
        Published("Wong et al. 2020 (fast), PreActResNet-18", 83.34, 43.21, ROBUSTBENCH),
    ),
    ("cifar10", "l2", 0.5): (
        Published("Wang et al. 2023, WRN-70-16, synthetic images", 95.54, 84.97, ROBUSTBENCH),
        Published("Wu et al. 2020 (AWP), WRN-34-10", 88.51, 73.66, ROBUSTBENCH),
        Published("Engstrom et al. 2019, ResNet-50", 90.83, 69.24, ROBUSTBENCH),
        Published("Rice et al. 2020, PreActResNet-18", 88.67, 67.68, ROBUSTBENCH),
    ),
    ("cifar100", "linf", 8 / 255): (
        Published("Wang et al. 2023, WRN-70-16, synthetic images", 75.22, 42.66, ROBUSTBENCH),
        Published("Wang et al. 2023, WRN-28-10, synthetic images", 72.58, 38.77, ROBUSTBENCH),
        Published("Addepalli et al. 2022, ResNet-18", 65.45, 27.67, ROBUSTBENCH),
    ),
}
"""By data set, norm and epsilon; the strongest first."""


def published(data: str, norm: Norm, epsilon: float) -> tuple[Published, ...]:
    """The published figures of this very threat on this very data set; none where it is not a known one."""
    for (source, of_norm, of_epsilon), figures in FIGURES.items():
        if (source, of_norm) == (data, norm) and abs(of_epsilon - epsilon) < 1e-6:
            return figures
    return ()

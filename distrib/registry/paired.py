"""Two models on the same images: where they differ, and whether chance explains it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scipy.stats import binomtest

from distrib.errors import RegistryError

Z = 1.959963984540054
"""Of a 95 % interval."""


@dataclass(frozen=True)
class Paired:
    """What became of the images that both models met."""

    n: int
    a: float
    """The share of them that stood in the first."""
    b: float
    only_a: int
    """How many stood in the first alone."""
    only_b: int
    difference: float
    """a - b."""
    interval: tuple[float, float]
    """Of the difference: Tango's, 95 %."""
    p: float
    """That they differ by so much, either way, if both are equally good: McNemar's exact test (McNemar 1947)."""

    @property
    def p_better(self) -> float:
        """That the second is better by so much if it is not better at all: the same test, one-sided."""
        return _binomial(self.only_b, self.only_a + self.only_b, "greater")


def paired(a: Mapping[int, bool], b: Mapping[int, bool]) -> Paired:
    """Whether each image stood in the first and in the second model, by its index; only those in both count.

    Raises :class:`RegistryError` where there are none.
    """
    pairs = [(a[index], b[index]) for index in a if index in b]
    if not pairs:
        raise RegistryError("the two were judged on no image in common; judge both by the same evaluation")
    n = len(pairs)
    only_a, only_b = sum(one and not other for one, other in pairs), sum(other and not one for one, other in pairs)
    return Paired(
        n=n,
        a=sum(one for one, _ in pairs) / n,
        b=sum(other for _, other in pairs) / n,
        only_a=only_a,
        only_b=only_b,
        difference=(only_a - only_b) / n,
        interval=interval(only_a, only_b, n),
        p=_binomial(only_a, only_a + only_b, "two-sided"),
    )


def _binomial(successes: int, of: int, alternative: str) -> float:
    return float(binomtest(successes, of, 0.5, alternative).pvalue) if of else 1.0


def interval(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """Tango's score interval of the difference of two paired shares (Tango 1998), 95 %.

    Where no image differs it is not a point: so few images cannot show that none ever would.
    """

    def score(difference: float) -> float:
        """Of the hypothesis that this is the true difference: |score| <= Z inside the interval."""
        linear = (2 * n - only_a + only_b) * difference - only_a - only_b
        constant = -only_b * difference * (1 - difference)
        likeliest = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)  # share of "only b"
        variance = n * (2 * likeliest + difference * (1 - difference))
        gap = only_a - only_b - n * difference
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0

    found = (only_a - only_b) / n
    return _root(lambda x: score(x) - Z, -1.0, found), _root(lambda x: score(x) + Z, found, 1.0)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero, by halving."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2

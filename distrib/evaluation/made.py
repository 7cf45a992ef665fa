"""How a model came to be, for its card: the network, and what it was trained against."""

from torch import nn

from distrib.objective import Natural, Objective
from distrib.values import Value, shown_radius


class Made(Value):
    """A model's origin in words."""

    network: str
    """The architecture."""
    parameters: int
    training: str = ""
    """Method, threat, attack and epochs; empty where it is not known."""


class Twin(Value):
    """The same network, trained without an adversary: what robustness costs, and what it brings."""

    clean_accuracy: float
    robust_accuracy: float
    n: int


def num_parameters(module: nn.Module) -> int:
    """The learnt numbers of a network."""
    return sum(one.numel() for one in module.parameters())


def training_of(objective: Objective, epochs: int, best: int) -> str:
    """What a model was trained with and against, in words, and which of its epochs it is."""
    when = f"epoch {best} of {epochs}"
    if isinstance(objective, Natural) or objective.adversary is None:
        return f"natural (no adversary), {when}"
    threat, attack = objective.adversary.threat, objective.adversary.attack
    return f"{objective.method} against {attack.name} in {threat.norm} {shown_radius(threat.epsilon)}, {when}"

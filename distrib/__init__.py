# ruff: noqa: F401
"""distrib: distributed training of image classifiers that withstand adversarial attack.

Start reading at :mod:`distrib.step`, the saddle-point problem of Madry et al. (arXiv 1706.06083) on one screen.

The nouns of the paper are offered here by name (``distrib.Linf``, ``distrib.PGD``, ...); each is imported when it is
first used, so that ``import distrib`` takes no time. What is public is listed in ``PUBLIC``, and only there.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

PUBLIC = {
    "threat": "L1 L2 Linf",
    "attack": "FGSM PGD Adversary OfEpsilon perturb",
    "noise": "Noise",
    "objective": "Fast Madry Mart Natural NFGSM Outcome Trades",
    "models": "CustomNet PaperCNN PreActResNet SmallCNN TimmNet TorchvisionNet WideResNet",
    "optim": "SGD Adam Muon",
    "data.arrays": "pack",
    "data.loader": "Batch",
    "state": "State",
    "step": "Sums update",
    "evaluation.attacks": "AutoAttack Evaluation Fgsm Pgd Square",
    "evaluation.card": "Card markdown",
    "evaluation.judge": "evaluate judge",
    "evaluation.result": "Result",
    "registry.loading": "load",
    "config.file": "read",
    "cli.dispatch": "run",
    "errors": "CheckpointError DataError DistribError InputError JobError "
    "NoRoom NonFiniteLoss RegistryError RunError TrackingError",
}
"""The public names, by the module that defines them."""
_HOME = {name: module for module, names in PUBLIC.items() for name in names.split()}


__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'distrib' has no attribute {name!r}")
    found = getattr(import_module(f"distrib.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])


if TYPE_CHECKING:  # for editors and type checkers; a test holds these lines equal to PUBLIC
    from distrib.attack import FGSM, PGD, Adversary, OfEpsilon, perturb
    from distrib.cli.dispatch import run
    from distrib.config.file import read
    from distrib.data.arrays import pack
    from distrib.data.loader import Batch
    from distrib.errors import (
        CheckpointError,
        DataError,
        DistribError,
        InputError,
        JobError,
        NonFiniteLoss,
        NoRoom,
        RegistryError,
        RunError,
        TrackingError,
    )
    from distrib.evaluation.attacks import AutoAttack, Evaluation, Fgsm, Pgd, Square
    from distrib.evaluation.card import Card, markdown
    from distrib.evaluation.judge import evaluate, judge
    from distrib.evaluation.result import Result
    from distrib.models import CustomNet, PaperCNN, PreActResNet, SmallCNN, TimmNet, TorchvisionNet, WideResNet
    from distrib.noise import Noise
    from distrib.objective import NFGSM, Fast, Madry, Mart, Natural, Outcome, Trades
    from distrib.optim import SGD, Adam, Muon
    from distrib.registry.loading import load
    from distrib.state import State
    from distrib.step import Sums, update
    from distrib.threat import L1, L2, Linf

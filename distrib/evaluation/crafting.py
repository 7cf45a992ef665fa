"""The images that one attack makes of a batch: by a search on the judged model, on another one, or from a file."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from distrib.attack import PGD, Adversary, depth, predicted
from distrib.data.loader import Batch
from distrib.evaluation import autoattack
from distrib.evaluation.attacks import EvaluationPlan, Fgsm, Pgd, RandomNoise, Square, Stored, Transfer
from distrib.evaluation.logits import Logits, logits_of
from distrib.noise import Noise

PROBES = "probes"
"""What follows the attacks, of which a growing epsilon takes the longest: some 8 times PGD-40, on the first images."""


@dataclass(frozen=True)
class AttackInputs:
    """What some attacks need beside the judged model."""

    source: Callable[[str], nn.Module]
    """The model of an address, which a transfer attack starts from."""
    stored: Callable[[str, Tensor], Tensor]
    """The images of a stored set, for these indices. Raises :class:`InputError`."""
    began: Callable[[str], None] = lambda name: None
    """Is told the name of each attack, and of the probes, as they begin."""


def craft(
    model: nn.Module,
    attack: Fgsm | Pgd | Square | RandomNoise | Transfer | Stored,
    batch: Batch,
    evaluation: EvaluationPlan,
    inputs: AttackInputs | None,
) -> tuple[Tensor, list[int]]:
    """The images that ``attack`` makes of ``batch``, and how many of them were broken after each of its restarts.

    The list is empty for an attack without restarts, and for one that searches on another model.
    """
    match attack:
        case Square():
            return autoattack.square(model, batch, evaluation.threat, evaluation.seed, attack.queries), []
        case RandomNoise():
            return _noise(model, attack, batch, evaluation), []
        case Transfer():
            assert inputs is not None
            source = Logits(inputs.source(attack.source).to(batch.x.device))
            return _pgd(source, attack.pgd, attack.name, batch, evaluation)[0], []
        case Stored():
            assert inputs is not None
            return inputs.stored(attack.path, batch.index), []
        case _:
            return _pgd(model, attack.pgd, attack.name, batch, evaluation)


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    return map(Batch, batch.x.split(size), batch.y.split(size), batch.index.split(size))


def _pgd(
    model: nn.Module, attack: PGD, name: str, batch: Batch, evaluation: EvaluationPlan
) -> tuple[Tensor, list[int]]:
    adversary = Adversary(evaluation.threat, attack)
    images, broken = [], np.zeros(attack.restarts, dtype=int)
    for x, y, index in _parts(batch, evaluation.batch_size):
        worst, after, start = x, 0, 0
        for start, worst in enumerate(adversary.starts(model, x, y, Noise.of(index, evaluation.seed, name))):
            if attack.restarts > 1:
                after = int((predicted(logits_of(model, worst, len(worst))) != y).sum())
                broken[start] += after
        broken[start + 1 :] += after  # the search ends early where nothing stands: later starts would break as many
        images.append(worst)
    return torch.cat(images), broken.tolist() if attack.restarts > 1 else []


@torch.no_grad()
def _noise(model: nn.Module, attack: RandomNoise, batch: Batch, evaluation: EvaluationPlan) -> Tensor:
    images = []
    for x, y, index in _parts(batch, evaluation.batch_size):
        noise = Noise.of(index, evaluation.seed, attack.name)
        worst, lowest = x.clone(), torch.full_like(x[:, 0, 0, 0], math.inf)
        for draw in range(attack.draws):
            x_adv = evaluation.threat.sample(x, noise.fork(draw))
            margins = depth(logits_of(model, x_adv, len(x_adv)), y)
            lower = margins < lowest
            worst[lower], lowest[lower] = x_adv[lower], margins[lower]
        images.append(worst)
    return torch.cat(images)

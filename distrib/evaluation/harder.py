"""Attacks for a model whose gradient cannot be believed, on the images that withstood the listed ones.

They cost as much as a listed attack, so they run only where a probe of :mod:`distrib.evaluation.geometry` was set off.
Each asks the model for its decisions alone, or for its gradient on 8 bits alone. What they break counts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.attack import PGD, Adversary, OfEpsilon, depth, input_gradient, margin, predicted, undisturbed
from distrib.data.loader import Batch
from distrib.evaluation.attacks import EvaluationPlan
from distrib.evaluation.geometry import LEVELS, on_levels
from distrib.evaluation.logits import Logits, logits_of
from distrib.evaluation.outcomes import ESTIMATE, ON_LEVELS, SMOOTH_COPY, ShardResult
from distrib.evaluation.shard import AttackedShard, ExtraAttack, extra_attack
from distrib.noise import Noise
from distrib.precision import exact_float32
from distrib.threat import Threat

STEPS = 40
ROUNDS, FIRST, MORE = 4, 300, 150
"""Of the smooth copy: how often it learns from what it got wrong, and the training steps of the first and of each."""
WALK, DIRECTIONS, HALVINGS = 25, 100, 10
"""Of the estimate: steps along the boundary, queries for each gradient, and for each way back to the boundary."""


@dataclass(frozen=True)
class _Standing:
    """The images of a shard that still stand, and what a search for worse ones needs."""

    model: nn.Module
    batch: Batch
    """All images of the shard."""
    rows: Tensor
    """Those that still stand: int64 ``[b]``."""
    threat: Threat
    noise: Noise
    batch_size: int


@exact_float32()
def try_harder(
    model: nn.Module, batch: Batch, result: ShardResult, worst: Tensor, evaluation: EvaluationPlan
) -> AttackedShard:
    """A shard after the attacks of this module, each on what stood before it.

    ``result`` and ``worst`` are what :func:`distrib.evaluation.shard.attack_shard` gave for the shard.
    """
    searches: dict[str, Callable[[_Standing], Tensor]] = {
        ON_LEVELS: _on_levels, SMOOTH_COPY: _smooth_copy, ESTIMATE: _estimate,
    }  # fmt: skip
    attacked = AttackedShard(result, worst)
    with undisturbed(model, "eval"):
        for name, search in searches.items():

            def images(rows: Tensor, name: str = name, search: Callable = search) -> Tensor:
                noise = Noise.of(batch.index, evaluation.seed, name)
                return search(_Standing(model, batch, rows, evaluation.threat, noise, evaluation.batch_size))

            attacked = extra_attack(model, batch, evaluation, attacked, ExtraAttack(name, images))
    return attacked


def _on_levels(given: _Standing) -> Tensor:
    """PGD on the margin whose every image lies on 8 bits: another network there has its own gradient there."""
    threat, found = given.threat, []
    for part in given.rows.split(given.batch_size):
        x, y = given.batch.x[part], given.batch.y[part]
        at, best, lowest = x, x.clone(), torch.full(y.shape, float("inf"), device=x.device)
        for step in range(STEPS + 1):
            at = on_levels(x, at, threat).detach().requires_grad_()
            with torch.enable_grad():
                margins = margin(Logits(given.model)(at), y)
                gradient = input_gradient(-margins.sum(), at)
            lower = margins.detach() < lowest
            best[lower], lowest[lower] = at.detach()[lower], margins.detach()[lower]
            length = max(2 * threat.epsilon / (step + 2), 1 / LEVELS)  # a shorter step would be rounded away
            at = threat.project(x, threat.step(at.detach(), gradient, length))
        found.append(best)
    return torch.cat(found)


def _smooth_copy(given: _Standing) -> Tensor:
    """PGD on a small smooth network that learnt the model's decisions near these images (Papernot et al., 1602.02697).

    It learns again, after each attack, from the model's answers to the images that the attack made.
    """
    threat, rows, noise = given.threat, given.rows, given.noise
    x, y = given.batch.x, given.batch.y
    best, lowest = x[rows].clone(), depth(logits_of(given.model, x[rows], given.batch_size), y[rows])
    attack = PGD(num_steps=20, step_size=OfEpsilon(of_epsilon=0.125), loss="cw_margin", kappa=1e6)
    questions, answers = [], []

    def ask(images: Tensor) -> Tensor:
        logits = logits_of(given.model, images, given.batch_size)
        known = predicted(logits) >= 0
        questions.append(images[known])
        answers.append(predicted(logits)[known])
        return logits

    num_classes = ask(x).shape[1]
    for share in (0.25, 0.5, 0.75):
        ask(x.roll(1, 0).lerp(x, share))
        ask(threat.model_copy(update={"epsilon": 2 * share * threat.epsilon}).sample(x, noise))
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(0)
        copy = _small(x[0], num_classes).to(x.device)
        optimiser = torch.optim.Adam(copy.parameters(), lr=2e-3)
        for turn in range(ROUNDS):
            images, labels = torch.cat(questions), torch.cat(answers)
            for _ in range(MORE if turn else FIRST):
                some = torch.randint(len(images), (128,), device=x.device)
                optimiser.zero_grad()
                F.cross_entropy(copy(images[some]), labels[some]).backward()
                optimiser.step()
            x_adv = Adversary(threat, attack).perturb(copy, x[rows], y[rows], noise.fork(turn)[rows])
            margins = depth(ask(x_adv), y[rows])
            best[margins < lowest], lowest = x_adv[margins < lowest], lowest.minimum(margins)
    return best


def _small(image: Tensor, num_classes: int) -> nn.Module:
    side = min(8, (min(image.shape[1:]) + 1) // 2)
    return nn.Sequential(
        nn.Conv2d(image.shape[0], 32, 3, padding=1), nn.Softplus(beta=10),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.Softplus(beta=10),
        nn.AdaptiveAvgPool2d(side), nn.Flatten(),
        nn.Linear(64 * side**2, 128), nn.Softplus(beta=10), nn.Linear(128, num_classes),
    )  # fmt: skip


@torch.no_grad()
def _estimate(given: _Standing) -> Tensor:
    """A walk along the decision's boundary towards each image, by gradients that are estimated from decisions alone.

    HopSkipJump (Chen et al., arXiv 1904.02144), with antithetic directions.
    """
    threat, size = given.threat, given.batch_size
    label = predicted(logits_of(given.model, given.batch.x, size))
    found = []
    for part in given.rows.split(max(1, size // 4)):
        x, y, stream = given.batch.x[part], given.batch.y[part], given.noise[part]

        def fooled(images: Tensor, y: Tensor = y) -> Tensor:
            return predicted(logits_of(given.model, images, size)) != y

        at = _nearest_other(x, y, given.batch.x, label, threat)
        at, radius = _nearest_fooled(x, at, threat, fooled)
        for step in range(WALK):
            if (radius <= threat.epsilon).all():
                break
            votes = torch.zeros_like(x)
            for _ in range(DIRECTIONS // 2):
                direction = stream.normal(x.shape[1:])
                reach = (0.1 * radius / threat.size(threat.ascent(direction))).view(-1, 1, 1, 1)
                for sign in (1, -1):
                    answer = fooled((at + sign * reach * threat.ascent(direction)).clamp(0, 1))
                    votes += sign * (2.0 * answer - 1).view(-1, 1, 1, 1) * threat.ascent(direction)
            length = radius / (step + 1) ** 0.5
            ahead, searching = at, torch.ones_like(y, dtype=torch.bool)
            for _ in range(HALVINGS):
                tried = (at + length.view(-1, 1, 1, 1) * threat.ascent(votes)).clamp(0, 1)
                good = searching & fooled(tried)
                ahead = torch.where(good.view(-1, 1, 1, 1), tried, ahead)
                searching, length = searching & ~good, length / 2
            moved, closer = _nearest_fooled(x, ahead, threat, fooled)
            better = closer < radius
            at, radius = torch.where(better.view(-1, 1, 1, 1), moved, at), torch.where(better, closer, radius)
        found.append(threat.project(x, at))
    return torch.cat(found)


def _nearest_other(x: Tensor, y: Tensor, others: Tensor, label: Tensor, threat: Threat) -> Tensor:
    """For each image, the nearest of ``others`` that the model puts into another class; grey where there is none."""
    nearest, least = torch.full_like(x, 0.5), torch.full(y.shape, float("inf"), device=x.device)
    for other, its in zip(others, label, strict=True):
        far = torch.where(its == y, float("inf"), threat.size(other - x))
        nearest = torch.where((far < least).view(-1, 1, 1, 1), other, nearest)
        least = least.minimum(far)
    return nearest


def _nearest_fooled(x: Tensor, at: Tensor, threat: Threat, fooled: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """``at`` drawn towards ``x`` as far as the model is still fooled, and how far from ``x`` that is."""
    low, high = torch.zeros(len(x), device=x.device), threat.size(at - x)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        hit = fooled(threat.at_radius(x, at, middle))
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return threat.at_radius(x, at, high), high

"""Attacks for a model whose gradient cannot be believed, on the images that withstood the listed ones.

They cost as much as a listed attack, so they run only where a probe of :mod:`distrib.evaluation.geometry` was set off.
Each asks the model for its decisions alone, or for its gradient on 8 bits alone. What they break counts.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.attack import PGD, OfEpsilon, depth, input_gradient, margin, predicted, undisturbed
from distrib.data.loader import Batch
from distrib.evaluation.attacks import Evaluation
from distrib.evaluation.geometry import LEVELS, on_levels
from distrib.evaluation.logits import Logits, logits_of
from distrib.evaluation.shard import ESTIMATE, ON_LEVELS, SMOOTH_COPY, ShardResult, extra_attack
from distrib.noise import Noise
from distrib.precision import exact_float32
from distrib.threat import Threat

STEPS = 40
ROUNDS, FIRST, MORE = 4, 300, 150
"""Of the smooth copy: how often it learns from what it got wrong, and the training steps of the first and of each."""
WALK, DIRECTIONS, HALVINGS = 25, 100, 10
"""Of the estimate: steps along the boundary, queries for each gradient, and for each way back to the boundary."""


@exact_float32()
def try_harder(
    model: nn.Module, batch: Batch, result: ShardResult, worst: Tensor, suite: Evaluation
) -> tuple[ShardResult, Tensor]:
    """The result and the worst images of a shard after the attacks of this module, on what stood before each."""
    assert suite.threat is not None
    searches: dict[str, Callable] = {ON_LEVELS: _on_levels, SMOOTH_COPY: _smooth_copy, ESTIMATE: _estimate}
    with undisturbed(model, "eval"):
        for name, search in searches.items():
            rows = torch.tensor([not hit for hit in result.broken], device=batch.x.device).nonzero()[:, 0]

            def images(rows: Tensor = rows, name: str = name, search: Callable = search) -> Tensor:
                noise = Noise.of(batch.index, suite.seed, name)
                return search(model, batch, rows, suite.threat, noise, suite.batch_size)

            result, worst = extra_attack(model, batch, rows, images, name, result, worst, suite)
    return result, worst


def _on_levels(model: nn.Module, batch: Batch, rows: Tensor, threat: Threat, _: Noise, size: int) -> Tensor:
    """PGD on the margin whose every image lies on 8 bits: another network there has its own gradient there."""
    found = []
    for part in rows.split(size):
        x, y = batch.x[part], batch.y[part]
        at, best, lowest = x, x.clone(), torch.full(y.shape, float("inf"), device=x.device)
        for step in range(STEPS + 1):
            at = on_levels(x, at, threat).detach().requires_grad_()
            with torch.enable_grad():
                height = margin(Logits(model)(at), y)
                gradient = input_gradient(-height.sum(), at)
            lower = height.detach() < lowest
            best[lower], lowest[lower] = at.detach()[lower], height.detach()[lower]
            length = max(2 * threat.epsilon / (step + 2), 1 / LEVELS)
            at = threat.project(x, at.detach() + length * threat.ascent(gradient))
        found.append(best)
    return torch.cat(found)


def _smooth_copy(model: nn.Module, batch: Batch, rows: Tensor, threat: Threat, noise: Noise, size: int) -> Tensor:
    """PGD on a small smooth network that learnt the model's decisions near these images (Papernot et al., 1602.02697).

    It learns again, after each attack, from what the model said to the images that the attack made.
    """
    x, y = batch.x, batch.y
    best, lowest = x[rows].clone(), depth(logits_of(model, x[rows], size), y[rows])
    attack = PGD(threat=threat, num_steps=20, step_size=OfEpsilon(of_epsilon=0.125), loss="cw_margin", kappa=1e6)
    asked, told = [], []

    def ask(images: Tensor) -> Tensor:
        logits = logits_of(model, images, size)
        known = predicted(logits) >= 0
        asked.append(images[known])
        told.append(predicted(logits)[known])
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
            known, answers = torch.cat(asked), torch.cat(told)
            for _ in range(MORE if turn else FIRST):
                some = torch.randint(len(known), (128,), device=x.device)
                optimiser.zero_grad()
                F.cross_entropy(copy(known[some]), answers[some]).backward()
                optimiser.step()
            x_adv = attack.perturb(copy, x[rows], y[rows], noise.fork(turn)[rows])
            height = depth(ask(x_adv), y[rows])
            best[height < lowest], lowest = x_adv[height < lowest], lowest.minimum(height)
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
def _estimate(model: nn.Module, batch: Batch, rows: Tensor, threat: Threat, noise: Noise, size: int) -> Tensor:
    """A walk along the decision's boundary towards each image, by gradients that are estimated from decisions alone.

    HopSkipJump (Chen et al., arXiv 1904.02144), with antithetic directions.
    """
    label = predicted(logits_of(model, batch.x, size))
    found = []
    for part in rows.split(max(1, size // 4)):
        x, y, stream = batch.x[part], batch.y[part], noise[part]

        def fooled(images: Tensor, y: Tensor = y) -> Tensor:
            return predicted(logits_of(model, images, size)) != y

        at = _nearest_other(x, y, batch.x, label, threat)
        at, radius = _back(x, at, threat, fooled)
        for step in range(WALK):
            if (radius <= threat.epsilon).all():
                break
            votes = torch.zeros_like(x)
            for _ in range(DIRECTIONS // 2):
                way = stream.normal(x.shape[1:])
                reach = (0.1 * radius / threat.size(threat.ascent(way))).view(-1, 1, 1, 1)
                for sign in (1, -1):
                    said = fooled((at + sign * reach * threat.ascent(way)).clamp(0, 1))
                    votes += sign * (2.0 * said - 1).view(-1, 1, 1, 1) * threat.ascent(way)
            length = radius / (step + 1) ** 0.5
            further_out, open_ = at, torch.ones_like(y, dtype=torch.bool)
            for _ in range(HALVINGS):
                tried = (at + length.view(-1, 1, 1, 1) * threat.ascent(votes)).clamp(0, 1)
                good = open_ & fooled(tried)
                further_out = torch.where(good.view(-1, 1, 1, 1), tried, further_out)
                open_, length = open_ & ~good, length / 2
            moved, closer = _back(x, further_out, threat, fooled)
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


def _back(x: Tensor, at: Tensor, threat: Threat, fooled: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """``at`` drawn towards ``x`` as far as the model is still fooled, and how far from ``x`` that is."""
    low, high = torch.zeros(len(x), device=x.device), threat.size(at - x)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        hit = fooled(threat.at_radius(x, at, middle))
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return threat.at_radius(x, at, high), high

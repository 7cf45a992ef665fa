"""Images, networks and evaluations for tests that run attacks."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from distrib.data.loader import Batch
from distrib.evaluation.attacks import AutoAttack, EvaluationPlan, Fgsm, Pgd
from distrib.evaluation.outcomes import STOOD, ShardResult
from distrib.evaluation.shard import attack_shard
from distrib.models import SmallCNN
from distrib.threat import L2, Linf

Build = Callable[..., nn.Module]
FGSM, PGD_20 = Fgsm(attack="fgsm"), Pgd(attack="pgd", num_steps=20)
AUTO = AutoAttack(attack="autoattack")


def pixels(count: int, low: float = 0.0, high: float = 1.0, side: int = 4) -> Tensor:
    return low + (high - low) * torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(2))


def batch(x: Tensor, y: Tensor, start: int = 1000) -> Batch:
    return Batch(x, y, torch.arange(start, start + len(x)))


def evaluation_of(
    *attacks: Fgsm | Pgd | AutoAttack, threat: Linf | L2 | None = None, **fields: object
) -> EvaluationPlan:
    return EvaluationPlan(threat=threat or Linf(epsilon=0.1), attacks=attacks, **fields)


def attacked(model: nn.Module, shard: Batch, evaluation: EvaluationPlan) -> ShardResult:
    return attack_shard(model, shard, np.arange(len(shard.y)), evaluation)[0]


def stood(result: ShardResult, name: str) -> list[bool]:
    return [outcome == STOOD for outcome in result.outcomes[name]]


def two_classes(linear: Build) -> tuple[nn.Module, Tensor]:
    """A linear model, and the difference of its two rows."""
    weight = torch.randn(2, 16, generator=torch.Generator().manual_seed(4))
    return linear(weight, -0.5 * weight.sum(dim=1)), weight[0] - weight[1]


def network(side: int = 8) -> nn.Module:
    torch.manual_seed(3)
    return SmallCNN(width=0.25).build((1, side, side), 10, [0.5], [0.3]).eval()


class Wrapped(nn.Module):
    """A healthy net with something done to its images or its logits."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] | None = None
    ):
        super().__init__()
        self.net, self.before, self.after = network(), before, after

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(self.before(x))
        return logits if self.after is None else self.after(logits)

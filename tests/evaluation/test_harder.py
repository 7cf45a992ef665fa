"""distrib.evaluation.harder: what stood before a decision turned into constants falls, and is counted by image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.data.loader import Batch
from distrib.evaluation import harder
from distrib.evaluation.attacks import EvaluationPlan, Fgsm, Pgd
from distrib.evaluation.evidence import gather
from distrib.evaluation.harder import try_harder
from distrib.evaluation.model_flags import needs_harder_attacks
from distrib.evaluation.outcomes import BROKEN, SPARED, STOOD
from distrib.evaluation.result import conclude
from distrib.evaluation.shard import attack_shard, score_images
from distrib.threat import L2, Linf, Threat

EPSILON = 0.02
SUITE = EvaluationPlan(threat=Linf(epsilon=EPSILON), attacks=(Fgsm(attack="fgsm"), Pgd(attack="pgd", num_steps=5)))
WEIGHT = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))


class Decision(nn.Module):
    """A linear classifier's decision as constants, and a faint linear map for the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return 5 * F.one_hot(((flat - 0.5) @ WEIGHT.T).argmax(dim=1), 4) + 1e-3 * flat @ WEIGHT.roll(1, 0).T


def images(count: int) -> Batch:
    x = 0.2 + 0.6 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Batch(x, ((x.flatten(1) - 0.5) @ WEIGHT.T).argmax(dim=1), torch.arange(count))


def stands(batch: Batch, threat: Threat) -> Tensor:
    """By how much the linear classifier withstands the worst; no box cuts the ball of these images."""
    logits = (batch.x.flatten(1) - 0.5) @ WEIGHT.T
    apart = WEIGHT[batch.y][:, None] - WEIGHT[None]
    size = apart.abs().sum(dim=2) if isinstance(threat, Linf) else apart.norm(dim=2)
    own = logits.gather(1, batch.y[:, None])
    return (own - logits - threat.epsilon * size).scatter(1, batch.y[:, None], torch.inf).amin(dim=1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ROUNDS": 2, "FIRST": 40, "MORE": 20, "WALK": 8, "DIRECTIONS": 60}.items():
        monkeypatch.setattr(harder, name, value)


@pytest.mark.parametrize("threat", [Linf(epsilon=EPSILON), L2(epsilon=0.15)], ids=["linf", "l2"])
def test_a_decision_as_constants_falls_nearly_as_far_as_it_can(threat: Threat):
    batch, terms = images(40), SUITE.model_copy(update={"threat": threat})
    result, worst = attack_shard(Decision(), batch, np.arange(40), terms)
    first = gather([result], terms, 40, 4)
    assert conclude(first).robust_accuracy > 0.8 and needs_harder_attacks(first)
    result, worst = try_harder(Decision(), batch, result, worst, terms)
    margins, far = score_images(Decision(), batch.x, worst, batch.y, threat)
    claim = conclude(gather([result], terms, 40, 4, result.disagreeing(margins)))
    truth = stands(batch, threat) > 0
    assert far == 0 and 0.1 < truth.float().mean() < 0.6
    assert truth.float().mean() <= claim.robust_accuracy < truth.float().mean() + 0.2
    broken = torch.tensor(result.broken)
    assert not (broken & (stands(batch, threat) > 1e-3)).any(), "what cannot be broken is not"
    assert {flag.name: flag.blocking for flag in claim.flags}["discontinuous_output"]
    assert {"smooth-copy", "gradient-estimate"} <= set(claim.attacks) & set(claim.cumulative)
    assert claim.attacks["gradient-estimate"] == claim.robust_accuracy and claim.n == 40
    for name in ("smooth-copy", "gradient-estimate"):
        outcomes = result.outcomes[name]
        assert {BROKEN, STOOD} <= set(outcomes) and (SPARED in outcomes or name == "smooth-copy")

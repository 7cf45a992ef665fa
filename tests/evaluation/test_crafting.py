"""distrib.evaluation.crafting: stored images are scored as they are, transfer searches on the source alone."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distrib.data.loader import Batch
from distrib.errors import RunError
from distrib.evaluation import frozen
from distrib.evaluation.attacks import EvaluationPlan, Stored, Transfer
from distrib.evaluation.crafting import AttackInputs
from distrib.evaluation.shard import attack_shard
from distrib.models import SmallCNN
from distrib.threat import Linf


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return SmallCNN(width=0.25).build((1, 8, 8), 10, [0.5], [0.3]).eval()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def judged(model: nn.Module, attack: Stored | Transfer, inputs: AttackInputs) -> tuple[list[int], Tensor]:
    x = images()
    with torch.no_grad():
        batch = Batch(x, model(x).argmax(dim=1), torch.arange(6))
    result, worst = attack_shard(
        model, batch, np.arange(6), EvaluationPlan(threat=Linf(epsilon=0.3), attacks=(attack,)), inputs
    )
    return result.outcomes[attack.name], worst


def test_stored_images_are_scored_and_cheats_refused():
    model, x = network(0), images()
    for moved, fair in ((0.3, True), (0.31, False)):
        inputs = AttackInputs(source=network, stored=lambda path, index, moved=moved: (x[index] + moved).clamp(0, 1))
        if fair:
            outcome, worst = judged(model, Stored(attack="stored", path="p"), inputs)
            with torch.no_grad():
                kept = model((x + 0.3).clamp(0, 1)).argmax(1) == model(x).argmax(1)
            assert outcome == kept.int().tolist() and torch.equal(worst, (x + 0.3).clamp(0, 1))
        else:
            with pytest.raises(RunError, match=r"stored-p-\w{6} left the linf ball of 0\.3"):
                judged(model, Stored(attack="stored", path="p"), inputs)


def test_transfer_climbs_the_source_and_judges_the_model():
    """From itself it is PGD on itself; from another net it finds other images."""
    model, other = network(0), network(1)
    attack = Transfer(attack="transfer", source="a", num_steps=5)
    own, worst = judged(model, attack, AttackInputs(source=lambda address: model, stored=frozen.stored_images))
    _, elsewhere = judged(model, attack, AttackInputs(source=lambda address: other, stored=frozen.stored_images))
    assert sum(own) < 6 and not torch.equal(worst, elsewhere)

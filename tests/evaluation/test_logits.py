"""distrib.evaluation.logits: no model escapes by NaN, by infinities or by a number type of its own."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distrib.data.loader import Batch
from distrib.evaluation import autoattack, logits
from distrib.evaluation.attacks import AutoAttack, EvaluationAttack, EvaluationPlan, Fgsm, Pgd, RandomNoise, Square
from distrib.evaluation.evidence import gather
from distrib.evaluation.result import Result, conclude
from distrib.evaluation.shard import attack_shard, score_images
from distrib.threat import Linf

NAN, INF = float("nan"), float("inf")
ATTACKS = (
    Fgsm(attack="fgsm"), Pgd(attack="pgd", num_steps=5), Pgd(attack="pgd", num_steps=3, restarts=2),
    RandomNoise(attack="noise", draws=5), Square(attack="square", queries=20),
)  # fmt: skip
AUTO = AutoAttack(attack="autoattack")


def nan(logits: Tensor) -> Tensor:
    return torch.full_like(logits, NAN)


class Centred(nn.Module):
    """Two or more classes by a few pixels; what becomes of an image's logits once it was touched is up to ``then``."""

    def __init__(self, then: Callable[[Tensor], Tensor], classes: int = 2):
        super().__init__()
        self.then, self.classes = then, classes
        self.weight = nn.Parameter(torch.eye(classes, 64) * 10)

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1) @ self.weight.T
        touched = ((x != 0) & (x != 1)).flatten(1).any(dim=1, keepdim=True)
        return torch.where(touched, self.then(logits), logits)


def images(count: int, classes: int = 2) -> tuple[Tensor, Tensor]:
    """White where the label is, black elsewhere: classified rightly while nothing touches them."""
    y = torch.arange(count) % classes
    return torch.eye(64)[y].view(count, 1, 8, 8), y


def judged(model: nn.Module, *attacks: EvaluationAttack, count: int = 40, classes: int = 2) -> tuple[Result, Tensor]:
    x, y = images(count, classes)
    terms = EvaluationPlan(threat=Linf(epsilon=0.1), attacks=attacks)
    result, worst = attack_shard(model, Batch(x, y, torch.arange(count)), np.arange(count), terms)
    margins, far = score_images(model, x, worst, y, terms.threat)
    assert far == 0
    return conclude(gather([result], terms, count, classes, result.disagreeing(margins))), worst


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_model_that_says_nan_when_attacked_withstands_nothing(attack: EvaluationAttack):
    """NaN counted as class 0: half of the images of two classes "stood"."""
    claim, _ = judged(Centred(nan), attack)
    assert claim.robust_accuracy == 0 and claim.clean_accuracy == 1
    flags = {flag.name: flag for flag in claim.flags}
    assert flags["nonfinite_logits"].blocking and len(flags["nonfinite_logits"].examples) == 20
    assert not {"stored_examples_disagree", "randomised_output"} & set(flags)


def test_autoattack_is_not_misled_by_nan():
    """The package takes NaN for class 0, and is content with what it then finds."""
    claim, _ = judged(Centred(nan, classes=4), AUTO, count=8, classes=4)
    assert claim.robust_accuracy == 0 and set(claim.stages.values()) == {0.0}


def test_nan_in_a_corner_of_the_ball_is_found_by_an_attack_that_passes_through_it():
    """Only images with a pixel between 0.02 and 0.04 have no prediction: PGD's last image has none of them."""

    class Corner(Centred):
        def forward(self, x: Tensor) -> Tensor:
            logits = x.flatten(1) @ self.weight.T
            there = ((x > 0.02) & (x < 0.04)).flatten(1).any(dim=1, keepdim=True)
            return torch.where(there, NAN, logits)

    claim, worst = judged(Corner(lambda logits: logits), Pgd(attack="pgd", num_steps=10))
    assert claim.robust_accuracy == 0 and (worst <= 1).all()
    assert "nonfinite_logits" in {flag.name for flag in claim.flags}


def test_an_image_that_is_nan_as_it_is_is_wrong():
    class Silent(Centred):
        def forward(self, x: Tensor) -> Tensor:
            return self.then(x.flatten(1) @ self.weight.T)

    for then in (lambda z: z * NAN, lambda z: z + INF, lambda z: z - INF):
        claim, _ = judged(Silent(then), Fgsm(attack="fgsm"))
        assert claim.clean_accuracy == claim.robust_accuracy == 0
        assert "nonfinite_logits" in {flag.name for flag in claim.flags}


def test_infinities_that_decide_nothing_are_told_and_no_more():
    """A class that is ruled out has the logit minus infinity; what is predicted is not in doubt."""

    class Masked(Centred):
        def forward(self, x: Tensor) -> Tensor:
            logits = x.flatten(1) @ self.weight.T
            return torch.cat([logits, torch.full_like(logits[:, :1], -INF)], dim=1)

    claim, _ = judged(Masked(lambda logits: logits), *ATTACKS, classes=3)
    assert claim.clean_accuracy == claim.robust_accuracy == 27 / 40  # the third class is the one ruled out
    assert [(flag.name, flag.blocking) for flag in claim.flags if "finite" in flag.name] == [
        ("nonfinite_logits", False)
    ]


def test_what_a_prediction_is():
    from distrib.attack import depth, predicted

    logits = torch.tensor([[1.0, 2.0], [NAN, 2.0], [1.0, NAN], [INF, 0.0], [-INF, 0.0], [-INF, -INF], [0.0, -INF]])
    assert predicted(logits).tolist() == [1, -1, -1, -1, 1, -1, 0]
    assert depth(logits, torch.zeros(7, dtype=torch.long)).tolist() == [-1.0, -INF, -INF, -INF, -INF, -INF, INF]


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_logits_of_any_type_are_judged_in_float32(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """FAB (in float64) and Square (in the short ones) ended with "Index put requires the source and ..."."""
    monkeypatch.setattr(autoattack, "parts_for", lambda *_: ("fab-t",))

    class Typed(Centred):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1) @ self.weight.T).to(kind)

    claim, _ = judged(Typed(nan, classes=4), *ATTACKS, AUTO, count=4, classes=4)
    assert claim.robust_accuracy == 1 and list(claim.stages) == ["fab-t"]


def test_the_gradient_of_an_image_without_a_prediction_is_zero_and_that_of_the_others_is_their_own():
    from distrib.evaluation.logits import Logits

    model = Centred(nan)
    x = images(3)[0]
    x[1] += 0.5 * (x[1] == 0)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(Logits(model)(x)[:, 0].sum(), x)
    assert torch.equal(gradient[1], torch.zeros(1, 8, 8)) and torch.equal(gradient[0], gradient[2])
    assert gradient[0].abs().sum() == 10


def test_images_without_a_prediction_that_are_known_are_not_searched_for_ever(monkeypatch: pytest.MonkeyPatch):
    """Those of one row come again at every forward: each was compared with every image of the shard."""
    looked = []
    original = logits.outside
    monkeypatch.setattr(logits, "outside", lambda threat, x, x_adv: looked.append(len(x)) or original(threat, x, x_adv))
    monkeypatch.setattr(logits, "PATIENCE", 10)
    x = torch.eye(64)[:4].view(4, 1, 8, 8)
    model = logits.Logits(Centred(nan, 4), x, Linf(epsilon=0.1))
    touched = x[:1] * 0.95
    for _ in range(50):
        model(touched)
    assert list(model.unpredicted) == [0] and looked[0] == 4 and len(looked) == 11
    model = logits.Logits(Centred(nan, 4), x, Linf(epsilon=0.1))
    model(x * 0.95)
    assert sorted(model.unpredicted) == [0, 1, 2, 3] and torch.equal(model.worst(x), x * 0.95)

"""Broken defences, every one of which the evaluation must see through, and healthy models, of which it must be silent.

Real handwritten digits; the models are trained here, in seconds.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.autograd import grad

from distrib.attack import PGD, Adversary
from distrib.data.loader import Batch
from distrib.evaluation.attacks import AutoAttack, EvaluationPlan, Fgsm, Pgd, RandomNoise, Square
from distrib.evaluation.evidence import gather
from distrib.evaluation.result import Result, conclude
from distrib.evaluation.shard import attack_shard, score_images
from distrib.models import PaperCNN, PreActResNet, SmallCNN
from distrib.noise import Noise
from distrib.threat import L2, Linf

EPSILON = 0.1
EVALUATION = EvaluationPlan(
    threat=Linf(epsilon=EPSILON),
    attacks=(
        Fgsm(attack="fgsm"), Pgd(attack="pgd", num_steps=20), Pgd(attack="pgd", num_steps=40),
        Pgd(attack="pgd", num_steps=20, restarts=10), Square(attack="square", queries=300),
        RandomNoise(attack="noise", draws=50),
    ),
)  # fmt: skip
"""AutoAttack is here only where it matters: on these small models its five thousand queries take most of the time."""


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(found.images).float()[:, None][order] / 16, torch.from_numpy(found.target)[order]


X, Y = digits()


def trained(build: Callable[[], nn.Module], epsilon: float, epochs: int = 12) -> nn.Module:
    """Trained on the digits, by PGD-5 where epsilon is not 0; in float64, where rounding grows less."""
    torch.manual_seed(0)
    model = build().train().double()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    adversary = Adversary(Linf(epsilon=epsilon), PGD(num_steps=5))
    x, y = X[200:].double(), Y[200:]
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            given = adversary.perturb(model, x[rows], y[rows], Noise.of(rows, epoch)) if epsilon and epoch else x[rows]
            optimiser.zero_grad()
            F.cross_entropy(model(given), y[rows]).backward()
            optimiser.step()
    return model.eval().float()


def built(value) -> Callable[[], nn.Module]:
    return lambda: value.build((1, 8, 8), 10, [0.3], [0.37])


@pytest.fixture(scope="module")
def natural() -> nn.Module:
    return trained(built(SmallCNN()), 0.0)


@pytest.fixture(scope="module")
def robust() -> nn.Module:
    return trained(built(SmallCNN()), EPSILON)


def judged(model: nn.Module, evaluation: EvaluationPlan = EVALUATION, y: Tensor = Y, count: int = 200) -> Result:
    """The result on the first ``count`` images, which no model here was trained on."""
    x, label = X[:count], y[:count]
    shards, disagree = [], []
    for rows in torch.arange(len(x)).split(100):
        result, worst = attack_shard(model, Batch(x[rows], label[rows], rows), rows.numpy(), evaluation)
        margins, far = score_images(model, x[rows], worst, label[rows], evaluation.threat)
        assert far == 0
        disagree += result.disagreeing(margins)
        shards.append(result)
    return conclude(gather(shards, evaluation, len(x), 10, disagree))


def names(result: Result) -> set[str]:
    return {flag.name for flag in result.flags}


class Wrapped(nn.Module):
    """A model behind a defence."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class Softmax(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).softmax(dim=1)


class HighTemperature(Wrapped):
    """Logits so flat that every cross-entropy is log 10."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) / 1e6


class Saturated(Wrapped):
    """Logits so large that the softmax has no gradient in float32: defensive distillation."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * 1e4


class Quantised(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 4).round() / 4)


class RandomLayer(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 0.05 * torch.randn_like(x))


class BatchNormInTrainMode(Wrapped):
    """Normalises by the batch, whatever eval() says."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.model(x), None, None, training=True) * 3


class RunningStatistics(BatchNormInTrainMode):
    """The same, and keeps statistics while it does."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.register_buffer("mean", torch.zeros(10))
        self.register_buffer("var", torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.model(x), self.mean, self.var, training=True) * 3


class WithoutGradient(Wrapped):
    """Pre-processing outside torch: no gradient comes through."""

    def forward(self, x: Tensor) -> Tensor:
        smooth = np.round(x.detach().cpu().numpy() * 16) / 16
        return self.model(torch.from_numpy(smooth).to(x))


class Threshold(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model((x > 0.5).float())


class SteepThreshold(Wrapped):
    """A threshold with a gradient, but one that vanishes almost everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(torch.sigmoid(3000 * (x - 0.5)))


class OptimisesInside(Wrapped):
    """Purifies its input by gradient descent before it answers."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            given = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.model(given).logsumexp(dim=1).sum(), given)
        return self.model((x + 0.01 * gradient.sign()).clamp(0, 1))


class OptimisesUnderAnotherName(Wrapped):
    """The same with a function of torch that was imported by name."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            given = x.detach().requires_grad_()
            (gradient,) = grad(self.model(given).logsumexp(dim=1).sum(), given)
        return self.model((x + 0.01 * gradient.sign()).clamp(0, 1))


class Sigmoid(Wrapped):
    """Outputs squeezed until their cross-entropy hardly grows; the margin still does."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).sigmoid()


class Constant(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * 1e-3 + 10 * F.one_hot(torch.tensor(3), 10)


class TwoNetworks(Wrapped):
    """One for images whose pixels all lie on 8 bits, as every test image does; a robust one for those between."""

    def __init__(self, model: nn.Module, robust: nn.Module):
        super().__init__(model)
        self.robust = robust

    def forward(self, x: Tensor) -> Tensor:
        levels = x * 255
        on_levels = ((levels - levels.round()).abs() < 1e-3).flatten(1).all(dim=1, keepdim=True)
        return torch.where(on_levels, self.model(x), self.robust(x))


class Decision(Wrapped):
    """The decision as constants, and a faint linear map for attacks by gradient to climb."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        faint = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
        self.faint = nn.Parameter(1e-3 * faint)

    def forward(self, x: Tensor) -> Tensor:
        return 5 * F.one_hot(self.model(x).argmax(dim=1), 10) + x.flatten(1) @ self.faint


BROKEN = [
    (Softmax, "softmax_output"),
    (HighTemperature, "logit_scale"),
    (Saturated, "logit_scale"),
    (Saturated, "zero_gradients"),
    (Quantised, "zero_gradients"),
    (RandomLayer, "randomised_output"),
    (BatchNormInTrainMode, "batch_dependent_output"),
    (RunningStatistics, "state_changes"),
    (WithoutGradient, "zero_gradients"),
    (Threshold, "zero_gradients"),
    (SteepThreshold, "black_box_beats_white_box"),
    (SteepThreshold, "fgsm_stronger_than_pgd"),
    (SteepThreshold, "epsilon_curve_above_chance"),
    (SteepThreshold, "restarts_not_converged"),
    (RandomLayer, "stored_examples_disagree"),
    (OptimisesInside, "optimisation_inside_forward"),
    (OptimisesUnderAnotherName, "optimisation_inside_forward"),
    (Constant, "constant_output"),
    (Threshold, "discontinuous_output"),
    (WithoutGradient, "wrong_gradients"),
]


QUICK = EVALUATION.model_copy(update={"attacks": EVALUATION.attacks[:2]})
"""Enough where the model itself is measured: restarts, Square and noise take most of an evaluation's time."""


@pytest.fixture(scope="module")
def results(natural: nn.Module) -> dict[type, Result]:
    """Of every defence. Attacks that contradict each other need the whole list, and more images to do so."""
    return {
        defence: judged(defence(natural)) if defence is SteepThreshold else judged(defence(natural), QUICK, count=100)
        for defence in dict(BROKEN)
    }


@pytest.mark.parametrize(("defence", "flag"), BROKEN, ids=[f"{one.__name__}-{flag}" for one, flag in BROKEN])
def test_a_broken_defence_is_caught_by_name(results: dict[type, Result], defence: type, flag: str):
    result = results[defence]
    assert flag in names(result), result.flags
    assert any(one.blocking for one in result.flags)


WIDE = EVALUATION.model_copy(update={"threat": Linf(epsilon=0.15), "attacks": EVALUATION.attacks[:2]})
"""Where the robust network is a lightly robust one."""


def on_8_bits() -> Batch:
    """Test images as packed data hold them."""
    return Batch((X[:100] * 255).round() / 255, Y[:100], torch.arange(100))


def test_functions_that_no_gradient_sees_through_are_flagged(natural: nn.Module, robust: nn.Module):
    for model, flags in (
        (Decision(robust), {"discontinuous_output"}),
        (TwoNetworks(natural, robust), {"discontinuous_output", "rounding_breaks"}),
    ):
        shard, _ = attack_shard(model, on_8_bits(), np.arange(100), WIDE)
        result = conclude(gather([shard], WIDE, 100, 10))
        assert flags <= {flag.name for flag in result.flags if flag.blocking}, result.flags


@pytest.mark.slow
def test_harder_attacks_bring_the_figure_near_the_truth(natural: nn.Module, robust: nn.Module):
    """Before them 99 % and 59 % stand; after them 75 and 18; the networks inside have 57 and 13."""
    from distrib.evaluation.harder import try_harder
    from distrib.evaluation.model_flags import needs_harder_attacks

    batch, strong = on_8_bits(), Pgd(attack="pgd", num_steps=40, loss="cw_margin", restarts=5)
    for model, inside, above in ((Decision(robust), robust, 0.25), (TwoNetworks(natural, robust), natural, 0.1)):
        shard, worst = attack_shard(model, batch, np.arange(100), WIDE)
        before = conclude(gather([shard], WIDE, 100, 10))
        assert needs_harder_attacks(gather([shard], WIDE, 100, 10))
        shard, worst = try_harder(model, batch, shard, worst, WIDE)
        margins, far = score_images(model, batch.x, worst, batch.y, WIDE.threat)
        result = conclude(gather([shard], WIDE, 100, 10, shard.disagreeing(margins)))
        truth = judged(inside, WIDE.model_copy(update={"attacks": (strong,)})).robust_accuracy
        assert far == 0 and result.robust_accuracy < min(truth + above, before.attacks["pgd-20"] - 0.2)
        assert result.attacks["gradient-estimate"] == result.robust_accuracy
        assert "stored_examples_disagree" not in names(result)


def test_a_list_of_attacks_that_is_too_weak_is_told(natural: nn.Module):
    """The evaluation's own probe at epsilon finds what the tier quick does not."""
    assert "listed_attacks_too_weak" not in names(judged(natural, QUICK))
    result = judged(Sigmoid(natural), QUICK)
    (flag,) = [flag for flag in result.flags if flag.name == "listed_attacks_too_weak"]
    at_epsilon = dict((epsilon, accuracy) for epsilon, accuracy, _ in result.epsilon_curve)[EPSILON]
    assert flag.blocking and result.robust_accuracy > at_epsilon + 0.05


def test_wrong_labels_are_told_from_a_bad_model(natural: nn.Module):
    renamed = judged(natural, QUICK, (Y + 3) % 10)
    assert "wrong_labels" in names(renamed) and renamed.clean_accuracy < 0.05
    assert "0 -> 7" in next(flag.detail for flag in renamed.flags if flag.name == "wrong_labels")
    shuffled = Y[torch.randperm(len(Y), generator=torch.Generator().manual_seed(1))]
    assert "clean_accuracy_at_chance" in names(judged(natural, QUICK, shuffled))


def test_where_no_gradient_comes_through_autoattack_is_not_whole(natural: nn.Module):
    only_autoattack = EVALUATION.model_copy(update={"attacks": (AutoAttack(attack="autoattack"),)})
    result = judged(WithoutGradient(natural), only_autoattack, count=20)
    assert "attacks_left_out" in names(result) and list(result.stages) == ["square"]


MARGIN = Pgd(attack="pgd", num_steps=40, loss="cw_margin")
"""Without it the figure of the linear model is too high."""
WHOLE = EVALUATION.model_copy(update={"attacks": (*EVALUATION.attacks, MARGIN)})


def nothing_to_say(result: Result) -> None:
    assert result.flags == ()
    assert result.clean_accuracy > 0.85 and 0.2 < result.robust_accuracy < result.clean_accuracy


@pytest.mark.parametrize("kind", ["natural", "robust"])
def test_of_the_networks_behind_the_defences_there_is_nothing_to_say(kind: str, request: pytest.FixtureRequest):
    nothing_to_say(judged(request.getfixturevalue(kind), WHOLE))


HEALTHY = {
    "paper_cnn": (built(PaperCNN(width=0.25)), EPSILON),
    "preact_resnet": (built(PreActResNet(width=0.0625)), EPSILON),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0.0),
}


SLOW = ("preact_resnet",)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in HEALTHY]
)
def test_of_a_healthy_model_there_is_nothing_to_say(kind: str):
    build, epsilon = HEALTHY[kind]
    nothing_to_say(judged(trained(build, epsilon, epochs=6), WHOLE))


def test_of_a_healthy_model_there_is_nothing_to_say_under_l2(robust: nn.Module):
    result = judged(robust, EVALUATION.model_copy(update={"threat": L2(epsilon=0.5)}))
    assert result.flags == () and result.robust_accuracy < result.clean_accuracy

"""distrib.evaluation.shard: each image's outcome where mathematics knows it; an attack that cheats gives no result."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from attacked import (
    AUTO,
    FGSM,
    PGD_20,
    Build,
    attacked,
    batch,
    evaluation_of,
    network,
    pixels,
    stood,
    two_classes,
)
from safetensors.torch import save_file
from shards import concluded
from torch import Tensor, nn

from distrib.attack import Adversary, margin
from distrib.data.loader import Batch
from distrib.errors import RunError
from distrib.evaluation import autoattack, frozen
from distrib.evaluation import shard as attacks_on_a_shard
from distrib.evaluation.attacks import EvaluationPlan, Pgd, RandomNoise, Square, Stored, Transfer
from distrib.evaluation.crafting import AttackInputs
from distrib.evaluation.outcomes import NOT_ASKED, ShardResult
from distrib.evaluation.points import points
from distrib.evaluation.shard import attack_shard
from distrib.threat import L1, L2, Linf, Threat, outside


@pytest.mark.parametrize("low", [0.0, 0.35], ids=["at the box", "far from the box"])
def test_on_a_linear_model_each_images_fate_is_known(linear: Build, low: float):
    """Linf: each pixel goes as far as the ball and the box let it, against the true class."""
    (model, difference), x = two_classes(linear), pixels(80, low, 1 - low)
    epsilon = 0.1 if low == 0 else 0.02
    y = torch.arange(80) % 2
    against = (difference[None] * (2 * y - 1)[:, None]).view_as(x)
    worst = torch.where(against > 0, (x + epsilon).clamp_max(1), (x - epsilon).clamp_min(0))
    with torch.no_grad():
        before, after = margin(model(x), y), margin(model(worst), y)
    sure = after.abs() > 1e-4  # nothing is claimed of an image on the border
    result = attacked(model, batch(x, y), evaluation_of(FGSM, PGD_20, threat=Linf(epsilon=epsilon), batch_size=32))
    assert result.clean == (before > 0).tolist()
    for name in ("fgsm", "pgd-20"):
        assert [outcome for outcome, known in zip(stood(result, name), sure, strict=True) if known] == (
            after[sure] > 0
        ).tolist()
        assert result.largest_change[name] == pytest.approx(epsilon, abs=1e-6)
    robust = (after > 0).sum()
    assert 10 < robust < (before > 0).sum() - 10 and (before <= 0).sum() > 10  # each outcome occurs
    assert result.position == list(range(80)) and result.index == list(range(1000, 1080))
    assert result.probes.zero_gradient == [False] * 80


def test_under_l2_the_margin_falls_by_epsilon_times_the_norm(linear: Build):
    (model, difference), x = two_classes(linear), pixels(40, 0.4, 0.6)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        margins = margin(model(x), y)
    epsilon = margins.median().item() / difference.norm().item()
    result = attacked(model, batch(x, y), evaluation_of(FGSM, PGD_20, threat=L2(epsilon=epsilon)))
    expected = margins - epsilon * difference.norm() > 0
    for row in range(40):
        if abs(margins[row] - margins.median()) > 1e-3:
            assert stood(result, "fgsm")[row] == stood(result, "pgd-20")[row] == expected[row]
    assert 15 < expected.sum() < 25


def test_autoattack_breaks_what_can_be_broken_and_nothing_else(linear: Build):
    (model, difference), x = two_classes(linear), pixels(40, 0.3, 0.7)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        margins = margin(model(x), y)
    epsilon = 0.02
    lowest = margins - epsilon * difference.abs().sum()
    rows = (lowest.abs() > 0.05).nonzero()[:10, 0]  # nothing is claimed of the border
    assert 2 < (lowest[rows] > 0).sum() < 8
    state = torch.get_rng_state()
    evaluation = evaluation_of(AUTO, threat=Linf(epsilon=epsilon))
    result = attacked(model, batch(x[rows], y[rows]), evaluation)
    assert stood(result, "autoattack") == (lowest[rows] > 0).tolist()
    assert result.largest_change["autoattack"] <= epsilon + 1e-6
    assert torch.equal(torch.get_rng_state(), state)
    found = concluded([result], evaluation, len(rows), 2)
    assert [(flag.name, flag.blocking) for flag in found.flags] == [("few_classes", False)]


@pytest.mark.parametrize("threat", [Linf(epsilon=0.02), L2(epsilon=0.15), L1(epsilon=0.6)], ids=["linf", "l2", "l1"])
def test_autoattack_with_few_classes_and_few_images(linear: Build, threat: Threat):
    """Five classes have four wrong ones, not nine; a shard may hold one image."""
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(4))
    model, x = linear(weight), pixels(60, 0.3, 0.7, side=8)
    with torch.no_grad():
        logits = model(x)
    y, rows = logits.argmax(dim=1), torch.arange(60)
    away = (weight[y][:, None] - weight[None]).norm(p=1 if isinstance(threat, Linf) else 2, dim=2)
    lowest = logits[rows, y][:, None] - logits - threat.epsilon * away
    lowest = lowest.scatter(1, y[:, None], float("inf")).amin(dim=1)
    weakest, safest = int(lowest.argmin()), int(lowest.argmax())
    for row in (weakest, safest) if isinstance(threat, Linf) else (weakest,):  # the safest takes seconds
        assert abs(lowest[row]) > 0.1
        x_adv, stage = autoattack.autoattack(
            model, batch(x[row : row + 1], y[row : row + 1]), threat, 0, autoattack.STANDARD
        )
        assert (stage == [""]) == bool(lowest[row] > 0)
        assert x_adv.shape == (1, 1, 8, 8) and not x_adv.requires_grad
        assert bool(model(x_adv).argmax() == y[row]) == bool(lowest[row] > 0)


def test_an_attack_with_an_n_takes_the_first_positions_of_the_whole_evaluation(linear: Build):
    (model, _), x = two_classes(linear), pixels(6)
    evaluation = evaluation_of(FGSM, Pgd(attack="pgd", num_steps=3, n=12))
    result, _ = attack_shard(model, batch(x, torch.zeros(6, dtype=torch.long)), np.arange(9, 15), evaluation)
    assert [outcome == NOT_ASKED for outcome in result.outcomes["pgd-3"]] == [False] * 3 + [True] * 3
    assert NOT_ASKED not in result.outcomes["fgsm"]
    assert result.position == list(range(9, 15))
    none, _ = attack_shard(model, batch(x, torch.zeros(6, dtype=torch.long)), np.arange(20, 26), evaluation)
    assert none.outcomes["pgd-3"] == [NOT_ASKED] * 6 and none.largest_change["pgd-3"] == 0.0


def test_what_is_misclassified_is_not_robust_and_not_attacked(linear: Build, monkeypatch: pytest.MonkeyPatch):
    (model, _), x = two_classes(linear), pixels(10)
    with torch.no_grad():
        wrong = 1 - model(x).argmax(dim=1)
    monkeypatch.setattr(
        attacks_on_a_shard, "probe", lambda *_: None
    )  # the probes attack every image, whatever its class
    monkeypatch.setattr(Adversary, "starts", lambda *_: pytest.fail("attacked"))
    result, worst = attack_shard(model, batch(x, wrong), np.arange(10), evaluation_of(FGSM, PGD_20))
    assert result.clean == stood(result, "fgsm") == stood(result, "pgd-20") == [False] * 10
    assert torch.equal(worst, x) and result.worst == [""] * 10


def test_shards_of_any_size_tell_the_same():
    """PGD's outcome of an image depends on the seed and the image; the result on nothing else either."""
    model, x = network(), pixels(8, side=8)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    pgd = Pgd(attack="pgd", num_steps=5, restarts=2)
    evaluation = evaluation_of(FGSM, pgd, threat=Linf(epsilon=0.01), batch_size=4)
    whole, positions = batch(x, y), np.arange(8)

    def shards(size: int) -> list[ShardResult]:
        cut = [Batch(*parts) for parts in zip(*(field.split(size) for field in whole), strict=True)]
        return [
            attack_shard(model, part, where, evaluation)[0]
            for part, where in zip(cut, np.split(positions, range(size, 8, size)), strict=True)
        ]

    cuts = [shards(size) for size in (8, 3, 1)]
    results = [concluded(cut, evaluation, 8, 10) for cut in cuts]
    assert len({(r.clean_accuracy, r.robust_accuracy, tuple(r.attacks.items()), r.flags) for r in results}) == 1
    assert results[0].clean_accuracy == 1 and results[0].n == 8
    other = concluded(list(reversed(cuts[1])), evaluation, 8, 10)
    assert other.attacks == results[0].attacks
    for wrong in (cuts[1][1:], [*cuts[1], cuts[1][0]]):
        with pytest.raises(RunError, match="exactly once"):
            concluded(wrong, evaluation, 8, 10)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(72, 10))
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    attacked(
        model,
        batch(pixels(10, side=8), torch.arange(10)),
        evaluation_of(FGSM, Pgd(attack="pgd", num_steps=2, restarts=2)),
    )
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def too_far(_: Adversary, model: nn.Module, x: Tensor, *__: object) -> list[Tensor]:
    return [(x + 0.11).clamp(0, 1)]


def out_of_the_box(_: Adversary, model: nn.Module, x: Tensor, *__: object) -> list[Tensor]:
    return [x - 0.05]


def not_a_number(_: Adversary, model: nn.Module, x: Tensor, *__: object) -> list[Tensor]:
    return [x * float("nan")]


def one_image_too_far(_: Adversary, model: nn.Module, x: Tensor, *__: object) -> list[Tensor]:
    x_adv = x.clone()
    x_adv[-1, 0, 2, 2] += 0.1001
    return [x_adv]


def within(_: Adversary, model: nn.Module, x: Tensor, *__: object) -> list[Tensor]:
    return [(x + 0.1).clamp(0, 1)]


@pytest.mark.parametrize("cheat", [too_far, out_of_the_box, not_a_number, one_image_too_far])
def test_an_attack_that_leaves_the_threat_gives_no_result(
    linear: Build, monkeypatch: pytest.MonkeyPatch, cheat: Callable[..., list[Tensor]]
):
    (model, _), x = two_classes(linear), pixels(10, 0.0, 0.8)
    with torch.no_grad():
        shard = batch(x, model(x).argmax(dim=1))
    monkeypatch.setattr(attacks_on_a_shard, "probe", lambda *_: None)
    monkeypatch.setattr(Adversary, "starts", within)
    attacked(model, shard, evaluation_of(PGD_20))
    monkeypatch.setattr(Adversary, "starts", cheat)
    with pytest.raises(RunError, match=r"pgd-20 left the linf ball of 0\.1 or \[0, 1\]; no result"):
        attacked(model, shard, evaluation_of(PGD_20))
    monkeypatch.setattr(
        autoattack, "autoattack", lambda model, part, *_: (cheat(None, model, part.x)[0], [""] * len(part.x))
    )
    with pytest.raises(RunError, match="autoattack left the linf ball"):
        attacked(model, shard, evaluation_of(AUTO))


@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L2(epsilon=0.3), L1(epsilon=0.3)], ids=["linf", "l2", "l1"])
def test_what_autoattack_leaves_outside_by_rounding_is_drawn_back_and_scored_again(
    monkeypatch: pytest.MonkeyPatch, threat: Threat
):
    """Of three images one is wrong also on the border, one only beyond it, and one lies inside and is wrong."""
    x, beyond = torch.full((3, 1, 4, 4), 0.6), 2e-6  # 0.6 lies on 8 bits: rounding leaves it

    class Beyond(nn.Module):
        """Says class 1 where the first pixel has moved beyond epsilon; where another is marked, less far."""

        def forward(self, z: Tensor) -> Tensor:
            moved = z[:, 0, 0, 0] - 0.6
            reach = threat.epsilon + 1e-6 - 0.05 * (z[:, 0, 3, 3] > 0.605)
            return torch.stack([reach, moved], dim=1)

    x[0, 0, 3, 3] = x[2, 0, 3, 3] = 0.61
    moved = x.clone()
    moved[:, 0, 0, 0] += torch.tensor([threat.epsilon + beyond, threat.epsilon + beyond, threat.epsilon - 0.02])
    parts = ["apgd-ce", "square", "square"]
    monkeypatch.setattr(autoattack, "autoattack", lambda *_: (moved.clone(), list(parts)))
    evaluation = evaluation_of(AUTO, threat=threat)
    result, worst = attack_shard(Beyond(), batch(x, torch.zeros(3, dtype=torch.long)), np.arange(3), evaluation)
    assert stood(result, "autoattack") == [False, True, False]
    assert result.stage == ["apgd-ce", "", "square"]
    assert not outside(threat, x, worst).any() and torch.equal(worst[2], moved[2])
    found = concluded([result], evaluation, 3, 2)
    (flag,) = (flag for flag in found.flags if flag.name == "images_projected")
    assert not flag.blocking and flag.detail.startswith("2 images of autoattack")
    assert found.robust_accuracy == found.attacks["autoattack"] == found.stages["square"] == pytest.approx(1 / 3)


def test_what_another_attack_leaves_outside_by_rounding_gives_no_result(linear: Build, monkeypatch: pytest.MonkeyPatch):
    """Distrib's own attacks project for themselves: what they leave outside is a fault."""
    (model, _), x = two_classes(linear), pixels(10, 0.3, 0.7)
    with torch.no_grad():
        shard = batch(x, model(x).argmax(dim=1))
    monkeypatch.setattr(Adversary, "starts", lambda _, model, x, *__: [x + 0.1 + 4e-6])
    with pytest.raises(RunError, match="pgd-20 left the linf ball"):
        attacked(model, shard, evaluation_of(PGD_20))


class Viewing(nn.Module):
    """A linear network as many are written: it needs images that lie in memory as a new tensor does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        assert x.stride() == torch.empty(x.shape).stride()
        return self.layer(x.view(x.size(0), -1))


@pytest.mark.parametrize("threat", [Linf(epsilon=0.3), L2(epsilon=2), L1(epsilon=6)], ids=["linf", "l2", "l1"])
def test_a_network_that_views_its_input_can_be_judged_on_grey_images(digits: Path, tmp_path: Path, threat: Threat):
    """By every attack and every probe: each of them hands images to the model."""
    model, shard = Viewing(), points(digits, "memory", 1, np.arange(12), torch.device("cpu"))
    with torch.no_grad():
        shard = shard._replace(y=model(shard.x).argmax(dim=1))
    save_file({"x_adv": shard.x, "index": shard.index}, tmp_path / "adversarial.safetensors")
    attacks = (
        FGSM, PGD_20, Pgd(attack="pgd", num_steps=5, restarts=3), RandomNoise(attack="noise", draws=2),
        Square(attack="square", queries=5), Transfer(attack="transfer", source="a", num_steps=2),
        Stored(attack="stored", path=str(tmp_path)), AUTO,
    )  # fmt: skip
    inputs = AttackInputs(
        source=lambda address: Viewing(), stored=lambda path, index: frozen.stored_images(Path(path), index)
    )
    result, worst = attack_shard(model, shard, np.arange(12), EvaluationPlan(threat=threat, attacks=attacks), inputs)
    assert all(result.clean) and all(result.broken)
    model(worst)


@pytest.mark.parametrize("attacks", [(FGSM,), (FGSM, PGD_20), (PGD_20, AUTO)])
def test_the_class_of_every_worst_image_is_kept(attacks: tuple):
    """Also of those that stood, and of those that were misclassified before."""
    model, x = network(), pixels(12, side=8)
    y = model(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 10  # misclassified as they are
    result, worst = attack_shard(model, batch(x, y), np.arange(12), evaluation_of(*attacks))
    assert result.attacked == model(worst).argmax(dim=1).tolist()
    assert sum(seen != label for seen, label in zip(result.attacked, result.label, strict=True)) > 0, "some fell"

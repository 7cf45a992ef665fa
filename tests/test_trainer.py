"""distrib.trainer: resumed equals never stopped, and a nan stops the run. (Two ranks: test_trainer_ranks.py.)"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_runs import ADAM_JOB, MADRY, QUICK, SGD_JOB, Poisoned, Run, small_cnn, tensors_of, with_batch_norm

from distrib import trainer
from distrib.attack import PGD, Adversary
from distrib.checkpoints import load_checkpoint, save_checkpoint
from distrib.data.augment import Augment
from distrib.data.beton import open_split
from distrib.data.loader import open_reader
from distrib.data.order import Portion
from distrib.errors import NonFiniteLoss
from distrib.objective import Natural, Trades
from distrib.threat import Linf
from distrib.trainer import EpochEnd, Progress, ValidationSet
from distrib.world import World


def test_epochs_report_what_they_did(digits: Path):
    run = Run(digits, SGD_JOB, objective=Natural(method="natural"), augment=Augment())
    ends = [report for report in run.reports() if isinstance(report, EpochEnd)]
    assert [end.epoch for end in ends] == [1, 2, 3]
    assert run.state.step == 3 * (270 // 32)
    for end in ends:
        assert end.metrics["learning_rate"] == 0.1
        assert 0 <= end.metrics["validation_robust_accuracy"] <= end.metrics["validation_clean_accuracy"] <= 1
        assert end.metrics["images_per_second"] > 0 and 0 <= end.metrics["data_wait_share"] <= 1
    first, _, last = (end.metrics for end in ends)
    assert last["train_loss"] < first["train_loss"] and last["train_accuracy"] > 0.2
    assert list(run.reports()) == []  # it is done


def test_the_natural_epochs_are_those_of_natural_training(digits: Path):
    late = MADRY.model_copy(update={"natural_epochs": 2.0, "epsilon_warmup_epochs": 0.0})
    begun, natural = (Run(digits, SGD_JOB, objective=one).history() for one in (late, Natural(method="natural")))
    assert begun[:2] == natural[:2] and begun[2]["train_loss"] > natural[2]["train_loss"]


@pytest.mark.parametrize(
    ("natural", "shares"), [(0.0, [1 / 3, 2 / 3, 1]), (2.0, [0.2, 0.4, 1]), (9.0, [1 / 3, 2 / 3, 1])]
)
def test_the_work_done_counts_passes(
    digits: Path, monkeypatch: pytest.MonkeyPatch, natural: float, shares: list[float]
):
    """An epoch without the adversary, who takes two steps, is a third of another: else its ETA is far too short."""
    monkeypatch.setattr(trainer, "PROGRESS_SECONDS", -1.0)
    reports = Run(digits, SGD_JOB, objective=MADRY.model_copy(update={"natural_epochs": natural})).reports()
    work = {report.step: report.work for report in reports if isinstance(report, Progress)}
    assert list(work) == list(range(1, 25))
    assert [work[step] for step in (8, 16, 24)] == pytest.approx(shares)


@pytest.mark.parametrize(("every", "validated"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (9, [3])])
def test_every_so_many_epochs_are_validated_and_the_last_always(digits: Path, every: int, validated: list[int]):
    run = Run(digits, SGD_JOB, objective=Natural(method="natural"))
    run.validation.every = every
    history = run.history()
    assert [number for number, one in enumerate(history, 1) if "validation_robust_accuracy" in one] == validated
    assert [number for number, one in enumerate(history, 1) if "validation_clean_accuracy" in one] == validated
    assert history[-1] == Run(digits, SGD_JOB, objective=Natural(method="natural")).history()[-1]


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"objective": Trades(method="trades", threat=QUICK.threat, attack=QUICK.attack), "build": with_batch_norm},
        {"mixed": (Portion(70, 0.6),)},
    ],
    ids=["madry", "trades with batch norm", "mixed sources"],
)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, digits: Path, fields: dict, stop: int):
    whole = Run(digits, ADAM_JOB, **fields)
    history = whole.history()

    first = Run(digits, ADAM_JOB, **fields)
    for report in first.reports():
        if isinstance(report, EpochEnd) and report.epoch == stop:
            save_checkpoint(first.state, tmp_path / "epoch", [report.metrics] * report.epoch, {}, "digest")
            break
    second = Run(digits, ADAM_JOB, **fields)
    load_checkpoint(second.state, tmp_path / "epoch")
    assert second.history() == history[stop:]
    expected = tensors_of(whole.state)
    for name, tensor in tensors_of(second.state).items():
        assert torch.equal(tensor, expected[name]), name


def test_validation_leaves_the_model_as_it_was(digits: Path):
    run = Run(digits, SGD_JOB, build=with_batch_norm)
    model = run.state.model
    for modes in ([True] * 6, [False] * 6, [True, True, False, True, True, True]):
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        before = tensors_of(run.state)
        first = run.validation.accuracy(model, World())
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(run.state).items())
        assert run.validation.accuracy(model, World()) == first


def test_validation_counts_clean_and_robust_hits(digits: Path, linear):
    """Under a threat of nothing the two are equal, and they are what a plain loop counts; under one of everything
    nothing stands."""
    held_out = open_split(digits, "validation", "training")
    reader = open_reader(held_out, "memory")
    everything = np.arange(held_out.card.count)
    model = linear(torch.randn(10, 64, generator=torch.Generator().manual_seed(1)))
    (raw,) = reader.read(everything, 1000)
    with torch.no_grad():
        logits = model(raw.image.permute(0, 3, 1, 2).float() / 255)
    hits = (logits.argmax(dim=1) == raw.label).float().mean().item()
    nothing = ValidationSet(reader, everything, Adversary(Linf(epsilon=0), PGD(num_steps=1)), 0, batch_size=7)
    assert nothing.accuracy(model, World()) == pytest.approx((hits, hits))
    whole_box = ValidationSet(reader, everything, Adversary(Linf(epsilon=1), PGD(num_steps=10)), 0)
    assert whole_box.accuracy(model, World()) == pytest.approx((hits, 0.0))


class FirstPixel(nn.Module):
    """Calls an image of first pixel k/9 a k."""

    def forward(self, x: Tensor) -> Tensor:
        return -(9 * x[:, 0, 0, 0, None] - torch.arange(10)).square()


class Helpful:
    """An attack that makes every image right."""

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: object) -> Tensor:
        x_adv = x.clone()
        x_adv[:, 0, 0, 0] = y / 9
        return x_adv


def test_an_image_that_is_wrong_as_it_is_is_not_robust(digits: Path):
    validation = Run(digits, SGD_JOB).validation
    validation.adversary = Helpful()
    clean, robust = validation.accuracy(FirstPixel(), World())
    assert 0 < clean < 0.5 and robust == clean


def test_a_nan_stops_the_run_at_its_step(digits: Path):
    run = Run(digits, SGD_JOB)
    run.loader = Poisoned(run.loader, rank=0)
    with pytest.raises(NonFiniteLoss, match=r"step 2 .*learning rate 0\.1"):
        list(run.reports())
    assert run.state.step == 2
    assert all(tensor.isfinite().all() for tensor in tensors_of(run.state).values())


class Loud(nn.Module):
    """Logits, and so gradients, a million times as large."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1e6


def test_weights_that_are_no_longer_finite_stop_the_run_before_they_are_reported(digits: Path):
    """The last step of the epoch made them so: no loss has shown it yet."""
    optim = SGD_JOB.model_copy(update={"lr": 1e38, "batch_size": 270, "epochs": 1})
    run = Run(digits, optim, build=lambda: nn.Sequential(small_cnn(), Loud()), objective=Natural(method="natural"))
    with pytest.raises(NonFiniteLoss, match=r"the weights are no longer finite after epoch 1 .*lower optim\.lr"):
        list(run.reports())

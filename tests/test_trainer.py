"""distrib.trainer: resumed equals never stopped, two ranks equal one process, and a nan stops them all.

Run as a script, this file is one rank: ``test_trainer.py RANK SIZE ROOM DIGITS`` (see :func:`rank_main`). Ranks are
processes that meet through a file in ROOM over gloo on the loopback interface, and write what they found to ROOM.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import distrib
from distrib import trainer
from distrib.attack import PGD, Adversary, OfEpsilon
from distrib.checkpoints import load_checkpoint, save_checkpoint
from distrib.data.augment import Augment
from distrib.data.beton import open_split
from distrib.data.loader import Batch, TrainLoader, open_reader
from distrib.data.order import Portion
from distrib.errors import NonFiniteLoss
from distrib.models import SmallCNN
from distrib.models.batch_norm import Statistics
from distrib.objective import Madry, Natural, Objective, Trades
from distrib.optim import SGD, Adam, Cosine, Optimiser
from distrib.state import State
from distrib.threat import L2, Linf
from distrib.trainer import EpochEnd, Progress, ValidationSet, epochs
from distrib.world import World, current

SECONDS = 120
"""What a group of ranks may take; a hung one is ended then."""

TOLERANCE = 1e-4
"""On weights and losses after three epochs, in which the weights move by 0.2: ranks add the same float32 numbers up in
another order. Measured: 5e-8 with SGD, 3e-6 with Adam, which divides by small numbers. (The threat is L2: under Linf
the sign of a gradient near zero would turn on such a rounding.)"""

TIMES = {"images_per_second", "data_wait_share", "train_seconds", "validation_seconds"}
SGD_JOB = SGD(name="sgd", lr=0.1, epochs=3, batch_size=32, weight_decay=1e-3)
ADAM_JOB = Adam(name="adam", lr=0.01, epochs=3, batch_size=32, schedule=Cosine(shape="cosine"), ema=0.9)
QUARTER = OfEpsilon(of_epsilon=0.25)
MADRY = Madry(
    method="madry", threat=L2(epsilon=0.5), attack=PGD(num_steps=2, step_size=QUARTER), epsilon_warmup_epochs=1
)
QUICK = Adversary(Linf(epsilon=0.1), PGD(num_steps=2, step_size=QUARTER))


def small_cnn() -> nn.Module:
    return SmallCNN(width=0.25).build((1, 8, 8), 10, [0.3], [0.4])


def with_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    )


@dataclasses.dataclass
class Run:
    """One training run on prepared digits, as cluster/train.py puts it together."""

    folder: Path
    optim: Optimiser
    world: World = dataclasses.field(default_factory=World)
    objective: Objective = MADRY
    build: object = small_cnn
    augment: Augment = dataclasses.field(default_factory=lambda: Augment(crop_padding=1, flip=True))
    mixed: Sequence[Portion] = ()
    batch_norm: Statistics = "synchronised"

    def __post_init__(self):
        train = open_split(self.folder, "train", "training")
        held_out = open_split(self.folder, "validation", "training")
        reader = open_reader(train, "memory")
        own = train.card.count - sum(part.count for part in self.mixed)
        self.loader = TrainLoader(reader, own, 7, self.optim.batch_size, self.augment, self.world, self.mixed)
        self.validation = ValidationSet(open_reader(held_out, "memory"), np.arange(held_out.card.count), QUICK, 7)
        torch.manual_seed(7)
        self.state = State(self.build(), self.optim, self.loader.steps, self.world, batch_norm=self.batch_norm)

    def reports(self) -> Iterator[Progress | EpochEnd]:
        return epochs(self.state, self.loader, self.objective, 7, self.validation)

    def history(self) -> list[dict]:
        """The metrics of each epoch from here to the end, without those of time."""
        ends = [report for report in self.reports() if isinstance(report, EpochEnd)]
        return [{key: value for key, value in end.metrics.items() if key not in TIMES} for end in ends]


def tensors_of(state: State) -> dict[str, Tensor]:
    found = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    if state.average is not None:
        found |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    return {name: tensor.clone() for name, tensor in found.items()}


# One process


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


class Poisoned:
    """A loader whose images are nan in the third batch of every epoch, on one rank."""

    def __init__(self, loader: TrainLoader, rank: int):
        self.loader, self.rank = loader, rank
        self.steps, self.batch_size = loader.steps, loader.batch_size

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for number, batch in enumerate(self.loader.epoch(epoch)):
            poison = number == 2 and self.loader.world.rank == self.rank
            yield batch._replace(x=batch.x * float("nan")) if poison else batch


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


# Two ranks


SCENARIOS = {
    "even": {"optim": SGD_JOB},
    "uneven": {"optim": SGD_JOB.model_copy(update={"batch_size": 33, "ema": 0.9})},  # 16 + 17
    "trades": {"optim": ADAM_JOB, "objective": Trades(method="trades", threat=MADRY.threat, attack=MADRY.attack)},
    "in parts, uneven": {"optim": SGD_JOB.model_copy(update={"batch_size": 33, "accumulate": 3, "awp_gamma": 0.01})},
    "batch norm": {"optim": SGD_JOB, "build": with_batch_norm},
    "batch norm, uneven": {"optim": SGD_JOB.model_copy(update={"batch_size": 33}), "build": with_batch_norm},
    "batch norm, weights at their worst": {
        "optim": SGD_JOB.model_copy(update={"awp_gamma": 0.01}),
        "build": with_batch_norm,
    },
    "batch norm, local": {"optim": SGD_JOB, "build": with_batch_norm, "batch_norm": "local"},
    "batch norm, local, hardly moving": {
        "optim": SGD_JOB.model_copy(update={"lr": 1e-9}),
        "build": with_batch_norm,
        "batch_norm": "local",
        "objective": Natural(method="natural"),
    },
    "poisoned": {"optim": SGD_JOB},
}


def rank_main(rank: int, size: int, room: Path, digits: Path) -> None:
    """One rank: runs every scenario in turn and saves what it found to ``ROOM/SCENARIO-RANK.pt``."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{room / 'meet'}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    world = current(torch.device("cpu"))
    assert (world.rank, world.size) == (rank, size)
    for name, fields in SCENARIOS.items():
        run = Run(digits, world=world, **fields)
        before = run.validation.accuracy(run.state.model, world)
        error, history = "", []
        if name == "poisoned":
            run.loader = Poisoned(run.loader, rank=1)
        try:
            history = run.history()
        except NonFiniteLoss as caught:
            error = str(caught)
        found = {"history": history, "tensors": tensors_of(run.state), "step": run.state.step, "error": error}
        torch.save(found | {"before": before}, room / f"{name}-{rank}.pt")
        world.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[str, list[dict]]:
    """What each of two ranks found, by scenario."""
    room = tmp_path_factory.mktemp("ranks")
    package = str(Path(distrib.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": package, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    outputs = [(room / f"output-{rank}").open("wb+") for rank in (0, 1)]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), "2", str(room), str(digits)],
            env=environment,
            stdout=output,
            stderr=output,
        )
        for rank, output in enumerate(outputs)
    ]
    try:
        for rank, process in enumerate(ranks):
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                status = "timed out"
            said = (room / f"output-{rank}").read_text(errors="replace")[-3000:]
            assert status == 0, f"rank {rank}: {status}\n{said}"
    finally:
        for process, output in zip(ranks, outputs, strict=True):
            process.kill()
            process.wait()
            output.close()
    return {name: [torch.load(room / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)] for name in SCENARIOS}


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "poisoned" and "local" not in name])
def test_two_ranks_train_as_one_process_does(digits: Path, two_ranks: dict[str, list[dict]], scenario: str):
    alone = Run(digits, **SCENARIOS[scenario])
    history, expected = alone.history(), tensors_of(alone.state)
    for rank in two_ranks[scenario]:
        assert rank["error"] == "" and rank["step"] == alone.state.step
        losses = [metrics["train_loss"] for metrics in rank["history"]]
        assert losses == pytest.approx([metrics["train_loss"] for metrics in history], abs=TOLERANCE)
        assert rank["tensors"].keys() == expected.keys()
        for name, tensor in rank["tensors"].items():
            torch.testing.assert_close(tensor, expected[name], rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    start = Run(digits, **SCENARIOS[scenario])
    moved = max((expected[name] - tensor).abs().max().item() for name, tensor in tensors_of(start.state).items())
    assert moved > 1000 * TOLERANCE, "the weights hardly moved: the test would say nothing"


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "poisoned"])
def test_both_ranks_end_with_the_same_state_bit_for_bit(two_ranks: dict[str, list[dict]], scenario: str):
    """BatchNorm's running statistics too: the attack, and what is saved, would else depend on the rank."""
    first, second = two_ranks[scenario]
    assert first["history"] == second["history"] and len(first["history"]) == 3
    for name, tensor in first["tensors"].items():
        assert torch.equal(tensor, second["tensors"][name]), name
    if scenario.startswith("batch norm"):
        assert first["tensors"]["model.1.running_mean"].abs().max() > 0.01
        assert first["tensors"]["model.1.num_batches_tracked"] == first["step"]


def test_running_means_are_those_of_the_whole_batch(digits: Path, two_ranks: dict[str, list[dict]]):
    """The mean of two equal parts' means. (Of variances that is true but for what lies between the parts.)"""
    alone = Run(digits, **SCENARIOS["batch norm, local, hardly moving"])
    alone.history()
    mean, variance = alone.state.running
    for rank in two_ranks["batch norm, local, hardly moving"]:
        torch.testing.assert_close(rank["tensors"]["model.1.running_mean"], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rank["tensors"]["model.1.running_var"], variance, rtol=0.1, atol=0)
    assert mean.abs().max() > 0.01


def test_validation_over_two_ranks_counts_each_image_once(digits: Path, two_ranks: dict[str, list[dict]]):
    run = Run(digits, **SCENARIOS["even"])
    count = len(run.validation.indices)
    alone = run.validation.accuracy(run.state.model, World())
    for rank in two_ranks["even"]:
        # the hits are whole images; one of them may lie on the border, where rounding decides
        assert rank["before"] == pytest.approx(alone, abs=1.01 / count)
        assert all((share * count) % 1 == pytest.approx(0, abs=1e-6) for share in rank["before"])


def test_a_nan_on_one_rank_stops_both_before_anything_moves(digits: Path, two_ranks: dict[str, list[dict]]):
    first, second = two_ranks["poisoned"]
    for rank in (first, second):
        assert "step 2 " in rank["error"] and "learning rate 0.1" in rank["error"]
        assert rank["step"] == 2 and rank["history"] == []
    for name, tensor in first["tensors"].items():
        assert tensor.isfinite().all() and torch.equal(tensor, second["tensors"][name]), name


if __name__ == "__main__":
    rank_main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    os._exit(0)  # all is done and saved; a rank was once seen to abort in torch's own threads on its way out

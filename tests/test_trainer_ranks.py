"""distrib.trainer on two ranks: they train what one process does, and a nan on one stops both.

Run as a script, this file is one rank: ``test_trainer_ranks.py RANK SIZE ROOM DIGITS`` (see :func:`rank_main`). Ranks
are processes that meet through a file in ROOM over gloo on the loopback interface, and write what they found to ROOM.
"""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import training_runs
from training_runs import ADAM_JOB, MADRY, SGD_JOB, Poisoned, Run, tensors_of, with_batch_norm

import distrib
from distrib.errors import NonFiniteLoss
from distrib.objective import Natural, Trades
from distrib.world import World, current

SECONDS = 120
"""What a group of ranks may take; a hung one is ended then."""

TOLERANCE = 1e-4
"""On weights and losses after three epochs, in which the weights move by 0.2: ranks add the same float32 numbers up in
another order. Measured: 5e-8 with SGD, 3e-6 with Adam, which divides by small numbers. (The threat is L2: under Linf
the sign of a gradient near zero would turn on such a rounding.)"""

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
    paths = os.pathsep.join(
        str(path) for path in (Path(distrib.__file__).parents[1], Path(training_runs.__file__).parent)
    )
    environment = os.environ | {"PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
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

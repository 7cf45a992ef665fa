"""make bench: every section runs at its toy size, and figures of one round are compared with each other."""

import os
import sys
from pathlib import Path

import pytest
import torch

from distrib import checkpoints
from distrib.commands.prepare import prepared
from distrib.config.file import parse
from distrib.tracking.display import Display

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The benchmarks, without the libraries that they compare with: a test knows nothing of what is installed here."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.bench import peers

    monkeypatch.setattr(peers, "FOLDER", tmp_path)


def told(capsys: pytest.CaptureFixture, *words: str) -> list[list[str]]:
    """The rows of all tables that the command prints."""
    from benchmarks.bench.__main__ import main

    status, text = main([*words, "--quick"]), capsys.readouterr().out
    assert status == 0, text
    assert f"torch {torch.__version__}" in text.splitlines()[0], "the machine"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_the_step_is_measured_against_the_textbook_and_what_is_left_out_is_said(capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [one for one in sys.path if not one.endswith(".peers")])
    header, _, *rows = told(capsys, "step")
    assert header == ["step", "images/s, median", "best", "times the fastest peer"]
    assert [row[0].split(",")[0] for row in rows][:2] == ["textbook", "distrib"] and rows[0][3] == "the fastest peer"
    assert all(float(row[2].replace(",", "")) >= float(row[1].replace(",", "")) > 0 for row in rows)

    from benchmarks.bench import peers

    assert all(name in peers.missing() for name in ("torchattacks", "foolbox", "art", "tools/bench-setup"))


def test_the_textbook_reaches_the_edge_of_the_ball(monkeypatch):
    from benchmarks.bench import peers
    from benchmarks.bench.cases import TOY

    batch, model = TOY[0].batch(), TOY[0].model()
    x_adv = peers.textbook(TOY[0], model)(batch.x, batch.y)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (x_adv - batch.x).abs().max().item() == pytest.approx(TOY[0].epsilon, rel=1e-5)
    monkeypatch.setitem(peers.PEERS, "idle", lambda case, model: lambda x, y: x)
    with pytest.raises(AssertionError, match=r"idle went 0.0 from the images"):
        peers.step_of("idle", TOY[0])


def test_the_share_of_the_ceiling_counts_every_pass(capsys, monkeypatch):
    """num_steps + 1 passes forward and back to the images; the last also to the weights, and not to the images."""
    from benchmarks.bench import ceiling
    from benchmarks.bench.cases import TOY

    case, found = TOY[0], ceiling.convolutions(TOY[0])
    assert [tuple(one.shape) for one in found] == [(4, 1, 12, 12), (4, 16, 6, 6)]
    sides, first, layers = (6, 3), 16 * 16 * 36, (32 * 9, 100)
    convolved = sum(side**2 * one.layer.weight.numel() for side, one in zip(sides, found, strict=True))
    forward = 2 * case.batch_size * (convolved + layers[0] * layers[1] + layers[1] * 10)
    flops = 2 * case.num_steps * forward + 3 * forward - 2 * case.batch_size * first
    assert ceiling.flops_of_step(case) == flops < ceiling.flops_of(ceiling._step(case, "float32"))

    times, rates = ceiling._measured(case, found, "float32", 2)
    assert len(times) == len(rates) == 2 and min(*times, *rates) > 0
    monkeypatch.setattr(ceiling, "_measured", lambda *given: ([0.5, 0.25], [flops / 0.125] * 2))
    header, _, *rows = told(capsys, "ceiling")
    assert header[-1] == "share" and rows and all(row[-1] == "38 (25 to 50) %" for row in rows)


def test_works_take_turns_and_every_other_round_is_backwards():
    from benchmarks.bench.rounds import alternate

    calls = []
    found = alternate({name: lambda name=name: calls.append(name) for name in "abc"}, 2)
    assert "".join(calls) == "abc" + "abc" + "cba", "the first is to warm up"
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_spread_is_the_median_and_both_ends():
    from benchmarks.bench.report import spread

    assert spread([3.0, 1.0, 2.5]) == "2.50 (1.00 to 3.00)" and spread([2.0]) == "2.00"


def test_an_unknown_section_is_refused_with_the_choices(capsys):
    from benchmarks.bench.__main__ import main

    with pytest.raises(SystemExit):
        main(["steps"])
    assert "there is no section 'steps'; choose from step" in capsys.readouterr().err


def test_a_section_that_fails_does_not_cost_the_others(capsys, monkeypatch):
    from benchmarks.bench import __main__ as bench

    def broken(options):
        raise OSError("no room")

    monkeypatch.setattr("benchmarks.bench.step.measure", broken)
    assert bench.main(["step", "--quick"]) == 1
    assert "step failed: OSError: no room" in capsys.readouterr().out


def ran(tmp_path: Path, rate: float = 100.0) -> "object":
    """A run of three epochs, as its records would tell it."""
    from benchmarks.bench.runs import Ran

    history = [{"train_seconds": 2.0, "images_per_second": rate} for _ in range(3)]
    timings = {"prepare": 1.0, "ray_start": 4.0, "mlflow_start": 2.0, "workers_start": 10.0, "first_step": 15.0}
    timings |= {"train": 30.0, "evaluate": 20.0, "register": 3.0}
    return Ran({"seconds": 61.5, "timings": timings}, 70.0, history, [10.0, 12.5, 15.5])


def test_an_epoch_of_a_run_is_from_checkpoint_to_checkpoint_and_of_a_loop_from_end_to_end(tmp_path: Path):
    from benchmarks.bench.loops import built
    from benchmarks.bench.overhead import bare
    from benchmarks.bench.runs import Ran, epochs, training

    job = parse(training(tmp_path, "short", quick=True), [], "the job").resolved()
    data = prepared(job, Display())
    times = bare(job, data)
    assert len(times.steps) == len(times.whole) == 2, "of three epochs the first is left out"
    assert all(0 < steps < whole for steps, whole in zip(times.steps, times.whole, strict=True))

    state, _, _ = built(job, data)
    for epoch in (1, 2):
        folder = checkpoints.folder_for(tmp_path / "trained", epoch)
        checkpoints.save_checkpoint(state, folder, [{"train_seconds": 1.0}] * epoch, {}, "a digest")
        os.utime(folder / "state.json", (0, 7 + 3 * epoch))
    history, ends = epochs(tmp_path / "trained")
    assert (history, ends) == ([{"train_seconds": 1.0}] * 2, [10.0, 13.0])
    assert Ran({}, 0, history, ends).epoch_seconds == [3.0]


def test_a_job_that_fails_is_told_in_its_own_words(tmp_path: Path):
    from benchmarks.bench.runs import run

    with pytest.raises(RuntimeError, match="kind"):
        run({"kind": "trian", "name": "wrong"}, tmp_path)


def test_the_overhead_is_over_the_bare_loop_before_and_after(capsys, monkeypatch, tmp_path: Path):
    from benchmarks.bench import overhead

    jobs, loops = [], [overhead.Times([1.6, 1.6], [2.5, 2.5]), overhead.Times([2.0, 2.0], [2.5, 2.5])]
    monkeypatch.setattr(overhead, "run", lambda job, folder: jobs.append(job) or ran(tmp_path))
    monkeypatch.setattr(overhead, "bare", lambda job, data: loops.pop(0))
    header, _, *rows = told(capsys, "overhead")
    assert header[1:] == ["steps", "with validation and records"] and jobs[0]["cluster"]["num_workers"] == 1
    assert [row[0] for row in rows] == ["bare loop, before", "distrib run", "bare loop, after", "overhead"]
    assert rows[1][1:] == ["2.00 (2.00 to 2.00)", "2.75 (2.50 to 3.00)"]
    assert rows[3][1:] == ["+11.1 % (+0.0 to +25.0)", "+10.0 % (+10.0 to +10.0)"]


def test_two_workers_are_compared_with_one(capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(
        "benchmarks.bench.workers.run",
        lambda job, folder: ran(tmp_path, 100.0 * 0.9 ** (job["cluster"]["num_workers"])),
    )
    _, _, *rows = told(capsys, "workers")
    assert [row[2] for row in rows] == ["1", "0.90 (0.90 to 0.90)"]


def test_the_parts_of_the_start_add_up(capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("benchmarks.bench.startup.run", lambda *given: ran(tmp_path))
    rows = {row[0]: row[1] for row in told(capsys, "startup")}
    assert rows["imports, and the end of the process"] == "8.5" and rows["none of these"] == "1.5"
    assert rows["**to the first step**"] == "30.5" and rows["**the whole command**"] == "70.0"
    assert list(rows).index("- first step") == list(rows).index("train") + 2
    assert float(rows["distrib.cli.main"]) > 0


def test_the_loader_is_measured_alone_and_in_training(capsys):
    header, _, *rows = told(capsys, "loader")
    assert header[2:] == ["images/s alone", "waiting in training"] and [row[0] for row in rows] == ["memory", "memory"]
    assert all(float(row[2].replace(",", "")) > 0 and 0 <= float(row[3].split()[0]) < 100 for row in rows)


def test_outcomes_other_than_the_packages_are_counted(capsys, monkeypatch):
    from benchmarks.bench import evaluation

    found = []
    package = evaluation._package
    monkeypatch.setattr(evaluation, "_package", lambda *given: found.append(package(*given)) or found[0])

    def command(job: dict, folder: Path) -> evaluation.Judged:
        other = min(found[0].stood) if job["name"] == "sharded" else None
        stood = {index: 1 - one if index == other else one for index, one in found[0].stood.items()}
        return evaluation.Judged(2 * found[0].attack, 60.0, stood)

    monkeypatch.setattr(evaluation, "_command", command)
    _, _, *rows = told(capsys, "evaluation")
    assert [(row[0], row[2], row[5]) for row in rows] == [
        ("package", "1.00", "0"), ("one shard", "2.00", "0"), ("sharded", "2.00", "1"),
    ]  # fmt: skip
    assert all(row[4].endswith(" of 20") for row in rows)


def test_one_rank_computes_the_same_in_either_format(tmp_path: Path):
    from benchmarks.bench.runs import training
    from benchmarks.rounding import rank_main

    job, threads = parse(training(tmp_path, "short", quick=True), [], "the job"), torch.get_num_threads()
    data = prepared(job, Display())
    try:
        for dtype in ("float32", "float64"):
            rank_main(0, 1, str(tmp_path), job, data, dtype, 2)
    finally:
        torch.set_num_threads(threads)
    found = [torch.load(tmp_path / f"{dtype}-1.pt", weights_only=True) for dtype in ("float32", "float64")]
    assert [len(one["losses"]) for one in found] == [2, 2] and list(found[0]["weights"]) == list(found[1]["weights"])
    assert found[0]["losses"] == pytest.approx(found[1]["losses"], rel=1e-3)

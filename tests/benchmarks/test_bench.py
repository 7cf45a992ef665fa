"""make bench: every section runs at its toy size, and figures of one round are compared with each other."""

import sys
from pathlib import Path

import pytest
import torch

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
    assert ceiling.flops_of(ceiling._step(case, "float32")) == flops

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

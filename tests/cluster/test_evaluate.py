"""An evaluation's rounds, in this process and without Ray: what is attacked, what is kept, what is done again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.cluster import evaluate as rounds
from distrib.cluster.evaluate import EvaluationTask, kept_files
from distrib.config.cluster import Cluster
from distrib.evaluation.attacks import EvaluationPlan, Fgsm, Pgd
from distrib.evaluation.models import Weights
from distrib.evaluation.result import Result, conclude
from distrib.threat import Linf

SUITE = EvaluationPlan(
    threat=Linf(epsilon=0.02), attacks=(Fgsm(attack="fgsm"), Pgd(attack="pgd", num_steps=5)), n=20, shard_size=10
)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that were done, in this process, by name."""
    names: list[str] = []

    def map_tasks(function: Callable, shared: object, items: Iterator[tuple], *others: object) -> Iterator[tuple]:
        for item in items:
            names.append(function.__name__)
            yield item, function(shared, *item)

    monkeypatch.setattr(rounds, "map_tasks", map_tasks)
    return names


def judged(task: EvaluationTask, kept: Path) -> Result:
    found = rounds.in_rounds(task, kept, "key", Cluster(), lambda *told: None)
    assert {file.read_bytes() for file in found.files} == {file.read_bytes() for file in images(kept)}
    return conclude(found.evidence).model_copy(update={"attack_seconds": {}})  # the clock's alone


def images(kept: Path) -> list[Path]:
    """The worst images of an evaluation's shards."""
    return [file.with_suffix(".safetensors") for file in sorted(kept_files(kept, "key"))]


@dataclass(frozen=True)
class Given:
    """A model that needs no file."""

    def load(self, device: torch.device) -> nn.Module:
        return Decision10()


class Decision10(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return 5 * F.one_hot(((flat - 0.3) @ self.weight.T).argmax(dim=1), 10) + 1e-3 * flat @ self.weight.roll(1, 0).T


def test_an_evaluation_tries_harder_where_a_probe_was_set_off_and_keeps_what_it_found(
    digits: Path, tmp_path: Path, done: list[str]
):
    """Figures and files are those of the harder round; what is kept is not done again."""
    task = EvaluationTask(Given(), digits, "memory", SUITE, 1, False)
    result = judged(task, tmp_path)
    assert done == ["judge_shard"] * 2 + ["judge_harder"] * 2 + ["score_again"] * 2
    assert "gradient-estimate" in result.attacks and result.n == 20
    assert all("harder" in file.name for file in images(tmp_path))
    done.clear()
    assert judged(task, tmp_path) == result and done == ["score_again"] * 2


def cut_short(file: Path) -> None:
    file.write_bytes(b"x" * 100)


def test_every_attack_has_the_quick_gradient(
    digits: Path, weights: Weights, tmp_path: Path, done: list[str], quick_gradients: list[str]
):
    plain = SUITE.model_copy(update={"attacks": (Fgsm(attack="fgsm"),)})
    rounds.judge_shard(EvaluationTask(weights, digits, "memory", plain, 1, False), 0)
    once = len(quick_gradients)
    rounds.judge_shard(EvaluationTask(weights, digits, "memory", SUITE, 1, False), 0)
    assert len(quick_gradients) - once >= once + 5, "FGSM and the probes again, and the steps of PGD"


@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_shard_whose_files_are_damaged_or_gone_is_judged_again(
    digits: Path, weights: Weights, tmp_path: Path, done: list[str], damage: Callable[[Path], None], suffix: str
):
    """The stored images are what is believed: without them a shard is not done."""
    task = EvaluationTask(weights, digits, "memory", SUITE, 1, False)
    result, before = judged(task, tmp_path), {file: file.read_bytes() for file in images(tmp_path)}
    assert done == ["judge_shard"] * 2 + ["score_again"] * 2 and len(before) == 2
    done.clear()
    damage(images(tmp_path)[0].with_suffix(suffix))
    assert judged(task, tmp_path) == result and done == ["judge_shard"] + ["score_again"] * 2
    assert {file: file.read_bytes() for file in images(tmp_path)} == before


def test_the_files_of_an_evaluation_are_those_of_its_last_round(tmp_path: Path):
    for name in ("k-0000000.json", "k-0000250.json", "k-0000000.safetensors", "other-0000000.json"):
        (tmp_path / name).touch()
    assert sorted(path.name for path in kept_files(tmp_path, "k")) == ["k-0000000.json", "k-0000250.json"]
    for name in ("k-0000000-harder.json", "k-0000250-harder.json"):
        (tmp_path / name).touch()
    found = sorted(path.name for path in kept_files(tmp_path, "k"))
    assert found == ["k-0000000-harder.json", "k-0000250-harder.json"]

"""What a CPU computes in hardware, and what it only imitates; where TF32 takes the place of float32."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from states import small_cnn, with_norms
from torch import Tensor, nn

from distrib import precision
from distrib.attack import PGD, Adversary
from distrib.data.beton import open_split
from distrib.data.loader import Batch, open_reader
from distrib.evaluation.attacks import Evaluation
from distrib.evaluation.shard import attack_shard, score_images
from distrib.noise import Noise
from distrib.processor import computes
from distrib.studies.task import study_part
from distrib.threat import Linf
from distrib.trainer import ValidationSet
from distrib.world import World


@pytest.mark.parametrize(
    ("flags", "number", "has"),
    [
        ("flags : fpu avx512f avx512_bf16", "bfloat16", True),
        ("flags : fpu avx512f", "bfloat16", False),
        ("flags : fpu avx512f avx512_bf16", "float16", False),
        ("flags : amx_bf16 amx_fp16", "float16", True),
        ("Features : fp asimd asimdhp bf16", "bfloat16", True),
    ],
)
def test_the_flags_of_linux(tmp_path: Path, flags: str, number, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert computes(number, tmp_path / "cpuinfo") is has


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert computes("bfloat16", tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("number", "device", "has", "slow"),
    [
        ("bfloat16", "cpu", False, True),
        ("bfloat16", "cpu", True, False),
        ("bfloat16", "cpu", None, False),
        ("bfloat16", "cuda", False, False),
        ("float32", "cpu", False, False),
    ],
)
def test_emulated(monkeypatch: pytest.MonkeyPatch, number, device: str, has: bool | None, slow: bool) -> None:
    monkeypatch.setattr(precision, "computes", lambda asked: has)
    assert precision.emulated(number, torch.device(device)) is slow


@pytest.mark.parametrize("number", ["bfloat16", "float16"])
@pytest.mark.parametrize("build", [small_cnn, with_norms])
def test_the_rounded_network_gives_what_autocast_gives_to_the_last_bit(build: Callable[[], nn.Module], number):
    """Also after weights and statistics have moved; and it is the other network's own where nothing is rounded."""
    torch.manual_seed(0)
    model = build()
    rounded = precision.Rounded(model, number)
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    with torch.no_grad():
        model(x)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    adversary, before = (
        Adversary(Linf(epsilon=0.1), PGD(num_steps=3)),
        [one.clone() for one in model.state_dict().values()],
    )
    with precision.forward_in(number, torch.device("cpu")):
        exact, fast = (adversary.perturb(one, x, y, Noise.of(y, 0, "attack")) for one in (model, rounded.now()))
    assert torch.equal(exact, fast) and not torch.equal(exact, x)
    assert {one.dtype for one in rounded.rounded} == {getattr(torch, number)}
    assert all(torch.equal(one, other) for one, other in zip(before, model.state_dict().values(), strict=True))
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert all(id(one) in own or one.dtype == getattr(torch, number) for one in rounded.model.parameters())
    assert all(id(buffer) in own for buffer in rounded.model.buffers())


class Ranks(World):
    """Three ranks, of which so many others have bfloat16 in hardware."""

    def sum(self, values: Tensor) -> Tensor:
        return values + self.rank


@pytest.mark.parametrize(
    ("has", "others", "device", "expected"),
    [
        (True, 2, "cpu", "bfloat16"),
        (True, 1, "cpu", "float32"),
        (False, 2, "cpu", "float32"),
        (None, 2, "cpu", "float32"),
    ],
)
def test_auto_is_bfloat16_where_every_rank_computes_it(
    monkeypatch: pytest.MonkeyPatch, has: bool | None, others: int, device: str, expected: str
):
    monkeypatch.setattr(precision, "computes", lambda asked: has)
    world = Ranks(rank=others, size=3, device=torch.device(device))
    assert precision.format_of("auto", world) == expected
    assert precision.format_of("float16", world) == "float16", "what is named is taken"


# TF32: flags of the process, which a CPU keeps without obeying them


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[(False, True), (True, True), (False, False)], ids=["torch's", "all", "none"])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    """What the flags of matrix products and convolutions are before, and so should be after."""
    kept = flags()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


class Watching(nn.Module):
    """A linear model that remembers what the flags were at each call, forward and backward."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.seen: set[tuple[bool, bool]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(flags())
        logits = self.linear(x.flatten(1))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.seen.add(flags()))
        return logits


def test_validation_in_training_is_exact_and_training_goes_on_as_before(digits: Path, before: tuple[bool, bool]):
    held_out = open_split(digits, "validation", "training")
    validation = ValidationSet(
        open_reader(held_out, "memory"), np.arange(5), Adversary(Linf(epsilon=0.1), PGD(num_steps=2)), 0
    )
    model = Watching()
    validation.accuracy(model, World())
    assert model.seen == {(False, False)} and flags() == before


def test_the_evaluation_is_exact_and_leaves_the_process_as_it_was(before: tuple[bool, bool]):
    model, threat = Watching().requires_grad_(False), Linf(epsilon=0.1)
    suite = Evaluation(tier="quick").plan(threat, grey=True)
    batch = Batch(torch.rand(6, 1, 8, 8), torch.arange(6), torch.arange(6))
    _, worst = attack_shard(model, batch, np.arange(6), suite)
    assert model.seen == {(False, False)} and flags() == before
    score_images(model, batch.x, worst, batch.y, threat)
    assert model.seen == {(False, False)} and flags() == before


def test_every_part_of_a_study_is_exact(before: tuple[bool, bool]):
    seen = []

    class Study:
        def part(self, task: object, which: tuple) -> dict:
            seen.append(flags())
            raise LookupError

    with pytest.raises(LookupError):
        study_part((Study(), None), "robust", 0)  # pyright: ignore[reportArgumentType]
    assert seen == [(False, False)] and flags() == before


def test_what_was_set_comes_back_after_an_error(before: tuple[bool, bool]):
    with pytest.raises(LookupError), precision.exact_float32():
        raise LookupError
    assert flags() == before


@pytest.mark.parametrize(
    ("number", "device", "ampere", "words"),
    [
        ("float32", "cuda", True, "float32, convolutions in TF32"),
        ("float32", "cuda", False, "float32"),
        ("float32", "cpu", True, "float32"),
        ("bfloat16", "cuda", True, "bfloat16"),
    ],
)
def test_training_says_what_it_computes_in(
    monkeypatch: pytest.MonkeyPatch, before: tuple[bool, bool], number, device: str, ampere: bool, words: str
):
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: ampere)
    assert precision.begin_training(number, torch.device(device)) == words
    assert flags() == (False, True), "whatever they were"


def test_a_program_can_be_exported_after_the_flags_were_moved():
    """It cannot once one of torch's newer settings was touched."""
    with precision.exact_float32():
        pass
    precision.begin_training("float32", torch.device("cpu"))
    with torch.backends.cudnn.flags(enabled=False):  # as torch.export does
        pass

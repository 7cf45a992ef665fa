"""distrib.state: what is saved is what is loaded, damage is refused, and nothing moves before it may."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib import state as state_module
from distrib.config.file import read
from distrib.errors import CheckpointError, NonFiniteLoss
from distrib.files import file_sha256
from distrib.models import SmallCNN
from distrib.optim import SGD, Adam, Cosine, Optimiser
from distrib.state import Checkpoint, State, load_checkpoint, load_weights, save_checkpoint, verify

COMMON = {"epochs": 2, "batch_size": 8, "schedule": Cosine(shape="cosine"), "weight_decay": 0.01}
OPTIMISERS = {
    "sgd": SGD(name="sgd", lr=0.05, nesterov=True, **COMMON),
    "sgd without momentum": SGD(name="sgd", lr=0.05, momentum=0.0, **COMMON),
    "adam": Adam(name="adam", lr=0.01, **COMMON),
    "adamw, averaged": Adam(name="adamw", lr=0.01, ema=0.9, clip_norm=0.5, **COMMON),
}
HISTORY = [{"validation_robust_accuracy": 0.1 + 0.2, "train_loss": 1 / 3}]


def small_cnn() -> nn.Module:
    return SmallCNN(width=0.25).build((1, 8, 8), 10, [0.5], [0.3])


def with_norms() -> nn.Module:
    """BatchNorm, whose buffers move, and dropout, which draws from torch's own generator."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(256, 10)
    )


def new(optim: Optimiser = OPTIMISERS["sgd"], build: Callable[[], nn.Module] = small_cnn, seed: int = 0) -> State:
    torch.manual_seed(seed)
    return State(build(), optim, steps_per_epoch=5)


def train(state: State, steps: int) -> State:
    for _ in range(steps):
        draw = torch.Generator().manual_seed(state.step)  # the same batch at the same step, whoever trains
        x, y = torch.rand(8, 1, 8, 8, generator=draw), torch.randint(10, (8,), generator=draw)
        state.descend(F.cross_entropy(state.ddp(x), y))
    return state


def contents(state: State) -> dict[str, bytes]:
    """Every byte that training changes."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    for number, slots in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{slot}": value for slot, value in slots.items() if value is not None}
    tensors["random"] = torch.get_rng_state()
    plain = {name: str(tensor.dtype).encode() + tensor.detach().numpy().tobytes() for name, tensor in tensors.items()}
    groups = [{k: v for k, v in g.items() if k != "params"} for g in state.optimiser.param_groups]
    return plain | {"step": str(state.step).encode(), "groups": json.dumps(groups).encode()}


def stored(state: State, folder: Path) -> Checkpoint:
    return save_checkpoint(state, folder, 1, HISTORY, {"kind": "train"}, "digest")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# There and back


@pytest.mark.parametrize("build", [small_cnn, with_norms])
@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS)
def test_resumed_equals_never_stopped_bit_for_bit(tmp_path: Path, optim: Optimiser, build: Callable[[], nn.Module]):
    state = train(new(optim, build), 3)
    record = stored(state, tmp_path / "epoch-00001")
    at_three = contents(state)
    six = contents(train(state, 3))
    assert six != at_three

    again = new(optim, build, seed=99)
    assert contents(again) != at_three
    found = load_checkpoint(again, tmp_path / "epoch-00001")
    assert contents(again) == at_three
    assert found == record == verify(tmp_path / "epoch-00001")
    assert (found.step, found.epoch, found.history, found.job, found.job_digest) == (
        3, 1, HISTORY, {"kind": "train"}, "digest",
    )  # fmt: skip
    assert contents(train(again, 3)) == six


def test_what_is_stored_is_a_function_of_the_state(tmp_path: Path):
    state = train(new(OPTIMISERS["adamw, averaged"], with_norms), 2)
    stored(state, tmp_path / "a")
    again = new(OPTIMISERS["adamw, averaged"], with_norms, seed=1)
    load_checkpoint(again, tmp_path / "a")
    stored(again, tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_judged_weights_are_the_average_if_there_is_one(tmp_path: Path):
    for number, optim in enumerate(OPTIMISERS.values()):
        state = train(new(optim), 2)
        record = stored(state, tmp_path / str(number))
        model = small_cnn()
        load_weights(model, record.judged)
        expected = state.judged.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
        assert (state.judged is state.average) == (optim.ema is not None) == (record.judged.name[0] == "a")


# Damage


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x01
    path.write_bytes(content)


def edit(folder: Path, **fields: object) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


TENSORS = ["weights.safetensors", "average.safetensors", "optimiser.safetensors"]
DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{f"{name} missing": (name, lambda f, name=name: (f / name).unlink()) for name in [*TENSORS, "state.json"]},
    **{
        f"{name} cut short": (name, lambda f, name=name: (f / name).write_bytes((f / name).read_bytes()[:-1]))
        for name in [*TENSORS, "state.json"]
    },
    **{f"{name} empty": (name, lambda f, name=name: (f / name).write_bytes(b"")) for name in [*TENSORS, "state.json"]},
    **{
        f"{name} flipped at {place}": (name, lambda f, name=name, place=place: flip(f / name, place))
        for name in TENSORS
        for place in (0, 0.01, 0.5, 1)
    },
    "no JSON": ("state.json", lambda f: (f / "state.json").write_text("{not json")),
    "no UTF-8": ("state.json", lambda f: (f / "state.json").write_bytes(b'{"format": "\xff\xfe"}')),
    "a list": ("state.json", lambda f: (f / "state.json").write_text("[1, 2]")),
    "a number": ("state.json", lambda f: (f / "state.json").write_text("1")),
    "no keys": ("state.json", lambda f: (f / "state.json").write_text('{"format": 1}')),
    "other hashes": ("state.json", lambda f: edit(f, sha256=["a"])),
    "seal missing": ("state.json", lambda f: (f / "state.json.sha256").unlink()),
    "seal empty": ("state.json", lambda f: (f / "state.json.sha256").write_bytes(b"")),
    "seal flipped": ("state.json", lambda f: flip(f / "state.json.sha256", 0.5)),
    "seal no UTF-8": ("state.json", lambda f: (f / "state.json.sha256").write_bytes(b"\xff\xfe")),
    "another step": ("state.json", lambda f: edit(f, step=1000)),
    "no hashes": ("state.json", lambda f: edit(f, sha256={})),
    "a folder in place of a file": (
        "weights.safetensors",
        lambda f: ((f / "weights.safetensors").unlink(), (f / "weights.safetensors").mkdir()),
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint with an average; to be copied."""
    folder = tmp_path_factory.mktemp("state") / "epoch-00001"
    stored(train(new(OPTIMISERS["adamw, averaged"]), 2), folder)
    return folder


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_by_the_files_name(tmp_path: Path, whole: Path, name: str, damage: Callable[[Path], object]):
    folder = shutil.copytree(whole, tmp_path / "epoch-00001")
    verify(folder)
    damage(folder)
    state = new(OPTIMISERS["adamw, averaged"])
    before = contents(state)
    for use in (verify, lambda folder: load_checkpoint(state, folder)):
        with pytest.raises(CheckpointError) as raised:
            use(folder)
        assert str(folder / name) in str(raised.value)
        assert "delete" in str(raised.value)  # the cure
    assert contents(state) == before


def test_no_flipped_bit_of_the_record_goes_unnoticed(tmp_path: Path, whole: Path):
    """A step, an accuracy or an optimiser's number that is off by one digit would change the run in silence."""
    folder = shutil.copytree(whole, tmp_path / "epoch-00001")
    path = folder / "state.json"
    good = path.read_bytes()
    unnoticed = []
    for place in range(0, len(good), 5):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x01]) + good[place + 1 :])
        try:
            verify(folder)
        except CheckpointError as error:
            assert str(folder) in str(error)
        else:
            if json.loads(path.read_bytes()) != json.loads(good):  # what differs in spelling alone may pass
                unnoticed.append(good[max(0, place - 30) : place + 1].decode())
    assert not unnoticed, f"{len(unnoticed)} of {len(good) // 5}, such as the last character of {unnoticed[:3]}"


def test_another_format_is_refused_by_its_number(tmp_path: Path, whole: Path):
    folder = shutil.copytree(whole, tmp_path / "epoch-00001")
    edit(folder, format=99)
    (folder / "state.json.sha256").write_text(file_sha256(folder / "state.json"))  # written so, not damaged
    with pytest.raises(CheckpointError, match=r"format 99.* reads 1"):
        verify(folder)


def test_weights_of_another_model_are_refused_and_nothing_is_loaded(tmp_path: Path):
    folder = tmp_path / "epoch-00001"
    stored(train(new(), 1), folder)
    for build in (
        lambda: SmallCNN(width=0.5).build((1, 8, 8), 10, [0.5], [0.3]),  # the same names, other shapes
        lambda: SmallCNN(width=0.25).build((1, 8, 8), 7, [0.5], [0.3]),
        with_norms,  # other names
    ):
        other = new(build=build)
        before = contents(other)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors: these weights are of another model"):
            load_checkpoint(other, folder)
        assert contents(other) == before


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path):
    for content in (b"", b"PK\x03\x04 a zip", b"\xff" * 64):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
            load_weights(small_cnn(), path)
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        load_weights(small_cnn(), tmp_path / "gone.safetensors")


# Interruptions


class Stop(OSError):
    """The disk is full, or the like."""


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("place", ["os.rename", "save_file", "json.dumps", "os.fsync"])
def test_an_interrupted_save_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int
):
    folder = tmp_path / "epoch-00001"
    old = stored(train(new(), 1), folder)
    before = bytes_of(folder)
    module, _, name = place.rpartition(".")
    owner = getattr(state_module, module) if module else state_module
    real, calls = getattr(owner, name), []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise Stop("interrupted")
        return real(*args, **kwargs)

    later = train(new(), 2)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        try:
            new_one = stored(later, folder)
        except Stop:
            assert bytes_of(folder) == before and verify(folder) == old
        else:
            assert len(calls) < call and verify(folder) == new_one != old
    assert stored(later, folder).step == 2  # what was left behind is not in the way
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00001"]


def test_an_interrupted_first_save_leaves_nothing_that_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise Stop("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(state_module.os, "rename", fail)
        with pytest.raises(Stop):
            stored(new(), tmp_path / "epoch-00001")
    assert not list(tmp_path.glob("epoch-*"))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["weight", "running statistic", "average"])
def test_weights_that_are_not_finite_are_not_stored(tmp_path: Path, place: str, wrong: float):
    state = train(new(OPTIMISERS["adamw, averaged"], with_norms), 1)
    assert state.average is not None
    module = state.average if place == "average" else state.model
    tensor = (
        dict(module.named_buffers())["1.running_var"] if place == "running statistic" else next(module.parameters())
    )
    with torch.no_grad():
        tensor.view(-1)[0] = wrong
    with pytest.raises(NonFiniteLoss, match=r"epoch-00001: not written: the weights are no longer finite"):
        stored(state, tmp_path / "epoch-00001")
    assert not list(tmp_path.iterdir())


# One step


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_loss_that_is_not_finite_moves_nothing(optim: Optimiser, wrong: float):
    state = train(new(optim), 2)
    before = contents(state)
    with pytest.raises(NonFiniteLoss) as raised:
        state.descend(state.ddp(torch.ones(8, 1, 8, 8)).square().mean() * wrong)
    assert "step 2 " in str(raised.value)
    assert f"learning rate {optim.lr_at(2, 5):.3g}" in str(raised.value)
    after = contents(state)
    assert {name for name in before if before[name] != after[name]} <= {"groups"}  # which hold the learning rate
    assert contents(train(state, 1)) != before  # it can go on


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_the_loss_itself_counts_even_where_its_gradient_is_finite(wrong: float):
    """Cross-entropy on a logit of -inf is inf, and its gradient is -1."""
    state = train(new(), 2)
    before = contents(state)
    with pytest.raises(NonFiniteLoss, match="step 2 "):
        state.descend(state.ddp(torch.ones(8, 1, 8, 8)).square().mean() + wrong)
    after = contents(state)
    assert {name for name in before if before[name] != after[name]} <= {"groups"}


@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_step_is_the_optimisers_own(optim: Optimiser):
    """Five steps are those of the plain loop that everyone writes, momentum and all."""
    state = train(new(optim), 5)
    torch.manual_seed(0)
    model = small_cnn().train()
    plain = optim.build(model)
    for step in range(5):
        for group in plain.param_groups:
            group["lr"] = optim.lr_at(step, 5)
        draw = torch.Generator().manual_seed(step)
        x, y = torch.rand(8, 1, 8, 8, generator=draw), torch.randint(10, (8,), generator=draw)
        plain.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if optim.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        plain.step()
    for own, other in zip(state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_the_learning_rate_is_that_of_the_step():
    state = new(SGD(name="sgd", lr=0.1, momentum=0.0, epochs=2, schedule=Cosine(shape="cosine"), warmup_epochs=0.5))
    for step in range(10):
        before = [p.detach().clone() for p in state.model.parameters()]
        state.descend(sum(p.sum() for p in state.model.parameters()))  # a gradient of one everywhere
        warm = min(1.0, (step + 0.5) / 5 / 0.5)
        expected = 0.1 * warm * (1 + math.cos(math.pi * (step + 0.5) / 10)) / 2
        for old, now in zip(before, state.model.parameters(), strict=True):
            torch.testing.assert_close(old - now.detach(), torch.full_like(old, expected), rtol=1e-4, atol=1e-7)


def test_weight_decay_spares_biases_and_normalisation():
    optim = SGD(name="sgd", lr=0.1, momentum=0.0, weight_decay=0.5, epochs=1)
    state = new(optim, with_norms)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(0.3)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    state.descend(sum(p.sum() * 0 for p in state.model.parameters()))
    for name, now in state.model.named_parameters():
        kernel = name in ("0.weight", "5.weight")
        torch.testing.assert_close(now.detach(), before[name] * (1 - 0.1 * 0.5 if kernel else 1), msg=name)


def test_the_gradient_is_cut_to_clip_norm_and_weighted_by_the_share():
    def step(share: float, clip: float | None) -> Tensor:
        state = new(SGD(name="sgd", lr=1.0, momentum=0.0, epochs=1, clip_norm=clip))
        before = [p.detach().clone() for p in state.model.parameters()]
        state.descend(state.ddp(torch.ones(1, 1, 8, 8)).square().sum(), share)
        pairs = zip(state.model.parameters(), before, strict=True)
        return torch.cat([(now.detach() - old).flatten() for now, old in pairs])

    free = step(1.0, None)
    assert free.norm() > 0.02
    torch.testing.assert_close(step(0.5, None), free / 2)
    torch.testing.assert_close(step(1.0, 0.01), free * (0.01 / free.norm()), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(step(1.0, 1e6), free)


def test_the_average_of_the_weights_follows_its_formula():
    """On the ramp: all weights so far, those of step t in proportion to t. Then d mean + (1 - d) weights."""
    optim = SGD(name="sgd", lr=0.5, epochs=2, ema=0.6)  # reached at step 4
    state = new(optim, with_norms)
    assert state.average is not None
    expected: dict[str, Tensor] = {}
    for step in range(1, 8):
        train(state, 1)
        share = 2 / (step + 1) if step <= 4 else 0.4
        for name, p in state.model.named_parameters():
            now = p.detach().double()
            expected[name] = share * now + (1 - share) * expected[name] if name in expected else now.clone()
    for name, mean in state.average.named_parameters():
        torch.testing.assert_close(mean.double(), expected[name], rtol=1e-5, atol=1e-6)
        assert not mean.requires_grad
    buffers = dict(state.model.named_buffers())
    assert buffers and all(torch.equal(buffer, buffers[name]) for name, buffer in state.average.named_buffers())
    assert not any(module.training for module in state.average.modules())


def decay_at(optim: Optimiser, step: int) -> float:
    """The decay by which step ``step`` (from 1) averages, as it is seen."""
    state = State(nn.Linear(1, 1), optim, steps_per_epoch=100)
    assert state.average is not None
    with torch.no_grad():
        for mean, now in zip(state.average.parameters(), state.model.parameters(), strict=True):
            mean.zero_()
            now.fill_(1.0)
    state.step = step - 1
    state.descend(state.ddp(torch.zeros(1, 1)).sum() * 0)
    (mean, _), (now, _) = state.average.parameters(), state.model.parameters()
    return 1 - (mean / now).item()


JOBS = sorted((Path(__file__).parent.parent / "jobs").glob("*.yaml"))
IMAGES = {"mnist": 60_000, "cifar10": 50_000}


def test_the_shipped_jobs_average_by_their_decay_for_most_of_the_run():
    """A fifth of it at most is the ramp; the random start counts for nothing from the first step."""
    averaged = 0
    for training in (getattr(job, "train", job) for job in map(read, JOBS)):
        optim = getattr(training, "optim", None)
        if optim is None or optim.ema is None:
            continue
        averaged += 1
        steps = optim.epochs * (int(IMAGES[training.data.source] * (1 - training.data.validation)) // optim.batch_size)
        assert decay_at(optim, steps // 5) == pytest.approx(optim.ema, rel=1e-6)
        assert decay_at(optim, 1) == 0
        assert decay_at(optim, steps // 50) < optim.ema
    assert averaged >= 3


def test_without_ema_nothing_is_averaged():
    state = new()
    assert state.average is None and state.judged is state.model

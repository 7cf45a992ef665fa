"""The device against the CPU: the same noise, images, losses, gradients, states, checkpoints and batches.

Both sides compute in exact float32, with the same weights. What no arithmetic rounds must be equal to the bit. On the
CPU alone (a quick run) the second side computes without oneDNN, so that there is something to compare.

A ReLU whose input is nearly 0 may be open on one side and shut on the other, and takes its whole part of the gradient
with it. So two ways of one CPU differ too, in preact_resnet of width 1/4 on 64 images (torch 2.15, with and without
oneDNN, seed 0): by 0.3 % of the images' gradient, 0.7 to 1.1 % of the weights', 7 % of the pixels after PGD-7; after
three steps by 0.4 % of the weights' way with SGD and 18 % where the images were attacked, 9 % and 28 % with Adam, whose
first steps are signs. The bounds are some three times as wide; in small_cnn, where this is rare, they are narrow.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.on_gpu import images
from benchmarks.on_gpu.report import Report
from benchmarks.on_gpu.setting import Setting, synchronise
from distrib.attack import PGD, Adversary
from distrib.checkpoints import load_checkpoint, save_checkpoint
from distrib.data.augment import Augment
from distrib.data.beton import open_split
from distrib.data.loader import Batch, MemoryReader, TrainLoader
from distrib.models import PreActResNet, SmallCNN
from distrib.noise import Noise
from distrib.objective import Madry, Natural, Objective, SaddlePoint
from distrib.optim import SGD, Optim
from distrib.precision import exact_float32, forward_in
from distrib.state import State
from distrib.step import update
from distrib.threat import L2, Linf, Threat, outside
from distrib.world import World

CPU = torch.device("cpu")
LINF, WIDE = Linf(epsilon=8 / 255), L2(epsilon=0.5)
SHORT = PGD(num_steps=2, step_size=2 / 255)


@dataclass(frozen=True)
class Side:
    """One of the two."""

    device: torch.device
    plain: bool = False
    """Without oneDNN."""

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Inside, this side's way to compute."""
        with torch.backends.mkldnn.flags(enabled=False) if self.plain else nullcontext():
            yield

    def batch(self, setting: Setting) -> Batch:
        """A few images."""
        return Batch(*images.some(8 if setting.quick else 64, images.SIDE if setting.quick else 32, self.device))

    def model(self, setting: Setting, norms: bool = True) -> nn.Module:
        """A network with the same weights on both sides, with BatchNorm or without."""
        value = PreActResNet(width=1 / 16 if setting.quick else 1 / 4) if norms else SmallCNN()
        side = images.SIDE if setting.quick else 32
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return value.build((3, side, side), 10, [0.5] * 3, [0.25] * 3).to(self.device)


def far(found: Tensor, expected: Tensor) -> float:
    """The distance from ``expected`` as a share of its own length."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return ((found - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def every(union: Any, tag: str, **given: Any) -> dict[str, Any]:
    """A value of each kind in ``union``, by its tag, with those of the ``given`` fields that it has."""
    kinds = {}
    for kind in get_args(get_args(union)[0]):
        for name in get_args(kind.model_fields[tag].annotation):
            own = {field: value for field, value in given.items() if field in kind.model_fields}
            kinds[name] = kind(**{tag: name}, **own)
    return kinds


def flat(tensors: Iterator[Tensor] | list[Tensor]) -> Tensor:
    """All numbers in one row, on the CPU."""
    return torch.cat([one.detach().float().cpu().reshape(-1) for one in tensors])


@exact_float32()
def measure(setting: Setting, report: Report) -> None:
    """Every check, one row each. Raises AssertionError at the end if one did not hold."""
    torch.backends.cudnn.deterministic = True
    alone = setting.device.type == "cpu"
    sides = Side(CPU), Side(setting.device, plain=alone)
    failed = []
    for check in (noise, attacks, objectives, low_precision, states, checkpoints, batches):
        try:
            for what, found, bound in check(setting, *sides):
                holds = found <= bound
                report.row("Device against CPU", what=what, found=found, at_most=bound, holds=holds)
                failed += [] if holds else [what]
        except Exception as error:  # one check must not cost the others
            report.say(f"{check.__name__} could not be checked: {type(error).__name__}: {str(error)[:500]}")
            failed.append(check.__name__)
    assert not failed, f"{len(failed)} checks did not hold: {', '.join(failed)}"


Found = Iterator[tuple[str, float, float]]
"""What was compared, how far apart it is, and how far it may be."""


def on_both(sides: tuple[Side, ...], work: Callable[[Side], Tensor]) -> tuple[Tensor, Tensor]:
    """(the CPU's, the device's), both on the CPU."""
    found = []
    for side in sides:
        with side.arithmetic():
            found.append(work(side).detach().cpu())
    return found[0], found[1]


def noise(setting: Setting, *sides: Side) -> Found:
    """Noise is a function of integers."""
    draws: dict[str, tuple[Callable[[Noise], Tensor], float]] = {
        "bits of noise, largest difference": (lambda one: one.bits((3, 5)), 0.0),
        "uniform noise, largest difference": (lambda one: one.uniform((3, 5)), 0.0),
        "integer noise, largest difference": (lambda one: one.integers(10, (7,)), 0.0),
        "a fork's noise, largest difference": (lambda one: one.fork(3).uniform((4,)), 0.0),
        "normal noise, largest difference": (lambda one: one.normal((3, 5)), 1e-5),  # logarithm and cosine
    }
    for what, (draw, bound) in draws.items():
        one, other = on_both(
            sides, lambda side, draw=draw: draw(Noise.of(torch.arange(200, device=side.device), 7, "attack", 3))
        )
        yield what, (one - other).abs().max().item(), bound


def attacks(setting: Setting, *sides: Side) -> Found:
    """Attacks: a pixel whose gradient is nearly 0 may take the other sign, and the loss must not notice."""

    def found(side: Side, threat: Threat, attack: PGD, norms: bool) -> Tensor:
        x, y, index = side.batch(setting)
        x_adv = Adversary(threat, attack).perturb(side.model(setting, norms), x, y, Noise.of(index, 0, "attack", 0))
        assert not outside(threat, x, x_adv).any()
        return x_adv

    def start(side: Side) -> Tensor:
        x, _, index = side.batch(setting)
        return LINF.sample(x, Noise.of(index, 0, "attack", 0))

    def gradient(side: Side, norms: bool) -> Tensor:
        x, y, _ = side.batch(setting)
        x = x.requires_grad_()
        return torch.autograd.grad(F.cross_entropy(side.model(setting, norms).eval()(x), y, reduction="sum"), x)[0]

    _, y, _ = sides[0].batch(setting)
    for norms in (False, True):
        network = "preact_resnet" if norms else "small_cnn"
        one, other = on_both(sides, lambda side, norms=norms: gradient(side, norms))
        loose = 150.0 if norms else 1.0
        yield f"{network}: input gradient, relative", far(other, one), 1e-4 * loose
        judge = sides[0].model(setting, norms).eval()
        one, other = on_both(sides, start)
        yield f"{network}: random starts, largest difference", (one - other).abs().max().item(), 1e-7
        steps = 2 if setting.quick else 7
        for name, threat, attack in (
            ("FGSM", LINF, PGD(num_steps=1, random_start=False)),
            (f"PGD-{steps}", LINF, PGD(num_steps=steps, step_size=2 / 255)),
            (f"L2 PGD-{steps}", WIDE, PGD(num_steps=steps)),
        ):
            one, other = on_both(sides, lambda side, t=threat, a=attack, norms=norms: found(side, t, a, norms))
            if isinstance(threat, Linf):
                share = ((one - other).abs() > 1e-6).float().mean().item()
                yield f"{network}: {name}, share of pixels that differ", share, 0.3 if norms else 0.02
            else:
                yield (
                    f"{network}: {name}, perturbations, relative",
                    far(other - x_of(setting), one - x_of(setting)),
                    0.1 if norms else 0.01,
                )
            with torch.no_grad():
                here, there = (F.cross_entropy(judge(x_adv), y) for x_adv in (one, other))
            yield f"{network}: {name}, loss of the images, relative", abs(there / here - 1).item(), 1e-3


def x_of(setting: Setting) -> Tensor:
    """The images, on the CPU."""
    return Side(CPU).batch(setting).x


def objectives(setting: Setting, *sides: Side) -> Found:
    """The outer loss and its gradient, on the same images."""
    for norms, (name, objective) in itertools.product((False, True), every(Objective, "method", threat=LINF).items()):

        def work(side: Side, objective: SaddlePoint = objective, norms: bool = norms) -> Tensor:
            x, y, index = side.batch(setting)
            x_adv = LINF.sample(x, Noise.of(index, 0, "given"))
            model = side.model(setting, norms).train()
            loss = objective.loss(model, x, x_adv, y).loss
            loss.backward()
            return flat([loss, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)])

        one, other = on_both(sides, work)
        network = "preact_resnet" if norms else "small_cnn"
        yield f"{network}: {name}: loss, relative", far(other[:1], one[:1]), 1e-5
        yield f"{network}: {name}: gradient of the weights, relative", far(other[1:], one[1:]), 5e-2 if norms else 1e-3


def low_precision(setting: Setting, *sides: Side) -> Found:
    """The loss in bfloat16 on the device, against float32 on the CPU."""

    def work(side: Side) -> Tensor:
        x, y, _ = side.batch(setting)
        kind = "float32" if side is sides[0] else "bfloat16"
        with forward_in(kind, side.device), torch.no_grad():
            return F.cross_entropy(side.model(setting).train()(x).float(), y)

    one, other = on_both(sides, work)
    yield "bfloat16: loss, relative to float32", far(other, one), 0.03


def states(setting: Setting, *sides: Side) -> Found:
    """The weights after three steps, as a share of how far they moved."""
    ways: tuple[SaddlePoint, ...] = Natural(method="natural"), Madry(method="madry", threat=LINF, attack=SHORT)
    size = len(sides[0].batch(setting).y)
    optimisers = every(Optim, "name", epochs=3, batch_size=size, lr=1e-3, rest_lr=1e-3, ema=0.9)
    for norms, objective, (called, optimiser) in itertools.product((False, True), ways, optimisers.items()):

        def work(side: Side, objective: Any = objective, optimiser: Any = optimiser, norms: bool = norms) -> Tensor:
            batch = side.batch(setting)
            state = State(side.model(setting, norms), optimiser, 10, World(device=side.device))
            for _ in range(3):
                update(state, batch, objective, Noise.of(batch.index, 0, "attack", state.step), 1.0)
            return flat(list(state.model.parameters()))

        begun = flat(list(sides[0].model(setting, norms).parameters()))
        one, other = on_both(sides, work)
        plain = objective.adversary is None and called == "sgd"
        bound = (2e-2 if plain else 0.6) if norms else (1e-3 if plain else 2e-2)
        what = f"{'preact_resnet' if norms else 'small_cnn'}: {objective.method}, {called}"
        yield f"{what}: weights after 3 steps, of their way", far(other - begun, one - begun), bound


def checkpoints(setting: Setting, *sides: Side) -> Found:
    """A state of the device that is stored, and goes on on the CPU and on the device."""
    here, there = sides
    batch = there.batch(setting)
    objective = Madry(method="madry", threat=LINF, attack=SHORT)

    def new(side: Side) -> State:
        optim = SGD(name="sgd", lr=0.01, epochs=3, batch_size=len(batch.y), ema=0.9)
        return State(side.model(setting), optim, 10, World(device=side.device))

    def step(state: State) -> None:
        update(state, batch, objective, Noise.of(batch.index, 0, "attack", state.step), 1.0)

    with there.arithmetic():
        state = new(there)
        for _ in range(2):
            step(state)
        stored = save_checkpoint(state, Path(setting.room) / "parity" / "epoch-00001", [{}], {}, "")
        moved, again = new(here), new(there)
        for one in (moved, again):
            load_checkpoint(one, stored.folder)
            assert one.step == state.step
        yield "checkpoint: weights on the CPU, largest difference", _apart(state, moved), 0.0
        yield "checkpoint: weights on the device, largest difference", _apart(state, again), 0.0
        step(state)
        step(again)
        yield "checkpoint: one step later, resumed and not, largest difference", _apart(state, again), 1e-6


def _apart(one: State, other: State) -> float:
    """The largest difference of any weight, statistic, average or momentum."""
    assert one.average is not None and other.average is not None
    pairs = [
        *zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True),
        *zip(one.average.state_dict().values(), other.average.state_dict().values(), strict=True),
        *zip(_momenta(one), _momenta(other), strict=True),
    ]
    return max((first.double().cpu() - second.double().cpu()).abs().max().item() for first, second in pairs)


def _momenta(state: State) -> list[Tensor]:
    slots = state.optimiser.state_dict()["state"]
    return [tensor for one in sorted(slots) for tensor in slots[one].values() if isinstance(tensor, Tensor)]


def batches(setting: Setting, *sides: Side) -> Found:
    """Two epochs of batches, looked at when all were made: a staged copy that came too late would show."""
    folder = setting.room / "noise"
    if not folder.exists():
        images.noise(folder)
    train = open_split(folder, "train", "training")

    def drawn(side: Side) -> list[Batch]:
        augment = Augment(crop_padding=2, flip=True)
        loader = TrainLoader(MemoryReader(train), train.card.count, 5, 20, augment, World(device=side.device))
        found = [batch for epoch in range(2) for batch in loader.epoch(epoch)]
        synchronise(side.device)
        return [Batch(*(part.cpu() for part in batch)) for batch in found]

    here, there = (drawn(side) for side in sides)
    assert len(here) == len(there) == 10
    pairs = list(zip(here, there, strict=True))
    same = [torch.equal(one.y, other.y) and torch.equal(one.index, other.index) for one, other in pairs]
    yield "batches: labels or places that differ", float(len(same) - sum(same)), 0.0
    levels = [((one.x * 255).round() != (other.x * 255).round()).sum().item() for one, other in pairs]
    yield "batches: grey levels that differ", float(sum(levels)), 0.0
    # torch divides by a number on CUDA by multiplying by its inverse, which rounds once more
    yield "batches: pixels, largest difference", max((o.x - t.x).abs().max().item() for o, t in pairs), 1.2e-7
    yield (
        "batches: share of pixels not equal to the bit",
        sum((o.x != t.x).float().mean().item() for o, t in pairs) / 10,
        1.0,
    )

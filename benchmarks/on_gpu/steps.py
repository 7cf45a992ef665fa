"""Images per second of one training step: textbook, distrib's own, and the experiments, against the machine's rate."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.on_gpu import images
from benchmarks.on_gpu.experiments import Copied, Kind
from benchmarks.on_gpu.report import Report
from benchmarks.on_gpu.setting import Setting, seconds_of
from distrib.attack import PGD, OfEpsilon
from distrib.data.loader import Batch
from distrib.models import Model, PreActResNet, SmallCNN
from distrib.noise import Noise
from distrib.objective import Fast, Madry, SaddlePoint
from distrib.optim import SGD
from distrib.precision import Format, begin_training
from distrib.state import State
from distrib.step import update

PGD_7, PGD_10 = Kind("PGD-7", 7, 2 / 255), Kind("PGD-10", 10, 2 / 255)
ONE_STEP = Kind("one step", 1, 10 / 255)
COMPILING = 60.0
"""Seconds that must be left before a step is compiled; twice as many for all steps of an attack as one."""


@dataclass(frozen=True)
class Case:
    """A network and a batch; the images are noise, whose sight costs nothing."""

    name: str
    network: Model
    batch_size: int
    kinds: tuple[Kind, ...]
    side: int = 32

    def model(self, setting: Setting) -> nn.Module:
        """The network, with the same weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = self.network.build((3, self.side, self.side), 10, [0.5] * 3, [0.25] * 3)
        return built.to(setting.device)


RESNET, HALF, SMALL = "preact_resnet-18", "preact_resnet-18 of width 1/2", "small_cnn"
FIRST = Case(RESNET, PreActResNet(), 128, (PGD_7, ONE_STEP))
LARGE = Case(RESNET, PreActResNet(), 512, (PGD_7, ONE_STEP))
TOY = Case("small_cnn of width 1/8", SmallCNN(width=1 / 8), 4, (Kind("PGD-2", 2, 2 / 255), ONE_STEP), images.SIDE)


Step = Callable[[Batch, Kind], object]


@dataclass(frozen=True)
class Way:
    """A way to take the step."""

    name: str
    build: Callable[[Case, Setting], Step]
    needs: float = 0.0
    """Seconds that must be left."""
    searched: bool = False
    """Whether cuDNN looks for the fastest algorithms (cudnn.benchmark)."""


def textbook(case: Case, setting: Setting, low: bool = False) -> Step:
    """PGD as torchattacks has it, in evaluation mode, then one update: every tensor as it comes."""
    model = case.model(setting)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step(batch: Batch, kind: Kind) -> None:
        x, y, epsilon = batch.x, batch.y, kind.epsilon
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=low):
            model.eval()
            x_adv = (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).clamp(0, 1)
            for _ in range(kind.num_steps):
                x_adv = x_adv.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
                delta = (x_adv.detach() + kind.length * gradient.sign() - x).clamp(-epsilon, epsilon)
                x_adv = (x + delta).clamp(0, 1)
            model.train()
            loss = F.cross_entropy(model(x_adv), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def objective_of(kind: Kind) -> SaddlePoint:
    """What distrib calls this attack."""
    if kind.num_steps == 1:
        return Fast(method="fast", threat=kind.threat)
    attack = PGD(num_steps=kind.num_steps, step_size=OfEpsilon(of_epsilon=kind.length / kind.epsilon))
    return Madry(method="madry", threat=kind.threat, attack=attack)


def ours(case: Case, setting: Setting, precision: Format = "float32", last: bool = False) -> Step:
    """distrib's own step; ``last``: the network and its images channels last."""
    begin_training(precision, setting.device)
    model = case.model(setting)
    model = model.to(memory_format=torch.channels_last) if last else model  # pyright: ignore
    sgd = SGD(name="sgd", lr=0.01, weight_decay=5e-4, epochs=10, batch_size=case.batch_size)
    state = State(model, sgd, 1000, setting.world, precision)

    def step(batch: Batch, kind: Kind) -> None:
        if last:
            batch = batch._replace(x=batch.x.contiguous(memory_format=torch.channels_last))
        noise = Noise.of(batch.index, 0, "attack", state.step)
        update(state, batch, objective_of(kind), noise, 1.0)

    return step


MADE: dict[tuple[Case, str], Copied] = {}
"""What was compiled is used for the graph too."""


def copied(case: Case, setting: Setting, compiled: str = "", graph: bool = False) -> Step:
    """One of the experiments."""
    if (case, compiled) not in MADE:
        backend = "inductor" if setting.device.type == "cuda" else "eager"  # traced, but not compiled
        MADE[case, compiled] = Copied(case.model(setting), compiled, backend)
    MADE[case, compiled].graph = graph
    return MADE[case, compiled].step


def _distrib(precision: Format, last: bool) -> Callable[[Case, Setting], Step]:
    return lambda case, setting: ours(case, setting, precision, last)


def _experiment(compiled: str, graph: bool) -> Callable[[Case, Setting], Step]:
    return lambda case, setting: copied(case, setting, compiled, graph)


EAGER = (
    Way("textbook, float32 (TF32)", textbook),
    Way("textbook, bfloat16 by autocast", lambda case, setting: textbook(case, setting, low=True)),
    Way("distrib, float32 (TF32)", ours),
    Way("distrib, bfloat16", _distrib("bfloat16", last=False)),
    Way("distrib, bfloat16, all channels last", _distrib("bfloat16", last=True)),
    Way("distrib, bfloat16, all channels last, algorithms searched", _distrib("bfloat16", last=True), searched=True),
    Way("experiment: bfloat16 copy, eager", _experiment("", graph=False), searched=True),
    Way("experiment: bfloat16 copy, CUDA graph", _experiment("", graph=True), searched=True),
)
COMPILED = (
    Way("experiment: bfloat16 copy, compiled", _experiment("step", graph=False), COMPILING, searched=True),
    Way("experiment: bfloat16 copy, compiled, CUDA graph", _experiment("step", graph=True), searched=True),
)
WHOLE = (
    Way(
        "experiment: bfloat16 copy, whole attack compiled, CUDA graph", _experiment("whole", graph=True), 2 * COMPILING,
        searched=True,
    ),
)  # fmt: skip
PLAN = (
    (FIRST, EAGER),
    (LARGE, EAGER),
    (LARGE, COMPILED),
    (Case(HALF, PreActResNet(width=0.5), 512, (PGD_7, ONE_STEP)), EAGER),
    (FIRST, COMPILED),
    (Case(SMALL, SmallCNN(), 128, (PGD_10, ONE_STEP)), EAGER),
    (Case(HALF, PreActResNet(width=0.5), 128, (PGD_7,)), EAGER),
    (Case(SMALL, SmallCNN(), 512, (PGD_10,)), EAGER),
    (LARGE, WHOLE),
)
"""What is measured, the most telling first: time may end before the last."""
TOYS = ((TOY, EAGER + COMPILED), (replace(TOY, kinds=TOY.kinds[:1]), WHOLE))


def measure(setting: Setting, report: Report) -> None:
    """One row for each network, batch, attack and way. Raises AssertionError at the end if one failed."""
    failed = []
    textbooks: dict[tuple[str, int, str], float] = {}
    for case, ways in TOYS if setting.quick else PLAN:
        batch = Batch(*images.some(case.batch_size, case.side, setting.device))
        flops = {kind.name: _flops(case, setting, kind) for kind in case.kinds}
        for way in ways:
            where = f"{case.name}, batch {case.batch_size}: {way.name}"
            if setting.left < max(way.needs, 3.0):
                report.say(f"{where}: left out: {setting.left:.0f} s are left")
                continue
            try:
                for kind, cells in _measured(way, case, setting, batch):
                    rate = case.batch_size / cells["ms"] * 1e3
                    textbook_rate = textbooks.setdefault((case.name, case.batch_size, kind.name), rate)
                    done = flops[kind.name] * rate / 1e12
                    cells |= {"images_per_second": rate, "times_textbook": rate / textbook_rate}
                    cells["TFLOP/s"] = done
                    for name in ("convolution", "product"):
                        ceiling = report.known(f"bf16_{name}_TFLOPs")
                        cells[f"%_of_bf16_{name}"] = 100 * done / ceiling if ceiling else "?"
                    what = {"network": case.name, "batch": case.batch_size, "attack": kind.name, "step": way.name}
                    report.row("Steps", **what, **cells)
            except Exception as error:  # one way must not cost the others
                report.say(f"{where}: {type(error).__name__}: {str(error)[:400]}")
                failed.append(where)
        MADE.clear()
        torch.compiler.reset()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    assert not failed, f"{len(failed)} steps could not be taken: {'; '.join(failed)}"


def _measured(way: Way, case: Case, setting: Setting, batch: Batch) -> Iterator[tuple[Kind, dict]]:
    """For each attack: milliseconds of a step, their spread, and what else is known of it."""
    torch.backends.cudnn.benchmark = way.searched
    begin_training("float32", setting.device)  # what float32 means: convolutions in TF32
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = way.build(case, setting)
    for kind in case.kinds:
        if setting.left < 3:
            return
        seconds, spread = seconds_of(lambda kind=kind: step(batch, kind), setting)
        cells: dict = {"ms": seconds * 1e3, "spread_%": 100 * spread}
        if setting.device.type == "cuda":
            cells["GB"] = torch.cuda.max_memory_allocated() / 1e9
        owner = getattr(step, "__self__", None)
        if isinstance(owner, Copied):
            share, ratio = owner.against_eager(batch, kind)
            cells |= {"%_of_pixels_unlike_eager": 100 * share, "loss_over_eager's": ratio}
        yield kind, cells


def _flops(case: Case, setting: Setting, kind: Kind) -> float:
    """Floating-point operations that the step must make for one image, in convolutions and matrix products.

    Each step of the attack is a pass forward and one back to the image, without the weights' gradients. The counter
    cannot follow a gradient at a leaf, so the image is no leaf (torch 2.15).
    """
    few = 2
    x, y, _ = images.some(few, case.side, setting.device)

    def counted(x: Tensor, weights: bool) -> int:
        model = case.model(setting).train(weights).requires_grad_(weights)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(model(x * 1), y).backward()
        return counter.get_total_flops()

    return (kind.num_steps * counted(x.clone().requires_grad_(), False) + counted(x, True)) / few

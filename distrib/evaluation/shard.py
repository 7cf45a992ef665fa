"""Attacks on one shard of the test split: the fate of each image under each attack, and the worst image found.

The model comes from a checkpoint or a registry, never from the training process. Everything runs in float32 (TF32
off) in evaluation mode. Each image's fate under PGD depends on the seed and that image alone; AutoAttack draws its
numbers a shard at a time, so shards are cut by size, never by the number of workers.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from distrib.attack import PGD, depth, predicted, undisturbed
from distrib.data.loader import Batch
from distrib.errors import RunError
from distrib.evaluation import autoattack
from distrib.evaluation.attacks import (
    WITHOUT_GRADIENT,
    AutoAttack,
    Evaluation,
    Fgsm,
    Pgd,
    RandomNoise,
    Square,
    Stored,
    Transfer,
)
from distrib.evaluation.geometry import on_levels
from distrib.evaluation.logits import Logits, logits_of
from distrib.evaluation.probes import Probes, probe
from distrib.noise import Noise
from distrib.precision import exact_float32
from distrib.threat import Threat, drawn_back, outside

STOOD, BROKEN, NOT_ASKED, SPARED = 1, 0, -1, -2
"""Fates of an image under an attack. SPARED: an earlier attack had broken it (``meets: standing``)."""


ROUNDED, ON_LEVELS, SMOOTH_COPY, ESTIMATE = "rounded", "pgd-40-on-8-bits", "smooth-copy", "gradient-estimate"
EXTRA_ATTACKS = (ROUNDED, ON_LEVELS, SMOOTH_COPY, ESTIMATE)
"""Attacks that nobody listed, on what stood: the worst images on 8 bits, and :mod:`distrib.evaluation.harder`."""


@dataclass(frozen=True)
class ShardResult:
    """What happened to the images of one shard."""

    position: list[int]
    """Each image's place in the evaluation's own order."""
    index: list[int]
    """Each image's place in the test split."""
    label: list[int]
    predicted: list[int]
    """The class of the image as it is; -1 where it has none."""
    fate: dict[str, list[int]]
    """For each attack: STOOD, BROKEN (also where the image was misclassified as it is), NOT_ASKED or SPARED."""
    worst: list[str]
    """The attack that found the stored image: the one with the lowest margin; "" where there is none."""
    parts: list[str]
    """The parts of AutoAttack that could be run, in their order; none where it was not asked for."""
    stage: list[str]
    """For each image: the part of AutoAttack that broke it; "" where none did."""
    starts: dict[str, list[int]]
    """For each attack with restarts: how many images it had broken after each start."""
    largest_change: dict[str, float]
    """For each attack: the largest perturbation, measured on the float32 tensors under the threat's norm."""
    seconds: dict[str, float]
    probes: Probes
    lost: list[bool]
    """For each image: it, or what an attack made of it, has no prediction: logits are NaN, or the largest infinite."""
    infinite: list[bool]
    """The same for any logit that is infinite."""
    projected: dict[str, int] = field(default_factory=dict)
    """For attacks by the authors' package: how many of their images lay outside the threat by float rounding. They were
    projected onto it, and scored as they then are."""

    @classmethod
    def of_json(cls, plain: dict) -> "ShardResult":
        """The result that :meth:`as_json` gave."""
        probes = Probes(**plain["probes"])
        return cls(**{name: value for name, value in plain.items() if name != "probes"}, probes=probes)

    def as_json(self) -> dict:
        """Plain values."""
        return asdict(self)

    @property
    def clean(self) -> list[bool]:
        """Classified rightly as it is."""
        return [label == predicted for label, predicted in zip(self.label, self.predicted, strict=True)]

    @property
    def broken(self) -> list[bool]:
        """Classified wrongly as it is, or by what an attack found."""
        return [not hit or any(fate[i] == BROKEN for fate in self.fate.values()) for i, hit in enumerate(self.clean)]

    def broke_alone(self, name: str, others: Collection[str]) -> int:
        """How many images ``name`` broke that none of the ``others`` did."""
        return sum(
            hit and fate == BROKEN and all(self.fate[other][i] != BROKEN for other in others)
            for i, (hit, fate) in enumerate(zip(self.clean, self.fate.get(name, ()), strict=False))
        )

    def disagreeing(self, margins: list[float]) -> list[int]:
        """The positions of which a second look at the stored images differs, by more than float rounding.

        ``margins`` are those of the stored images: positive where they are classified rightly.
        """
        slack = 1e-4 * self.probes.spread
        found = zip(self.position, self.broken, margins, strict=True)
        return [position for position, b, m in found if (m > slack if b else m < -slack)]


@dataclass(frozen=True)
class AttackInputs:
    """What some attacks need beside the judged model."""

    source: Callable[[str], nn.Module]
    """The model of an address."""
    stored: Callable[[str, Tensor], Tensor]
    """The images of a stored set for these indices. Raises :class:`InputError`."""


@exact_float32()
def attack_shard(
    model: nn.Module, batch: Batch, positions: np.ndarray, suite: Evaluation, help: AttackInputs | None = None
) -> tuple[ShardResult, Tensor]:
    """Runs every attack of ``suite`` on the images of ``batch`` (one shard, on the model's device).

    ``positions`` are the images' places in the evaluation's order (an attack with an ``n`` takes those below it).
    Returns what happened, and for each image the worst one found (lowest margin; itself where none was tried).
    Raises :class:`RunError` if an attack leaves the threat: its figure would be worthless.
    """
    assert suite.threat is not None
    threat, (x, y, index) = suite.threat, batch
    with undisturbed(model, "eval"):
        logits = logits_of(model, x, suite.batch_size)
        lost, infinite = predicted(logits) < 0, torch.isinf(logits).any(dim=1)
        clean = predicted(logits) == y
        standing, upright, worst = clean.clone(), clean.clone(), x.clone()
        lowest, finder = torch.full_like(logits[:, 0], math.inf), [""] * len(y)
        place = torch.from_numpy(positions).to(x.device)
        fate: dict[str, list[int]] = {}
        parts: tuple[str, ...] = ()
        stage = [""] * len(y)
        starts: dict[str, list[int]] = {}
        projected: dict[str, int] = {}
        largest: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for attack in suite.attacks:
            asked = place < (attack.n or math.inf)
            blind = isinstance(attack, WITHOUT_GRADIENT)
            # What only attacks without a gradient broke is not spared one with it: it should break that too
            met = clean if attack.meets == "all" else standing if blind else upright
            rows = (asked & met).nonzero()[:, 0]
            began = time.perf_counter()
            fates = torch.where(asked, torch.where(clean, SPARED, BROKEN), NOT_ASKED)
            largest[attack.name] = 0.0
            if len(rows):
                part, broken = Batch(x[rows], y[rows], index[rows]), [""] * len(rows)
                if isinstance(attack, AutoAttack):
                    parts = autoattack.parts_for(logits.shape[1], autoattack.differentiable(model, x[:2]))
                    x_adv, broken = autoattack.autoattack(model, part.x, part.y, threat, suite.seed, parts)
                else:
                    watched = Logits(model, part.x, threat)
                    x_adv = watched.worst(_images(watched, attack, part, suite, help, starts))
                if isinstance(attack, AutoAttack | Square):
                    x_adv, moved = drawn_back(threat, part.x, x_adv)
                    projected[attack.name] = int(moved.sum())
                if outside(threat, part.x, x_adv).any():
                    raise RunError(
                        f"{attack.name} left the {threat.norm} ball of {threat.epsilon:g} or [0, 1]; no result"
                    )
                found = logits_of(model, x_adv, suite.batch_size)
                stood = predicted(found) == part.y
                lost[rows] |= predicted(found) < 0
                infinite[rows] |= torch.isinf(found).any(dim=1)
                for row, name, stands in zip(rows.tolist(), broken, stood.tolist(), strict=True):
                    stage[row] = stage[row] if stands else name or stage[row]
                fates[rows] = torch.where(stood, STOOD, BROKEN)
                standing[rows] &= stood
                if not blind:
                    upright[rows] &= stood
                # a broken image's margin is at most 0; -inf orders it before one that stands with a margin of 0
                lower = depth(found, part.y) - 1e-6 * ~stood
                deeper = lower < lowest[rows]
                worst[rows[deeper]], lowest[rows[deeper]] = x_adv[deeper], lower[deeper]
                for row in rows[deeper].tolist():
                    finder[row] = attack.name
                largest[attack.name] = threat.size(x_adv - part.x).max().item()
            seconds[attack.name] = time.perf_counter() - began
            fate[attack.name] = fates.tolist()
        result = ShardResult(
            position=positions.tolist(),
            index=index.tolist(),
            label=y.tolist(),
            predicted=predicted(logits).tolist(),
            fate=fate,
            worst=finder,
            parts=list(parts),
            stage=stage,
            starts=starts,
            largest_change=largest,
            seconds=seconds,
            probes=probe(model, batch, worst, positions, suite),
            lost=lost.tolist(),
            infinite=infinite.tolist(),
            projected=projected,
        )
        rows = standing.nonzero()[:, 0]
        return extra_attack(
            model, batch, rows, lambda: on_levels(x, worst, threat)[rows], ROUNDED, result, worst, suite
        )


def extra_attack(
    model: nn.Module, batch: Batch, rows: Tensor, images: Callable[[], Tensor], name: str, result: ShardResult,
    worst: Tensor, suite: Evaluation,
) -> tuple[ShardResult, Tensor]:  # fmt: skip
    """The result and the worst images after one more attack, on the images ``rows``: all that stood before it.

    An image that ``images`` brings outside the threat counts as the image itself.
    """
    assert suite.threat is not None
    began, (x, y, _) = time.perf_counter(), batch
    fates = torch.tensor([SPARED if hit else BROKEN for hit in result.clean])
    lost, infinite, finder, worst, change = result.lost[:], result.infinite[:], result.worst[:], worst.clone(), 0.0
    if len(rows):
        x_adv = images()
        x_adv = torch.where(outside(suite.threat, x[rows], x_adv).view(-1, 1, 1, 1), x[rows], x_adv)
        found = logits_of(model, x_adv, suite.batch_size)
        label = predicted(found)
        fell = label != y[rows]
        fates[rows.cpu()] = torch.where(fell, BROKEN, STOOD).cpu()
        worst[rows[fell]] = x_adv[fell]
        change = suite.threat.size(x_adv - x[rows]).max().item()
        for i in fell.nonzero()[:, 0].tolist():
            row = int(rows[i])
            finder[row], lost[row] = name, bool(label[i] < 0)
            infinite[row] |= bool(torch.isinf(found[i]).any())
    return replace(
        result,
        fate=result.fate | {name: fates.tolist()},
        worst=finder,
        largest_change=result.largest_change | {name: change},
        seconds=result.seconds | {name: time.perf_counter() - began},
        lost=lost,
        infinite=infinite,
    ), worst


@exact_float32()
def score_images(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, threat: Threat) -> tuple[list[float], int]:
    """A second look at stored images: (the margin of each, how many lie outside the threat around ``x``)."""
    with undisturbed(model, "eval"):
        return depth(logits_of(model, x_adv, len(x_adv)), y).tolist(), int(outside(threat, x, x_adv).sum())


def _images(
    model: nn.Module,
    attack: Fgsm | Pgd | Square | RandomNoise | Transfer | Stored,
    batch: Batch,
    suite: Evaluation,
    help: AttackInputs | None,
    starts: dict[str, list[int]],
) -> Tensor:
    """The images that an attack makes of ``batch``; how many each start had broken goes into ``starts``."""
    assert suite.threat is not None
    match attack:
        case Square():
            return autoattack.square(model, batch.x, batch.y, suite.threat, suite.seed, attack.queries)
        case RandomNoise():
            return _noise(model, attack, batch, suite)
        case Transfer():
            assert help is not None
            source = Logits(help.source(attack.source).to(batch.x.device))
            return _pgd(source, attack.crafted.resolve(suite.threat), attack.name, batch, suite, {})
        case Stored():
            assert help is not None
            return help.stored(attack.path, batch.index)
        case _:
            return _pgd(model, attack.resolve(suite.threat), attack.name, batch, suite, starts)


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    return map(Batch, batch.x.split(size), batch.y.split(size), batch.index.split(size))


def _pgd(
    model: nn.Module, attack: PGD, name: str, batch: Batch, suite: Evaluation, starts: dict[str, list[int]]
) -> Tensor:
    images, broken = [], np.zeros(attack.restarts, dtype=int)
    for x, y, index in _parts(batch, suite.batch_size):
        worst, after, start = x, 0, 0
        for start, worst in enumerate(attack.starts(model, x, y, Noise.of(index, suite.seed, name))):
            if attack.restarts > 1:
                after = int((predicted(logits_of(model, worst, len(worst))) != y).sum())
                broken[start] += after
        broken[start + 1 :] += after
        images.append(worst)
    if attack.restarts > 1:
        starts[name] = broken.tolist()
    return torch.cat(images)


@torch.no_grad()
def _noise(model: nn.Module, attack: RandomNoise, batch: Batch, suite: Evaluation) -> Tensor:
    assert suite.threat is not None
    images = []
    for x, y, index in _parts(batch, suite.batch_size):
        noise, worst, lowest = (
            Noise.of(index, suite.seed, attack.name),
            x.clone(),
            torch.full_like(x[:, 0, 0, 0], math.inf),
        )
        for draw in range(attack.draws):
            x_adv = suite.threat.sample(x, noise.fork(draw))
            lower = depth(logits_of(model, x_adv, len(x_adv)), y)
            better = lower < lowest
            worst[better], lowest[better] = x_adv[better], lower[better]
        images.append(worst)
    return torch.cat(images)

"""Measurements of the model itself, on one shard: what could make its robustness figure worthless.

Each is a plain number or count; :mod:`distrib.evaluation.flags` says what they mean. Sources: Carlini et al., "On
evaluating adversarial robustness" (arXiv 1902.06705), Athalye et al., "Obfuscated gradients" (arXiv 1802.00420), and
the checks of AutoAttack's package.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.attack import PGD, Adversary, OfEpsilon, input_gradient, predicted
from distrib.data.loader import Batch
from distrib.evaluation import geometry
from distrib.evaluation.attacks import EvaluationPlan
from distrib.evaluation.logits import Logits, logits_of
from distrib.noise import Noise
from distrib.threat import Threat

PROBED_IMAGES = 32
"""Images of each shard on which the model's behaviour is compared with itself."""
PROBED = 200
"""Images of an evaluation on which attacks of growing epsilon and reduced precision are tried: its first ones."""


@dataclass(frozen=True)
class Probes:
    """What was measured on one shard."""

    repeat_change: float
    """The largest change of a logit between identical calls, as a share of the logits' own spread."""
    company_change: float
    """The largest change of a logit between an image in its batch and alone, or in other company; the same share."""
    state_changed: bool
    """A call in evaluation mode changed the model's buffers or parameters."""
    optimises: bool
    """A call runs automatic differentiation itself."""
    probabilities: bool
    """The output sums to one with no negative entry: a softmax, not logits."""
    spread: float
    """The median over the images of the largest logit less the smallest."""
    zero_gradient: list[bool]
    """For each image: the cross-entropy has no gradient there; attacks by gradient see nothing."""
    epsilon_curve: list[tuple[float, int, int]]
    """(epsilon, images standing under PGD-40, images tried), up to the whole box."""
    fell: list[bool]
    """For each image: that PGD-40 at the evaluation's own epsilon was tried, and broke it."""
    float32_right: int
    """Of the probed worst images, how many are classified correctly in float32."""
    bfloat16_right: int
    """Of the probed worst images, how many are classified correctly with the forward in bfloat16."""
    jumps: list[float]
    """For each segment tried: :func:`distrib.evaluation.geometry.jumps`."""
    ledges: list[float]
    """For each image tried: :func:`distrib.evaluation.geometry.ledges`."""
    gradient_errors: list[float]
    """For each point tried: :func:`distrib.evaluation.geometry.gradient_errors`."""
    reduced: int
    """How many worst images were classified in both."""


def probe(model: nn.Module, batch: Batch, worst: Tensor, positions: np.ndarray, evaluation: EvaluationPlan) -> Probes:
    """Measures the model on a shard. It is in evaluation mode and takes no weight gradients."""
    few, noise = batch.x[:PROBED_IMAGES], Noise.of(batch.index[:PROBED_IMAGES], evaluation.seed, "probes")
    groups = few, evaluation.threat.sample(few, noise)  # a model may behave on images that lie on 8 bits alone
    before = _fingerprint(model)
    watched = [_watched(model, group) for group in groups]
    (logits, _), finite = watched[0], Logits(model)
    spread = (logits.amax(dim=1) - logits.amin(dim=1)).median().item()
    probed = torch.from_numpy(positions < PROBED).to(batch.x.device).nonzero()[:, 0]
    curve, fell = _epsilon_curve(model, batch, probed, evaluation)
    float32_right, bfloat16_right, reduced = _precision(model, worst[probed], batch.y[probed])
    return Probes(
        repeat_change=max(
            _change(logits, _call(model, x)) for x, (logits, _) in zip(groups, watched, strict=True) for _ in range(4)
        ),
        company_change=max(
            _change(logits, other)
            for x, (logits, _) in zip(groups, watched, strict=True)
            for other in _companies(model, x)
        ),
        jumps=geometry.jumps(finite, few, worst[:PROBED_IMAGES]),
        ledges=geometry.ledges(finite, few),
        gradient_errors=geometry.gradient_errors(finite, few, evaluation.threat, noise),
        state_changed=_fingerprint(model) != before,
        optimises=any(optimises for _, optimises in watched),
        probabilities=bool((logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]))),
        spread=spread,
        zero_gradient=_zero_gradient(model, batch, evaluation.batch_size),
        epsilon_curve=curve,
        fell=fell,
        float32_right=float32_right,
        bfloat16_right=bfloat16_right,
        reduced=reduced,
    )


def epsilons(threat: Threat, pixels: int) -> list[float]:
    """From half of epsilon, doubled, to a ball that holds the whole box: there an attack can do what it likes."""
    whole = threat.widest(pixels)
    steps = [threat.epsilon * 2.0**i for i in range(-1, 12)] if threat.epsilon > 0 else []
    return [epsilon for epsilon in steps if epsilon < whole] + [whole]


def _call(model: nn.Module, x: Tensor) -> Tensor:
    return logits_of(model, x, len(x)).nan_to_num(0.0, 0.0, 0.0)


def _change(logits: Tensor, other: Tensor) -> float:
    scale = (logits.amax() - logits.amin()).clamp_min(torch.finfo(torch.float32).tiny)
    return ((logits - other).abs().amax() / scale).nan_to_num(math.inf).item()


def _companies(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """The logits of ``x``, each image in other company: in reverse, alone, and beside black and white images."""
    yield _call(model, x.flip(0)).flip(0)
    try:
        yield torch.cat([_call(model, one) for one in x[:8].split(1)] + [_call(model, x)[8:]])
    except (RuntimeError, ValueError):  # it cannot judge an image alone: BatchNorm in train mode, for one
        yield torch.full((len(x), 1), math.inf)
    yield _call(model, torch.cat([x, torch.zeros_like(x), torch.ones_like(x)]))[: len(x)]


def _fingerprint(model: nn.Module) -> float:
    state = [*model.parameters(), *model.buffers()]
    return sum(float(tensor.detach().double().abs().sum()) for tensor in state)


def _watched(model: nn.Module, x: Tensor) -> tuple[Tensor, bool]:
    """The logits of ``x``, and whether the model differentiates while it computes them.

    Everything that differentiates ends in one function of torch.autograd, under whatever name it was imported.
    """
    called = False

    def watch(original: Callable) -> Callable:
        def watched(*arguments, **options):
            nonlocal called
            called = True
            return original(*arguments, **options)

        return watched

    with _patched(torch.autograd, "_engine_run_backward", watch), torch.enable_grad():
        return model(x).detach().float().nan_to_num(0.0, 0.0, 0.0), called


@contextmanager
def _patched(owner: object, name: str, wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


@torch.enable_grad()
def _zero_gradient(model: nn.Module, batch: Batch, batch_size: int) -> list[bool]:
    flat = []
    for part, label in zip(batch.x.split(batch_size), batch.y.split(batch_size), strict=True):
        part = part.detach().requires_grad_()
        gradient = input_gradient(F.cross_entropy(Logits(model)(part), label, reduction="sum"), part)
        flat.append(gradient.flatten(1).abs().amax(dim=1) == 0)
    return torch.cat(flat).tolist()


def _epsilon_curve(
    model: nn.Module, batch: Batch, probed: Tensor, evaluation: EvaluationPlan
) -> tuple[list[tuple[float, int, int]], list[bool]]:
    """PGD-40 on the margin, which no scale of the logits blinds, at growing epsilon; images of all kinds count."""
    curve, fell = [], torch.zeros(len(batch.y), dtype=torch.bool, device=batch.y.device)
    if len(probed) == 0:
        return curve, fell.tolist()
    x, y, index = batch.x[probed], batch.y[probed], batch.index[probed]
    attack = PGD(num_steps=40, step_size=OfEpsilon(of_epsilon=0.1), step_schedule="linear", loss="cw_margin", kappa=1e6)
    for epsilon in epsilons(evaluation.threat, x[0].numel()):
        noise = Noise.of(index, evaluation.seed, "epsilon curve")
        x_adv = Adversary(evaluation.threat.model_copy(update={"epsilon": epsilon}), attack).perturb(
            Logits(model), x, y, noise
        )
        stood = predicted(logits_of(model, x_adv, len(x))) == y
        curve.append((epsilon, int(stood.sum()), len(y)))
        if epsilon == evaluation.threat.epsilon:
            fell[probed] = ~stood
    return curve, fell.tolist()


@torch.no_grad()
def _precision(model: nn.Module, x: Tensor, y: Tensor) -> tuple[int, int, int]:
    """How many of ``x`` are classified correctly in float32 and in bfloat16, and how many could be tried."""
    if len(x) == 0:
        return 0, 0, 0
    exact = predicted(model(x))
    try:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            coarse = predicted(model(x))
    except RuntimeError:  # an exported program may fix the types inside; then there is nothing to compare
        return 0, 0, 0
    return int((exact == y).sum()), int((coarse == y).sum()), len(x)

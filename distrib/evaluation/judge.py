"""A model judged in this process, on images in memory: without a job, a run's folder, or Ray."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from distrib import __version__
from distrib.attack import PGD, must_be_images, undisturbed
from distrib.data.beton import DataCard
from distrib.data.loader import Batch
from distrib.data.order import chosen
from distrib.errors import DataError
from distrib.evaluation.attacks import Evaluation, EvaluationAttack, EvaluationPlan, Pgd, Stored, Tier, Transfer
from distrib.evaluation.card import Card, Origin
from distrib.evaluation.evidence import Evidence, gather
from distrib.evaluation.harder import try_harder
from distrib.evaluation.made import Made, num_parameters
from distrib.evaluation.model_flags import needs_harder_attacks
from distrib.evaluation.result import conclude
from distrib.evaluation.shard import attack_shard, score_images
from distrib.threat import Threat
from distrib.values import Value


def evaluate(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, tier: Tier | Sequence[EvaluationAttack] = "standard"
) -> Card:
    """How many of the images ``x`` the ``model`` classifies rightly, under every attack of the tier: its card.

    ``x`` float32 ``[N, C, H, W]`` in [0, 1], ``y`` int64 ``[N]``, both on the model's device. A tier is quick, paper,
    standard (AutoAttack) or paranoid, or one's own list of attacks. In a notebook the card shows itself; printed, it is
    a page of text. :func:`judge` takes more settings. Raises :class:`DataError`.
    """
    named = {"tier": tier} if isinstance(tier, str) else {"attacks": tuple(tier)}
    try:
        evaluation = Evaluation.model_validate({"threat": threat, **named}, strict=True)
    except ValidationError as error:
        if not isinstance(threat, Value):
            raise DataError(f"threat: is {threat!r}; give distrib.Linf(epsilon=8/255), or L2 or L1") from None
        if any(isinstance(one, PGD) and not isinstance(one, Pgd) for one in named.get("attacks", ())):
            raise DataError("tier: distrib.PGD is for training; list distrib.Pgd(attack='pgd', num_steps=40)") from None
        (first, *_) = error.errors()
        raise DataError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}") from None
    return judge(model, x, y, evaluation)


def judge(model: nn.Module, x: Tensor, y: Tensor, evaluation: Evaluation, classes: Sequence[str] = ()) -> Card:
    """The robustness card of ``model``, which takes ``x`` to logits; it is left as it was.

    ``x`` are the images, float32 ``[N, C, H, W]`` in [0, 1], ``y`` the labels, int64 ``[N]``, both on the model's
    device; ``classes`` name the labels (their numbers, if not given). The same attacks, probes and flags as of a job,
    shard after shard. Raises :class:`DataError` where these are no such images, or a threat is missing.
    """
    must_be_images(x, y)
    if len(x) == 0:
        raise DataError("x: holds no image")
    if any(isinstance(attack, Transfer | Stored) for attack in evaluation.attacks) or evaluation.sources:
        raise DataError("evaluation.attacks: transfer and stored take images from elsewhere; they need a job")
    try:
        plan = evaluation.plan(None, grey=x.shape[1] == 1)
    except ValueError as error:
        raise DataError(str(error)) from None
    with undisturbed(model, "eval"), torch.no_grad():
        logits = model(x[:1])
    if isinstance(logits, Tensor) and logits.ndim == 2 and y.max() >= logits.shape[1]:
        raise DataError(
            f"y: holds the label {y.max()}, but a model of {logits.shape[1]} logits knows none from there on"
        )
    names = tuple(classes) or tuple(str(label) for label in range(int(y.max()) + 1))
    evidence = replace(_evidence(model, x, y, plan, len(names)), classes=names)
    data = _digest([x, y])
    card = DataCard(
        distrib_version=__version__, job={}, job_digest="", split="test", count=len(x), classes=names,
        image=(x.shape[2], x.shape[3], x.shape[1]), encoding="array", file="", size_bytes=0, sha256="",
        content_sha256=data, mean=(), std=(), fingerprint="",
    )  # fmt: skip
    weights = _digest(list(model.state_dict().values()))
    made = Made(network=type(model).__name__, parameters=num_parameters(model))
    origin = Origin(type(model).__name__, weights, {}, {"data": {"source": "arrays"}}, "", made=made)
    return Card.of(conclude(evidence), plan, card, origin, evidence)


def _evidence(model: nn.Module, x: Tensor, y: Tensor, evaluation: EvaluationPlan, num_classes: int) -> Evidence:
    """What the attacks found; harder ones are tried where a probe says that the gradient cannot be believed."""
    order = chosen(len(x), evaluation.n, evaluation.seed)
    batches, shards = [], []
    for start in range(0, len(order), evaluation.shard_size):
        index = y.new_tensor(order[start : start + evaluation.shard_size].tolist())
        batches.append(Batch(x[index], y[index], index))
        positions = np.arange(start, start + len(index))
        shards.append(attack_shard(model, batches[-1], positions, evaluation))
    if needs_harder_attacks(gather([shard.result for shard in shards], evaluation, len(order), num_classes)):
        shards = [
            try_harder(model, batch, shard.result, shard.worst, evaluation)
            for batch, shard in zip(batches, shards, strict=True)
        ]
    disagree: list[int] = []
    for batch, shard in zip(batches, shards, strict=True):
        margins, _ = score_images(model, batch.x, shard.worst, batch.y, evaluation.threat)
        disagree += shard.result.disagreeing(margins)
    return gather([shard.result for shard in shards], evaluation, len(order), num_classes, disagree)


def _digest(tensors: list[Tensor]) -> str:
    seen = hashlib.sha256()
    for tensor in tensors:
        seen.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return seen.hexdigest()

"""The saddle-point problem of Madry et al. (arXiv 1706.06083, equation 2.1), on one screen.

min over theta of  E_(x,y) [ max over delta in S of  L(theta, x + delta, y) ]
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distrib.data.loader import Batch
from distrib.data.order import bounds
from distrib.models.batch_norm import unrecorded
from distrib.noise import Noise
from distrib.objective import SaddlePoint
from distrib.precision import forward_in
from distrib.state import State


@dataclass(frozen=True)
class Sums:
    """What one step saw on this rank, as tensors, so that nothing waits for the device."""

    loss: Tensor
    """The sum of the losses."""
    correct: Tensor
    """How many of the images trained on were classified rightly."""
    count: int


def update(state: State, batch: Batch, objective: SaddlePoint, noise: Noise, epsilon_scale: float) -> Sums:
    """One step of training: perturb, then descend. Every rank calls it with its part of the same global batch.

    ``noise`` is a stream for each sample; ``epsilon_scale`` in [0, 1] is the part of epsilon that is in force.
    """
    numbers, count, among = forward_in(state.precision, state.world.device), len(batch.y), state.optim.accumulate
    parts = []
    for number in range(among):  # one, unless a batch is too large for the memory
        rows = slice(*bounds(count, number, among))
        x, y = batch.x[rows], batch.y[rows]
        x_adv = x  # all there is in a ball of radius 0
        if epsilon_scale > 0:
            with numbers:  # inner max: bare module, no collectives
                x_adv = objective.perturb(state.climbed, x, y, noise[rows], epsilon_scale)
        parts.append((x, x_adv, y))

    def gradient() -> Sums:
        losses, hits = [], []
        for number, (x, x_adv, y) in enumerate(parts, 1):
            with state.part(number, among):
                with numbers:
                    outcome = objective.loss(state.ddp, x, x_adv, y)  # outer min: exactly one DDP forward
                state.backward(outcome.loss, state.loss_weight(len(y)))  # gradients averaged over the ranks
            losses.append(outcome.loss.detach() * len(y))
            hits.append((outcome.logits.argmax(dim=1) == (y if y.ndim == 1 else y.argmax(dim=1))).sum())
        return Sums(torch.stack(losses).sum(), torch.stack(hits).sum(), count)

    gamma = state.optim.awp_gamma
    if gamma and epsilon_scale > 0:  # and a max over the weights, for the same images (AWP)
        with unrecorded(state.model):
            gradient()
        with state.worst_weights(gamma):
            sums = gradient()
    else:
        sums = gradient()
    state.advance()  # finite on every rank, or raise; lr(step); step
    return sums

"""The judged model as attacks meet it: float32 logits, numbers that can be climbed, and no escape by NaN."""

import torch
from torch import Tensor, nn

from distrib.attack import predicted
from distrib.threat import Threat, outside

LOWEST_LOGIT = -1e30
"""Stands for a logit of minus infinity while an attack computes with it."""

PATIENCE = 5000
"""So many images without a prediction are compared in vain before no more are: those of known rows come again at every
forward."""


class Logits(nn.Module):
    """A model with float32 logits, whatever its own type; all numbers, its gradient's too, are finite.

    An image without a prediction (:func:`distrib.attack.predicted`) gets logits of 0, so that an attack goes on past
    it. Attacks would count it as class 0: given the images ``x`` and a threat, :meth:`worst` remembers it for them.
    """

    def __init__(self, model: nn.Module, x: Tensor | None = None, threat: Threat | None = None):
        super().__init__()
        self.model, self.x, self.threat = model, x, threat
        self.unpredicted: dict[int, Tensor] = {}
        """By its row in ``x``, the first image within the threat that had no prediction."""
        self.patience = PATIENCE
        self.dtype = torch.float32
        """The model's own, of its last logits."""

    def forward(self, x: Tensor) -> Tensor:
        given = x
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(torch.nan_to_num)
        logits = self.model(x)
        self.dtype, logits = logits.dtype, logits.float()
        if torch.isfinite(logits).all():
            return logits
        lost = predicted(logits) < 0
        if self.x is not None:
            self._remember(given.detach()[lost])
        return torch.where(lost[:, None], 0.0, logits).clamp_min(LOWEST_LOGIT)

    def worst(self, x_adv: Tensor) -> Tensor:
        """``x_adv``, one a row of ``x``; in its place the image without a prediction, where one was met."""
        if not self.unpredicted:
            return x_adv
        x_adv = x_adv.clone()
        for row, image in self.unpredicted.items():
            x_adv[row] = image
        return x_adv

    def _remember(self, images: Tensor) -> None:
        assert self.x is not None and self.threat is not None
        for image in images:
            rows = [row for row in range(len(self.x)) if row not in self.unpredicted]
            if not rows or self.patience == 0:
                return
            x = self.x[rows]
            near = (~outside(self.threat, x, image.expand_as(x))).nonzero()[:, 0].tolist()
            self.unpredicted |= {rows[one]: image.clone() for one in near}
            self.patience -= not near


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """The model's own logits of ``x`` as float32, ``batch_size`` images at a time."""
    own = model.model if isinstance(model, Logits) else model
    return torch.cat([own(part).float() for part in x.split(batch_size)])

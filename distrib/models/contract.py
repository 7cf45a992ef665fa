"""What a network of one's own must keep to, tried on a few images before hours are spent on it."""

import warnings

import torch
from torch import Tensor, nn

from distrib.errors import JobError
from distrib.models.custom import reason_of

ALONE = 1e-3
"""How far logits of an image alone may be from those in a batch, as a share of the largest: much more than rounding."""
NETWORK = "model: the network"


def check_contract(net: nn.Module, x: Tensor, num_classes: int) -> None:
    """Tries ``net`` on a few images ``x`` ``[B, C, H, W]``, at least two; it is left as it was.

    Raises :class:`JobError` with the first promise that it breaks: a logit a class, finite; a gradient for each image;
    nothing changed by being asked; the answer to an image the same alone as in a batch; an exported program.
    """
    modes = [(module, module.training) for module in net.modules()]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.eval()
    try:
        logits = _judged(net, x.detach().clone().requires_grad_(), num_classes)
        with torch.no_grad():
            alone = torch.cat([net(image[None]) for image in x])
        if (alone - logits).abs().max() > ALONE * logits.abs().max().clamp(min=1e-6):
            raise JobError(f"{NETWORK} judges an image in a batch otherwise than alone, in evaluation mode")
        changed = [name for name, tensor in net.state_dict().items() if not torch.equal(before[name], tensor)]
        if changed:
            raise JobError(f"{NETWORK} changes {changed[0]} when it is asked in evaluation mode; only training may")
    except JobError:
        raise
    except Exception as error:  # whatever its author's code raises
        shape = "x".join(map(str, x.shape[1:]))
        raise JobError(f"{NETWORK} does not take images of {shape} (CxHxW): {reason_of(error)}") from error
    else:
        _check_export(net, x)
    finally:
        for module, mode in modes:
            module.training = mode


def _judged(net: nn.Module, x: Tensor, num_classes: int) -> Tensor:
    logits = net(x)
    if not isinstance(logits, Tensor) or logits.shape != (len(x), num_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise JobError(f"{NETWORK} returns {found} for {len(x)} images, not ({len(x)}, {num_classes}): a logit a class")
    if num_classes > 1 and (logits >= 0).all() and ((logits.sum(dim=1) - 1).abs() < 1e-4).all():
        raise JobError(f"{NETWORK} returns probabilities, through which gradients vanish; leave the last softmax out")
    if not torch.isfinite(logits).all():
        raise JobError(f"{NETWORK} returns logits that are not finite")
    some = (logits * torch.linspace(-1, 1, num_classes)).sum()
    gradient = torch.autograd.grad(some, x, allow_unused=True)[0] if logits.requires_grad else None
    if gradient is None or not torch.isfinite(gradient).all() or not (gradient.flatten(1) != 0).any(1).all():
        raise JobError(
            f"{NETWORK} has no gradient by the pixels, or one that is not finite, so no attack could climb it; leave "
            "out what cuts it: detach, rounding, numpy"
        )
    return logits.detach()


def _check_export(net: nn.Module, x: Tensor) -> None:
    """Raises :class:`JobError` unless ``net`` can be stored as a program for batches of any size."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch.export, about its own internals
            torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    except Exception as error:  # torch.export raises whatever it meets
        raise JobError(
            f"{NETWORK} cannot be stored as a program of torch.export for batches of any size, as the registry does: "
            f"{reason_of(error)}"
        ) from error

"""Weights that training begins with in place of random ones: under which names, what fits, and what is trained on."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from distrib.errors import JobError
from distrib.models.weights import finite
from distrib.models.zoo import as_ours
from distrib.values import Value

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and habit put before the names of a network's tensors."""
TENSORS = (".safetensors", ".pt", ".pth")
"""How the names of files of tensors end."""
LISTED = 10


class Init(Value):
    """The weights that training begins with."""

    weights: str
    """models:/NAME/VERSION, models:/NAME@ALIAS, a checkpoint folder, an exported program (.pt2), a file of tensors
    (.safetensors, or a state dict in .pt or .pth), or for a network of torchvision or timm: pretrained."""
    head: Literal["keep", "new"] = "keep"
    """new: the last layer is drawn with the seed, for classes that the weights do not know."""
    freeze: Literal["none", "body"] = "none"
    """body: only the last layer is trained; BatchNorm before it keeps its statistics."""
    download: bool = False
    """Pretrained weights may be downloaded where the library's cache lacks them."""


class Normalised(Value):
    """What a network subtracts from each colour, and then divides by."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    """One number for each channel, of pixels in [0, 1]; 0 where nothing is subtracted."""
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    """One number for each channel; 1 where nothing is divided."""


def head_of(net: nn.Module) -> str:
    """The name of the layer that gives the logits: the last one with a matrix or a kernel."""
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not names:
        raise JobError("init: this network has neither a linear layer nor a convolution; leave init out")
    return names[-1]


def begin_from(net: nn.Module, tensors: dict[str, Tensor], init: Init, field: str = "init.weights") -> None:
    """Puts ``tensors``, those of ``init.weights``, into ``net``: all that it has, or nothing. ``field`` named them.

    What they may lack stays as it was built: the normalisation of the pixels, counts of batches, and a new head.
    Raises :class:`JobError` with the tensors that do not fit.
    """
    own = net.state_dict()
    given = _under(own, tensors)
    head = {f"{head_of(net)}.{part}" for part in ("weight", "bias")} if init.head == "new" else set()
    may_lack = head | {name for name in own if name.startswith("normalise.") or name.endswith("num_batches_tracked")}
    wrong = [f"{name} is not there" for name in own if name not in given and name not in may_lack]
    wrong += [f"{name} is of another network" for name in given if name not in own and name not in head]
    unlike = [name for name in own.keys() & given.keys() - head if own[name].shape != given[name].shape]
    wrong += [f"{name} is {_shape(given[name])} and must be {_shape(own[name])}" for name in own if name in unlike]
    if wrong:
        more = f"; and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise JobError(
            f"{field}: {init.weights} does not fit: {'; '.join(wrong[:LISTED])}{more}; {_cure(net, unlike, field)}"
        )
    taken = {name: tensor for name, tensor in given.items() if name not in head}
    if not finite(taken):
        raise JobError(f"{field}: {init.weights} holds numbers that are not finite; name others")
    net.load_state_dict(own | taken)


def freeze_body(net: nn.Module) -> None:
    """Nothing but the layer of the logits takes gradients from now on."""
    net.requires_grad_(False)
    net.get_submodule(head_of(net)).requires_grad_(True)


def _cure(net: nn.Module, unlike: list[str], field: str) -> str:
    if field == "model":
        return "set network to the one that they were trained in"
    if unlike and all(name.startswith(f"{head_of(net)}.") for name in unlike):
        return "for other classes, set init.head: new"
    return "set model to the network that they were trained in"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _under(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under the names of ``own``: whatever stands before all of them goes, or comes, if so more agree."""
    return max(_renamed(tensors), key=lambda one: len(own.keys() & one.keys()))


def _renamed(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    while True:
        yield tensors
        yield {f"net.{name}": tensor for name, tensor in tensors.items()}  # a library's stand there in ours
        yield {as_ours(name): tensor for name, tensor in tensors.items() if not name.startswith("sub_block1.")}
        wrapper = next((word for word in WRAPPERS if all(name.startswith(word) for name in tensors)), None)
        if wrapper is None or not tensors:
            return
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}

"""The network of a model as a module of plain torch: what is read, changed and trained where distrib is not.

Of a network of ours it holds the layers themselves; of one of torchvision, timm or one's own, the call that makes it.
"""

import inspect
import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from distrib.models import CustomNet, Model, TimmNet, TorchvisionNet
from distrib.models.adapt import Repeat, Resize
from distrib.models.layers import GlobalMean, ImageShape, Normalise, PerImage
from distrib.models.resnet import Unit

TOLD = (Normalise, PerImage, GlobalMean, Unit, Repeat, Resize)
"""Layers whose text is written beside the network: each needs torch alone."""
ELSEWHERE_MADE = "net"
"""What the network of another library is called among its layers."""
IMPORTS = {
    "collections": {"OrderedDict(": "OrderedDict"},
    "collections.abc": {"Callable[": "Callable", "Sequence[": "Sequence"},
    "pathlib": {"Path(": "Path"},
    "safetensors.torch": {"load_file(": "load_file"},
    "torch": {"Tensor": "Tensor", "nn.": "nn"},
    "torch.nn": {"functional.": "functional"},
}
"""What is imported from where, if such a word is in the text."""

PAGE = '''"""{title}: float32 [B, {image}] in [0, 1] to logits [B, {num_classes}]. Written by distrib; needs {needs}.

    from model import load

    net = load()    # the trained network, an ordinary torch module in evaluation mode
"""

{imports}


{layers}def build() -> nn.Module:
    """The network before it is trained."""
    return {network}


def load(weights: Path = Path(__file__).with_name("weights.safetensors")) -> nn.Module:
    """The trained network, in evaluation mode."""
    net = build()
    net.load_state_dict(load_file(weights))
    return net.eval()
'''


def definition(model: Model, image: ImageShape, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> str:
    """The text of ``model.py`` for images ``image`` (C, H, W), with the functions ``build()`` and ``load(weights)``.

    Raises :class:`JobError` where the network cannot be built here, as one of timm where that is not installed.
    """
    place, layers = "", ""
    if isinstance(model, CustomNet):
        place = model.factory.partition(":")[0]
        whence = "its text is model.source of job.json" if model.source else "of an installed package"
        needs = f"torch, safetensors and {place} ({whence})"
        network = f"{model.factory.replace(':', '.')}({image}, {num_classes}"
        network += f", **{model.args!r})" if model.args else ")"
    else:
        net = model.build(image, num_classes, mean, std)
        if isinstance(model, TimmNet | TorchvisionNet):
            place, foreign = model.arch, model.written(image, num_classes)
        else:
            foreign = ""
        needs = ", ".join(filter(None, ["torch", place])) + " and safetensors"
        network = _written(net, 1, foreign)
        used = {type(one) for one in net.modules()}
        layers = "".join(f"{inspect.getsource(one)}\n\n" for one in TOLD if one in used)
    title = getattr(model, "name", None) or getattr(model, "factory", None) or model.arch
    return PAGE.format(
        title=title, image=", ".join(map(str, image)), num_classes=num_classes, needs=needs, layers=layers,
        imports=_imports(layers + network, place), network=network,
    )  # fmt: skip


def _imports(body: str, place: str) -> str:
    """The lines that import what the text asks for, those of Python itself first."""
    named = {where: [name for word, name in names.items() if word in body + PAGE] for where, names in IMPORTS.items()}
    lines = {where: f"from {where} import {', '.join(names)}" for where, names in named.items() if names}
    own = [line for where, line in lines.items() if where.startswith(("collections", "pathlib"))]
    others = [f"import {one}" for one in sorted({place, "torch" if "torch.tensor" in body else ""} - {""})]
    return "\n".join([*own, "", *others, *(line for line in lines.values() if line not in own)])


def _written(module: nn.Module, depth: int, foreign: str) -> str:
    """The expression that makes ``module``, in lines; ``foreign`` in the place of another library's network."""
    indent = "    " * (depth + 1)
    match module:
        case nn.Sequential():
            named = not all(name.isdecimal() for name in module._modules)
            parts = [
                f"{indent}{'    ' * named}{f'{name}=' if named else ''}"
                f"{foreign if foreign and name == ELSEWHERE_MADE else _written(one, depth + 1 + named, foreign)},\n"
                for name, one in module._modules.items()
                if one is not None
            ]
            opened, closed = (f"{indent}OrderedDict(\n", f"{indent})\n") if named else ("", "")
            return f"nn.Sequential(\n{opened}{''.join(parts)}{closed}{indent[4:]})"
        case Normalise():
            return f"Normalise({_numbers(module.mean)}, {_numbers(module.std)})"
        case Unit():
            before, after = module.conv1.in_channels, module.conv1.out_channels
            made = _call(module.activation)
            made = made[:-2] if made.endswith("()") else f"lambda: {made}"
            return f"Unit({before}, {after}, {module.conv1.stride[0]}, {made})"
        case Resize():
            return f"Resize({module.size})"
        case PerImage() | GlobalMean() | Repeat():
            return f"{type(module).__name__}()"
    return _call(module)


def _call(module: nn.Module) -> str:
    """The call that makes a layer of torch's own, which says there what it was made with; defaults are left out."""
    known = inspect.signature(type(module)).parameters
    given = re.findall(r"(?:[^,(]|\([^)]*\))+", module.extra_repr())
    kept = [part.strip() for part in given if not _default(part.strip(), known)]
    return f"nn.{type(module).__name__}({', '.join(kept)})"


def _default(part: str, known: Mapping[str, inspect.Parameter]) -> bool:
    name, equals, value = part.partition("=")
    return bool(equals) and name in known and repr(known[name].default) == value


def _numbers(buffer: Tensor) -> list[float]:
    return [float(str(number)) for number in buffer.flatten().numpy()]  # the shortest that is this float32

"""RobustBench's zoo: the names of its networks' tensors, and which network of its own each of ours is.

It has the networks of the code of TRADES (Zhang et al., arXiv 1901.08573), for images of 3x32x32.
"""

import re
from dataclasses import dataclass

from distrib.errors import JobError
from distrib.models.resnet import PreActResNet, WideResNet
from distrib.values import Value

ELSEWHERE = (
    (r"^block(\d)\.layer\.(\d+)\.", r"group\1.\2."),  # WideResNet
    (r"^layer(\d)\.(\d+)\.", r"group\1.\2."),  # PreActResNet
    (r"^(group.*)\.bn([12])\.", r"\1.norm\2."),
    (r"^(group.*)\.(convShortcut|shortcut\.0)\.", r"\1.shortcut."),
    (r"^conv1\.", "stem."),
    (r"^bn1?\.", "norm."),
    (r"^(fc|linear)\.", "classifier."),
)
"""What tensors are called there, and here."""


def as_ours(name: str) -> str:
    """Our name of a tensor that is called ``name`` there; ``name`` itself, where it is called so here too."""
    return _renamed(name, ELSEWHERE)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for before, after in rules:
        name = re.sub(before, after, name)
    return name


@dataclass(frozen=True)
class ZooNet:
    """A network of ours as the zoo builds it."""

    title: str
    """As its tables call it: WideResNet-28-10."""
    module: str
    """The module of its architectures where the classes are."""
    classes: str
    """What is imported from there; the network's own class first."""
    arguments: str
    """What that is built with, but for the number of classes of images."""
    tensors: tuple[tuple[str, str], ...]
    """What tensors are called here, and there."""

    def theirs(self, name: str) -> str:
        """What a tensor that is called ``name`` here is called there."""
        return _renamed(name, (*self.tensors, (r"\.norm([12])\.", r".bn\1."), (r"^stem\.", "conv1.")))


def in_zoo(model: Value, image: tuple[int, int, int]) -> ZooNet:
    """``model`` for images ``image`` (C, H, W) as the zoo builds it. Raises :class:`JobError` where it cannot."""
    if image == (3, 32, 32):
        match model:
            case WideResNet(activation="relu", normalisation="dataset") if model.width.is_integer():
                names = ((r"^group(\d)\.", r"block\1.layer."), (r"\.shortcut\.", ".convShortcut."),
                         (r"^norm\.", "bn1."), (r"^classifier\.", "fc."))  # fmt: skip
                arguments = f"depth={model.depth}, widen_factor={model.width:.0f}"
                title = f"WideResNet-{model.depth}-{model.width:.0f}"
                return ZooNet(title, "wide_resnet", "WideResNet", arguments, names)
            case PreActResNet(activation="relu", depth=18 | 34, stem_stride=1, width=1.0):
                names = ((r"^group(\d)\.", r"layer\1."), (r"\.shortcut\.", ".shortcut.0."),
                         (r"^norm\.", "bn."), (r"^classifier\.", "linear."))  # fmt: skip
                units = [2, 2, 2, 2] if model.depth == 18 else [3, 4, 6, 3]
                arguments = f"PreActBlockV2, {units}, bn_before_fc=True"
                return ZooNet(f"PreActResNet-{model.depth}", "resnet", "PreActResNet, PreActBlockV2", arguments, names)
    raise JobError(
        "model: RobustBench's zoo has WideResNets of whole widths, and PreActResNets of depth 18 and 34 at width 1, "
        "with relu, on images of 3x32x32; this network is none of them: send the registered program (distrib pull)"
    )

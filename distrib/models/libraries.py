"""The networks of other libraries by their names alone, for whoever asks for one of them as if it were ours."""

from distrib.errors import JobError
from distrib.models.timm import timm_names
from distrib.models.torchvision import torchvision_names


def library_of(name: str) -> str:
    """`` (torchvision has it: ...)`` where a library that is installed has a network of this name; else nothing."""
    for arch, names in (("torchvision", torchvision_names), ("timm", timm_names)):
        try:
            if name in names():
                return f" ({arch} has it: model: {{arch: {arch}, name: {name}}})"
        except JobError:
            pass  # it is not installed
    return ""

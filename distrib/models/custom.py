"""A network of one's own: what a function of a Python module returns. The module's text travels with the job."""

import hashlib
import importlib
import importlib.util
import linecache
import sys
from collections.abc import Callable, Sequence
from keyword import iskeyword
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import torch
from pydantic import Field, JsonValue, field_validator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from distrib.errors import JobError, nearest
from distrib.files import file_sha256
from distrib.models.layers import ImageShape
from distrib.values import Value

LARGEST_SOURCE = 1 << 18
"""Characters of a module's text."""


class CustomNet(Value):
    """A network of your own, built by a function in a Python module."""

    arch: Literal["custom"] = "custom"
    factory: str
    """MODULE:FUNCTION. The module is a file MODULE.py beside the job file, whose text goes to every worker, or one that
    is installed everywhere. The function takes the shape of an image (C, H, W), the number of classes and what args
    says by name, and returns a torch module from pixels in [0, 1] to logits; it draws its weights by torch's seed."""
    args: dict[str, JsonValue] = Field(default={})
    """What the function is given by name."""
    batch_norm: bool = True
    """Whether the network has BatchNorm; false allows workers fewer than 16 images each."""
    source: Annotated[str, Field(max_length=LARGEST_SOURCE)] | None = None
    """The module's text. Leave it out: it is read from the file beside the job file. Who runs the job runs it."""
    sha256: str | None = None
    """Of an installed module's file: what every worker must have. Leave it out: it is that of the machine which reads
    the job file, if the module is installed there. The files that it imports are not looked at."""

    @field_validator("factory")
    @classmethod
    def _two_names(cls, factory: str) -> str:
        place, _, name = factory.partition(":")
        if place.endswith(".py"):
            raise ValueError(f"name the module without .py: {Path(place).stem}:{name or 'build'}")
        words = [*place.split("."), name]
        if not all(word.isidentifier() and not iskeyword(word) for word in words):
            raise ValueError(f"expected MODULE:FUNCTION, such as my_models:build, not {factory!r}")
        return factory

    def build(self, image: ImageShape, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
        """What the factory returns, in training mode. Mean and std of the data are not used: pixels come as they are.

        Raises :class:`JobError` where it cannot be called, raises an error, or returns no torch module.
        """
        try:
            net = self.function()(image, num_classes, **self.args)
            if isinstance(net, nn.Module) and any(map(is_lazy, net.state_dict(keep_vars=True).values())):
                with torch.no_grad():
                    net.eval()(torch.zeros(1, *image))  # lazy layers take their size from it
        except JobError:
            raise
        except Exception as error:  # whatever its author's code raises
            raise JobError(f"model.factory: {self.factory} failed: {reason_of(error)}") from error
        if not isinstance(net, nn.Module):
            raise JobError(f"model.factory: {self.factory} returned a {type(net).__name__}, not a torch module")
        if not self.batch_norm and any(isinstance(module, _BatchNorm) for module in net.modules()):
            raise JobError("model.batch_norm: is false, and the network has BatchNorm; leave it out")
        return net.train()

    def function(self) -> Callable[..., object]:
        """What is called. Raises :class:`JobError` where it is not there, or its module cannot be imported."""
        place, _, name = self.factory.partition(":")
        try:
            module = importlib.import_module(place) if self.source is None else _executed(place, self.source)
        except ModuleNotFoundError as error:
            if self.source is not None or error.name != place:
                raise JobError(f"model.factory: {place} needs {error.name}, which is not installed") from error
            raise JobError(
                f"model.factory: there is no {place}.py beside the job file, and {place} is not installed"
            ) from error
        except Exception as error:  # as above
            raise JobError(f"model.factory: {place} cannot be imported: {reason_of(error)}") from error
        if self.source is None and self.sha256 is not None and self.sha256 != installed_sha256(place):
            raise JobError(
                f"model.factory: the {place} that is installed here is not the one that the job was begun with: "
                f"{module.__file__} has another sha256 than {self.sha256[:12]}...; install that one, or begin a new run"
            )
        function = getattr(module, name, None)
        if not callable(function):
            own = [key for key, one in vars(module).items() if callable(one) and not key.startswith("_")]
            raise JobError(f"model.factory: {place} has no function {name}{nearest(name, own)}")
        return function


def with_source(document: dict, folder: Path) -> None:
    """Puts the text of ``folder``/MODULE.py into a custom model of a job's ``document`` that has none yet.

    Where there is no such file, the sha256 of the installed module, if there is one.
    """
    parts = (document, document.get("train"), document.get("study"))
    for model in (part.get(field) for part in parts if isinstance(part, dict) for field in ("model", "network")):
        if not isinstance(model, dict) or model.get("arch") != "custom" or model.get("source") is not None:
            continue
        place = str(model.get("factory", "")).partition(":")[0]
        file = folder / f"{place}.py"
        if place.isidentifier() and file.is_file():
            try:
                model["source"] = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise JobError(f"model.factory: {file}: cannot be read ({error})") from None
        elif model.get("sha256") is None:
            model["sha256"] = installed_sha256(place)


def installed_sha256(place: str) -> str | None:
    """The sha256 of the file of the module ``place``, as Python finds it here; None where it finds none."""
    try:
        found = importlib.util.find_spec(place)  # imports the packages that it lies in
        return file_sha256(Path(found.origin)) if found is not None and found.origin is not None else None
    except Exception:  # whatever those do; it is told when the network is built
        return None


def _executed(place: str, source: str) -> ModuleType:
    """The module whose text is ``source``, run once in a process. Its name is its own: another text is another one."""
    name = f"{place}_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        file = f"<{place}.py of the job>"
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)  # for tracebacks, and inspect
        module = ModuleType(name)
        module.__file__ = file
        sys.modules[name] = module
        try:
            exec(compile(source, file, "exec"), module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def reason_of(error: BaseException) -> str:
    """What was raised, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

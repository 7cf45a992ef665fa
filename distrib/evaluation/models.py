"""A stored model: weights, an exported program or a pickle, which can be sent to another process and loaded there."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import nn

from distrib.data.beton import DataCard
from distrib.errors import CheckpointError
from distrib.evaluation import program
from distrib.models import Model
from distrib.models.weights import load_weights

MODEL_TYPE: TypeAdapter = TypeAdapter(Model)


@dataclass(frozen=True)
class Weights:
    """A model value and the content of a safetensors file of its weights."""

    model: dict
    """The dumped model value."""
    image: tuple[int, int, int]
    """(H, W, C)."""
    num_classes: int
    path: Path

    @classmethod
    def of(cls, model: dict, card: DataCard, path: Path) -> "Weights":
        """The weights ``path`` of a model trained on the data of ``card``."""
        return cls(model, card.image, len(card.classes), path)

    @property
    def title(self) -> str:
        """What the network is called: its architecture, with the name that a library or a module has for it."""
        return " ".join(str(self.model[key]) for key in ("arch", "name", "factory") if self.model.get(key))

    def content(self) -> bytes:
        """The bytes whose hash identifies the model."""
        return self.path.read_bytes()

    def load(self, device: torch.device) -> nn.Module:
        """The module, in evaluation mode. Raises :class:`CheckpointError`."""
        height, width, channels = self.image
        value = MODEL_TYPE.validate_python(self.model, strict=False)
        # mean and std are placeholders: they are buffers of the module, so the file brings the measured ones
        module = value.build((channels, height, width), self.num_classes, [0.0] * channels, [1.0] * channels)
        load_weights(module, self.path)
        return module.to(device).to(memory_format=torch.channels_last).eval()  # convolutions are fastest so


@dataclass(frozen=True)
class Exported:
    """A program that torch.export saved: what the registry keeps. Code in it is run only where the job says so."""

    program: bytes
    trusted: bool = False
    title = "an exported program"

    def content(self) -> bytes:
        """The bytes whose hash identifies the model."""
        return self.program

    def load(self, device: torch.device) -> nn.Module:
        """The module. Raises :class:`CheckpointError`."""
        try:
            if self.trusted:
                module = torch.export.load(io.BytesIO(self.program)).module()
            else:
                module = program.load_program(self.program)
        except program.MayRunCode as error:
            raise CheckpointError(f"the model's exported program may run code: {error}") from None
        except Exception as error:  # the reader raises whatever the damage makes it: RuntimeError, KeyError, BadZipFile
            raise CheckpointError(f"the model's exported program cannot be read ({type(error).__name__})") from None
        return module.to(device)


@dataclass(frozen=True)
class Pickled:
    """A module that torch.save pickled. Loading it runs whatever code is in it: only where the job says so."""

    module: bytes
    title = "a pickled module"

    def content(self) -> bytes:
        """The bytes whose hash identifies the model."""
        return self.module

    def load(self, device: torch.device) -> nn.Module:
        """The module, in evaluation mode. Raises :class:`CheckpointError`."""
        try:
            module = torch.load(io.BytesIO(self.module), map_location=device, weights_only=False)
        except (AttributeError, ImportError) as error:
            raise CheckpointError(f"the pickled model cannot be loaded ({error}); is its code installed?") from None
        except Exception as error:  # the reader raises whatever the damage makes it: a file cut short seeks below 0
            raise CheckpointError(
                f"the pickled model cannot be loaded ({type(error).__name__}); it is damaged, or cut short"
            ) from None
        if isinstance(module, dict):
            raise CheckpointError(
                "the pickled model is a dict, not a torch module: weights without their network. Build that, load them "
                "(network.load_state_dict), and torch.export.save(torch.export.export(network.eval(), (images,), "
                "dynamic_shapes=({0: torch.export.Dim('batch')},)), 'model.pt2'); judge that file"
            )
        if not isinstance(module, nn.Module):
            raise CheckpointError(f"the pickled model is a {type(module).__name__}, not a torch module")
        return module.to(device).eval()


StoredModel = Weights | Exported | Pickled


def fingerprint(model: StoredModel) -> str:
    """A hash of the model's tensors, whether in a checkpoint, an exported program or a pickle, under any names."""
    state = model.load(torch.device("cpu")).state_dict().values()
    each = sorted(
        hashlib.sha256(f"{tuple(one.shape)}".encode() + one.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for one in state
    )
    return hashlib.sha256("".join(each).encode()).hexdigest()


def in_folder(path: Path, trusted: bool) -> Exported | Pickled:
    """The model in an MLflow model folder, a .pt2 program or a pickled .pt/.pth module.

    Raises :class:`CheckpointError` where there is none, or only one that is not ``trusted`` and could run code.
    """
    found = [one for ending in ("*.pt2", "*.pth", "*.pt") for one in _files(path, ending)]
    if (path / "MLmodel").exists():  # MLflow keeps its model there, and whatever else was stored with it
        found = [one for one in found if one.parent == path / "data" and one.stem == "model"] or found
    if len(found) > 1:
        names = ", ".join(str(one.relative_to(path)) for one in found[:5])
        raise CheckpointError(f"{path}: holds {len(found)} models, {names}; name the one that is meant")
    if not found:
        raise CheckpointError(
            f"{path}: holds no model: neither a checkpoint (state.json), nor a program of torch.export (.pt2), nor a "
            "pickled module (.pt, .pth)"
        )
    model = found[0]
    if model.suffix == ".pt2":
        content = _content(model)
        if not trusted:
            _harmless(model, content)
        return Exported(content, trusted)
    if not trusted:
        raise CheckpointError(
            f"{model}: a pickle, which runs code when it is loaded; export it with torch.export.save to a .pt2 "
            "file, or set trust_pickle: true if you trust its source"
        )
    return Pickled(_content(model))


def _harmless(path: Path, content: bytes) -> None:
    """Raises :class:`CheckpointError`, which names the file, where loading it could run code, or it is damaged."""
    try:
        program.checked(content)
    except program.MayRunCode as error:
        raise CheckpointError(
            f"{path}: {error}: loading it could run code; export it anew with torch.export.save, or set "
            "trust_pickle: true if you trust its source"
        ) from None
    except Exception as error:  # as above
        raise CheckpointError(f"{path}: the exported program cannot be read ({type(error).__name__})") from None


def _files(path: Path, pattern: str) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob(pattern))
    return [path] if path.is_file() and path.match(pattern) else []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None

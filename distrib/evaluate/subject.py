"""The model that is judged, as something that can be sent to another process."""

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import nn

from distrib.data.beton import Card
from distrib.errors import CheckpointError
from distrib.models import Model
from distrib.state import load_weights

MODEL: TypeAdapter = TypeAdapter(Model)


@dataclass(frozen=True)
class Weights:
    """A model value and a safetensors file of its weights."""

    model: dict
    """The dumped model value."""
    image: tuple[int, int, int]
    """(H, W, C)."""
    num_classes: int
    path: Path

    @classmethod
    def of(cls, model: dict, card: Card, path: Path) -> "Weights":
        """The weights ``path`` of a model trained on the data of ``card``."""
        return cls(model, card.image, len(card.classes), path)

    def load(self, device: torch.device) -> nn.Module:
        """The module, in evaluation mode. Raises :class:`CheckpointError`."""
        height, width, channels = self.image
        value = MODEL.validate_python(self.model, strict=False)
        # mean and std are placeholders: they are buffers of the module, so the file brings the measured ones
        module = value.build((channels, height, width), self.num_classes, [0.0] * channels, [1.0] * channels)
        load_weights(module, self.path)
        return module.to(device).eval()


@dataclass(frozen=True)
class Exported:
    """A program that torch.export saved: what the registry keeps."""

    program: bytes

    def load(self, device: torch.device) -> nn.Module:
        """The module. Raises :class:`CheckpointError`."""
        try:
            exported = torch.export.load(io.BytesIO(self.program))
        except Exception as error:  # the reader raises whatever the damage makes it: RuntimeError, KeyError, BadZipFile
            raise CheckpointError(f"the model's exported program cannot be read ({type(error).__name__})") from None
        return exported.module().to(device)


Subject = Weights | Exported

"""Models: pixels to logits, built from values.

A model is a frozen value with a method ``build(image, num_classes, mean, std)``, which returns a module that takes
float32 ``[B, C, H, W]`` in [0, 1] to logits ``[B, num_classes]``. Normalisation is its first layer, so attacks and
epsilon stay in pixel units. The module is new, in training mode, and a function of torch's global CPU seed only.
``batch_norm`` says whether it holds BatchNorm, and so depends on how a batch is cut among the workers.
"""

from typing import Annotated

from pydantic import Field

from distrib.models.cnn import PaperCNN, SmallCNN
from distrib.models.custom import CustomNet
from distrib.models.resnet import PreActResNet, WideResNet
from distrib.models.timm import TimmNet
from distrib.models.torchvision import TorchvisionNet

Model = Annotated[
    PaperCNN | SmallCNN | PreActResNet | WideResNet | TorchvisionNet | TimmNet | CustomNet, Field(discriminator="arch")
]
"""What classifies the images."""

__all__ = ["CustomNet", "Model", "PaperCNN", "PreActResNet", "SmallCNN", "TimmNet", "TorchvisionNet", "WideResNet"]

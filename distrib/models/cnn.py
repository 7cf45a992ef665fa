"""Small convolutional networks for MNIST and smaller images; PyTorch's default initialisation."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import nn

from distrib.models.layers import ImageShape, Width, channels, check_image, normalise_by
from distrib.values import Value


class PaperCNN(Value):
    """The MNIST network of Madry et al. (section 5 and MadryLab/mnist_challenge, model.py).

    Two 5x5 convolutions (32 and 64 channels), each with relu and 2x2 max pooling, then a layer of 1024 and the
    logits: 3,274,634 parameters on 1x28x28 with 10 classes.

    The paper's capacity series (section 4, figure 4) begins with 2 and 4 channels and a layer of 64, and doubles
    up to 16 times that: widths 1/16, 1/8, 1/4, 1/2 and 1 here. (The paper's code draws its weights from a
    truncated N(0, 0.1); this uses PyTorch's defaults.)
    """

    batch_norm: ClassVar[bool] = False
    arch: Literal["paper_cnn"] = "paper_cnn"
    width: Width = 1.0
    """Multiplies the channels of the two convolutions (32, 64) and the hidden layer (1024)."""

    def build(self, image: ImageShape, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
        """``[B, *image]`` float32 in [0, 1] -> logits ``[B, num_classes]``; drawn from torch's global CPU seed.

        ``image`` (C, H, W) is at least 4x4 pixels, ``mean`` and ``std`` have one number a channel; else JobError.
        """
        check_image(self.arch, image, num_classes, least=4)
        first, second, hidden = (channels(base, self.width) for base in (32, 64, 1024))
        return nn.Sequential(
            OrderedDict(
                normalise=normalise_by(image[0], mean, std),
                conv1=nn.Conv2d(image[0], first, 5, padding=2),
                pool1=nn.MaxPool2d(2),  # before the relu, which gives the same and has a quarter of the work
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(first, second, 5, padding=2),
                pool2=nn.MaxPool2d(2),
                relu2=nn.ReLU(),
                flatten=nn.Flatten(),
                fc1=nn.Linear(second * (image[1] // 4) * (image[2] // 4), hidden),
                relu3=nn.ReLU(),
                fc2=nn.Linear(hidden, num_classes),
            )
        )


class SmallCNN(Value):
    """The MNIST network of Wong, Rice and Kolter, "Fast is better than free" (arXiv 2001.03994).

    Two 4x4 convolutions of stride 2 (16 and 32 channels), then a layer of 100 and the logits: 166,406 parameters on
    1x28x28 with 10 classes.
    """

    batch_norm: ClassVar[bool] = False
    arch: Literal["small_cnn"] = "small_cnn"
    width: Width = 1.0
    """Multiplies the channels of the two convolutions (16, 32) and the hidden layer (100)."""

    def build(self, image: ImageShape, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
        """``[B, *image]`` float32 in [0, 1] -> logits ``[B, num_classes]``; drawn from torch's global CPU seed.

        ``image`` (C, H, W) is at least 4x4 pixels, ``mean`` and ``std`` have one number a channel; else JobError.
        """
        check_image(self.arch, image, num_classes, least=4)
        first, second, hidden = (channels(base, self.width) for base in (16, 32, 100))
        return nn.Sequential(
            OrderedDict(
                normalise=normalise_by(image[0], mean, std),
                conv1=nn.Conv2d(image[0], first, 4, stride=2, padding=1),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(first, second, 4, stride=2, padding=1),
                relu2=nn.ReLU(),
                flatten=nn.Flatten(),
                fc1=nn.Linear(second * (image[1] // 4) * (image[2] // 4), hidden),
                relu3=nn.ReLU(),
                fc2=nn.Linear(hidden, num_classes),
            )
        )

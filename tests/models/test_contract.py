"""What a network of one's own must keep to: each promise, broken by a network that keeps all the others."""

import pytest
import torch
from torch import Tensor, nn

from distrib.errors import JobError
from distrib.models import PreActResNet, SmallCNN
from distrib.models.contract import check_contract

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A sound one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(64, 10)
        self.register_buffer("asked", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1))


class FewClasses(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :7]


class Pair(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x), x


class NotFinite(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (x.mean() * 0)


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class OfOneImage(Net):
    """The pixels of one image only have a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        first = torch.arange(len(x)).view(-1, 1, 1, 1) == 0
        return super().forward(torch.where(first, x, x.detach()))


class Counting(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return super().forward(x)


class OfTheBatch(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0, keepdim=True) / 2)


class Drawing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.rand_like(x))


class Particular(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # torch.export cannot know
            return super().forward(x)
        return super().forward(-x)


class OfColour(Net):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, torch.ones(10, 3, 8, 8)).flatten(1)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (FewClasses, r"returns \(3, 7\) for 3 images, not \(3, 10\): a logit a class"),
        (Pair, "returns tuple for 3 images"),
        (NotFinite, "logits that are not finite"),
        (lambda: nn.Sequential(Net(), nn.Softmax(1)), "returns probabilities, .*; leave the last softmax out"),
        (Detached, "no gradient by the pixels"),
        (OfOneImage, "no gradient by the pixels"),
        (Counting, "changes asked when it is asked in evaluation mode"),
        (OfTheBatch, "judges an image in a batch otherwise than alone"),
        (Drawing, "judges an image in a batch otherwise than alone"),
        (Particular, "cannot be stored as a program of torch.export"),
        (OfColour, r"does not take images of 1x8x8 \(CxHxW\): RuntimeError"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_broken_promise_is_named(build: type[Net], words: str):
    with pytest.raises(JobError, match=rf"^model: the network .*{words}"):
        check_contract(build(), X, 10)


@pytest.mark.parametrize(
    "build",
    [
        Net,
        lambda: SmallCNN(width=0.25).build((1, 8, 8), 10, (0.5,), (0.25,)),
        lambda: PreActResNet(width=0.0625, depth=12).build((1, 8, 8), 10, (0.5,), (0.25,)),
        lambda: nn.Sequential(Net(), nn.LogSoftmax(1)),
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)),
    ],
    ids=["linear", "small_cnn", "with BatchNorm", "log-probabilities", "dropout"],
)
def test_a_sound_network_passes_and_is_left_as_it_was(build):
    net = build().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    check_contract(net, X, 10)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())

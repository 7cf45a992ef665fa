"""RobustBench's names of tensors, both ways, and which of our networks its zoo can build."""

import pytest
import torch
import zoo_nets

from distrib.errors import JobError
from distrib.models import PaperCNN, PreActResNet, WideResNet
from distrib.models.zoo import as_ours, in_zoo

CIFAR = (3, 32, 32)


@pytest.mark.parametrize(
    ("value", "build"),
    [
        (WideResNet(depth=16, width=2.0), lambda: zoo_nets.WideResNet(16, 2, 10)),
        (WideResNet(depth=10, width=1.0), lambda: zoo_nets.WideResNet(10, 1, 10)),
        (PreActResNet(), lambda: zoo_nets.PreActResNet(zoo_nets.PreActBlockV2, [2, 2, 2, 2], 10, True)),
        (PreActResNet(depth=34), lambda: zoo_nets.PreActResNet(zoo_nets.PreActBlockV2, [3, 4, 6, 3], 10, True)),
    ],
    ids=["wide_resnet-16-2", "wide_resnet-10-1", "preact_resnet-18", "preact_resnet-34"],
)
def test_every_tensor_has_its_name_there_and_back(value: WideResNet | PreActResNet, build):
    ours = value.build(CIFAR, 10, [0.0] * 3, [1.0] * 3).state_dict()
    theirs, zoo = build().state_dict(), in_zoo(value, CIFAR)
    mine = {name: tensor for name, tensor in ours.items() if not name.startswith("normalise.")}
    assert {zoo.theirs(name): tensor.shape for name, tensor in mine.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    assert [as_ours(zoo.theirs(name)) for name in mine] == list(mine)


def test_the_titles_and_arguments_are_the_zoo_s():
    assert in_zoo(WideResNet(depth=28), CIFAR).title == "WideResNet-28-10"
    assert in_zoo(WideResNet(depth=28), CIFAR).arguments == "depth=28, widen_factor=10"
    assert in_zoo(PreActResNet(), CIFAR).title == "PreActResNet-18"


@pytest.mark.parametrize(
    "value",
    [
        WideResNet(depth=10, width=1.5), WideResNet(depth=10, activation="silu"),
        WideResNet(depth=10, normalisation="per_image"), PreActResNet(width=0.5), PreActResNet(depth=12),
        PreActResNet(stem_stride=2), PreActResNet(activation="leaky_relu"), PaperCNN(),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_zoo_cannot_build_is_refused_with_what_it_can(value: WideResNet):
    with pytest.raises(JobError, match="this network is none of them"):
        in_zoo(value, CIFAR)


@pytest.mark.parametrize("image", [(1, 32, 32), (3, 64, 64), (3, 28, 28)])
def test_so_are_other_images(image: tuple[int, int, int]):
    with pytest.raises(JobError, match="3x32x32"):
        in_zoo(PreActResNet(), image)


def test_the_networks_of_these_tests_compute_what_ours_do():
    value = WideResNet(depth=10, width=2.0)
    ours, theirs = zoo_nets.drawn(value, [0.0] * 3, [1.0] * 3), zoo_nets.WideResNet(10, 2, 10).eval()
    zoo = in_zoo(value, CIFAR)
    tensors = {zoo.theirs(name): one for name, one in ours.state_dict().items() if not name.startswith("normalise.")}
    theirs.load_state_dict(tensors)
    x = torch.rand(2, *CIFAR)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), ours(x))

"""How small a part of a batch each network can be trained on."""

import pytest
from documents import job
from torch.nn.modules.batchnorm import _BatchNorm

from distrib.config.file import parse
from distrib.config.job import Study
from distrib.errors import JobError
from distrib.models import Model, PaperCNN, PreActResNet, SmallCNN, TorchvisionNet, WideResNet
from distrib.models.parts import check_parts

RESNET, PLAIN = PreActResNet(width=0.0625), SmallCNN()


@pytest.mark.parametrize(("batch_size", "workers"), [(64, 1), (64, 4), (128, 8), (2, 1), (71, 4)])
def test_sixteen_images_a_worker_are_enough_for_batch_norm(batch_size: int, workers: int):
    """One worker alone sees the batch that the job names, however small."""
    check_parts(RESNET, batch_size, workers, "local")


@pytest.mark.parametrize(
    ("batch_size", "workers", "most"), [(64, 8, 4), (64, 32, 4), (63, 4, 3), (16, 2, 1), (2, 2, 1)]
)
def test_fewer_are_refused_with_the_cure(batch_size: int, workers: int, most: int):
    with pytest.raises(
        ValueError, match=rf"preact_resnet has BatchNorm.*at most {most}, or raise .* to {16 * workers}"
    ):
        check_parts(RESNET, batch_size, workers, "local")
    check_parts(PLAIN, batch_size, workers, "local")
    check_parts(RESNET, batch_size, workers)  # over the images of all workers there are enough


@pytest.mark.parametrize(("batch_size", "workers", "accumulate", "statistics"),
    [(64, 1, 4, "local"), (64, 4, 4, "synchronised"), (128, 2, 4, "local")])  # fmt: skip
def test_a_part_of_sixteen_images_is_enough(batch_size: int, workers: int, accumulate: int, statistics: str):
    check_parts(RESNET, batch_size, workers, statistics, accumulate)


@pytest.mark.parametrize(
    ("batch_size", "workers", "accumulate", "statistics", "told"),
    [
        (64, 1, 5, "synchronised", "5 parts of 12 images each, .* take at most 3,"),
        (64, 2, 4, "local", "4 parts of 8 images each, .* take at most 2,"),
        (16, 1, 2, "synchronised", "2 parts of 8 images each, .* take at most 1,"),
    ],
)
def test_smaller_parts_are_refused_with_the_cure(
    batch_size: int, workers: int, accumulate: int, statistics: str, told: str
):
    with pytest.raises(ValueError, match=rf"optim\.accumulate: {told} or raise optim\.batch_size"):
        check_parts(RESNET, batch_size, workers, statistics, accumulate)
    check_parts(PLAIN, batch_size, workers, statistics, accumulate)


def test_a_part_has_an_image():
    check_parts(PLAIN, 8, 2, accumulate=4)
    with pytest.raises(ValueError, match=r"optim\.accumulate: 2 workers cannot compute batches of 8 in 5 parts each"):
        check_parts(PLAIN, 8, 2, accumulate=5)
    with pytest.raises(JobError, match=r"optim\.accumulate: 1 workers cannot compute batches of 4 in 5 parts each"):
        job(optim__batch_size=4, optim__accumulate=5)


def test_statistics_over_all_workers_take_two_images():
    check_parts(RESNET, 2, 2)
    with pytest.raises(ValueError, match=r"optim\.batch_size: preact_resnet has BatchNorm, .* one image at a time"):
        check_parts(RESNET, 1, 1)


@pytest.mark.parametrize(
    "model",
    [
        PaperCNN(width=0.25),
        SmallCNN(),
        RESNET,
        WideResNet(depth=10, width=1.0),
        WideResNet(depth=10, width=1.0, normalisation="per_image"),
        TorchvisionNet(name="resnet18", resize=64),
        TorchvisionNet(name="squeezenet1_1", resize=64),
        TorchvisionNet(name="mobilenet_v3_small", resize=32),
        TorchvisionNet(name="inception_v3", resize=96),
    ],
    ids=lambda model: getattr(model, "name", model.arch),
)
def test_a_model_says_whether_it_has_batch_norm(model: Model):
    net = model.build((3, 32, 32), 4, (0.5,) * 3, (0.2,) * 3)
    assert model.batch_norm == any(isinstance(module, _BatchNorm) for module in net.modules())


def test_the_largest_networks_are_asked_without_their_weights():
    """2.6 GB of them; and some compute their sizes with tensors while they are built."""
    assert TorchvisionNet(name="regnet_y_128gf").batch_norm and not TorchvisionNet(name="swin_t").batch_norm


def test_a_torchvision_network_is_refused_before_anything_starts():
    with pytest.raises(JobError, match="16 workers have 8 of 128 images each, and torchvision has BatchNorm"):
        job(model={"arch": "torchvision", "name": "resnet18"}, cluster__num_workers=16, batch_norm="local")
    for fields in ({"model": {"arch": "torchvision", "name": "vgg11"}, "batch_norm": "local"},
                   {"model": {"arch": "torchvision", "name": "resnet18"}}):  # fmt: skip
        assert job(cluster__num_workers=16, **fields)


def test_a_study_of_capacity_is_refused_before_anything_starts():
    study = {
        "of": "capacity",
        "model": {"arch": "preact_resnet"},
        "widths": [0.125],
        "threat": {"norm": "linf", "epsilon": 0.1},
        "optim": {"name": "sgd", "lr": 0.1, "epochs": 1, "batch_size": 64},
    }
    document = {"kind": "study", "name": "s", "data": {"source": "digits"}, "study": study}
    assert isinstance(parse(document | {"cluster": {"num_workers": 5}}, [], "here"), Study)
    with pytest.raises(JobError, match="80 workers cannot share batches of 64"):
        parse(document | {"cluster": {"num_workers": 80}}, [], "here")

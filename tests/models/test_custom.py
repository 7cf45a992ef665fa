"""A network of one's own: found beside the job file, carried in the job, refused with the reason where it fails."""

import copy
import hashlib
import inspect
import sys
from pathlib import Path

import pytest
import torch
from documents import TRAIN, TUNE, changed
from pydantic import ValidationError

from distrib.config.differences import differences
from distrib.config.file import job_yaml, parse, read
from distrib.config.job import Train, dump
from distrib.errors import JobError
from distrib.models import CustomNet

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, image, num_classes, hidden):
        super().__init__()
        channels, height, width = image
        self.first = nn.Linear(channels * height * width, hidden)
        self.last = nn.Linear(hidden, num_classes)

    def forward(self, x):
        return self.last(torch.relu(self.first(x.flatten(1))))

def build(image, num_classes, hidden=8):
    return Net(image, num_classes, hidden)

def wrong(image, num_classes):
    return "no module"

def failing(image, num_classes):
    raise ValueError("no such size")

def with_norm(image, num_classes):
    return nn.Sequential(nn.BatchNorm2d(image[0]), nn.Flatten(), nn.LazyLinear(num_classes))

number = 3
"""
SHAPE = ((1, 4, 4), 5, (0.5,), (0.25,))


def custom(**fields: object) -> CustomNet:
    return CustomNet(**{"factory": "mine:build", "source": SOURCE} | fields)  # pyright: ignore[reportArgumentType]


def test_the_factory_is_given_the_images_the_classes_and_its_arguments():
    torch.manual_seed(3)
    net = custom(args={"hidden": 6}).build(*SHAPE)
    assert net.training and net.get_submodule("first").weight.shape == (6, 16)
    torch.manual_seed(3)
    again = custom(args={"hidden": 6}).build(*SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert type(net) is type(again) and type(copy.deepcopy(net)) is type(net)
    assert "self.first(x" in inspect.getsource(type(net))  # what torch.export and tracebacks show


def test_two_texts_are_two_modules_and_neither_hides_one_that_is_installed():
    first, second = custom(), custom(source=SOURCE.replace("torch.relu", "torch.tanh"), factory="json:build")
    assert type(first.build(*SHAPE)) is not type(second.build(*SHAPE))
    assert not hasattr(sys.modules.get("json"), "build") and "mine" not in sys.modules


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"factory": "mine:nowhere"}, "mine has no function nowhere"),
        ({"factory": "mine:biuld"}, r"mine has no function biuld \(did you mean build\?\)"),
        ({"factory": "mine:number"}, "mine has no function number"),
        ({"factory": "mine:wrong"}, "mine:wrong returned a str, not a torch module"),
        ({"factory": "mine:failing"}, "mine:failing failed: ValueError: no such size"),
        ({"args": {"depth": 3}}, "mine:build failed: TypeError: .*'depth'"),
        ({"source": "import nothing_of_that_name"}, "mine needs nothing_of_that_name, which is not installed"),
        ({"source": "def build(:"}, "mine cannot be imported: SyntaxError"),
        ({"source": None}, "there is no mine.py beside the job file, and mine is not installed"),
        ({"factory": "mine:with_norm", "batch_norm": False}, "batch_norm: is false, and the network has BatchNorm"),
    ],
)
def test_what_cannot_be_built_is_told_with_the_reason(fields: dict, words: str):
    with pytest.raises(JobError, match=rf"^model\.(factory|batch_norm): .*{words}|^model\.{words}"):
        custom(**fields).build(*SHAPE)


def test_lazy_layers_have_their_size_and_the_same_draws():
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        net = custom(factory="mine:with_norm").build(*SHAPE)
        drawn.append(torch.cat([one.flatten() for one in net.parameters()]))
        assert net.training and net.get_submodule("2").weight.shape == (5, 16)
        assert net.get_submodule("0").running_mean.abs().max() == 0  # pyright: ignore
    assert torch.equal(*drawn)


@pytest.mark.parametrize("factory", ["mine", "mine:", ":build", "mi ne:build", "mine:build:more", "../mine:build"])
def test_other_forms_of_a_factory_are_refused(factory: str):
    with pytest.raises(ValidationError, match=r"expected MODULE:FUNCTION, such as my_models:build"):
        custom(factory=factory)


def test_a_file_name_in_the_place_of_a_module_is_told():
    with pytest.raises(ValidationError, match=r"name the module without \.py: my_models:build"):
        custom(factory="my_models.py:build")


def test_an_installed_module_needs_no_text():
    net = CustomNet(factory="torch.nn:Linear", args={"bias": False})
    with pytest.raises(JobError, match=r"torch\.nn:Linear failed: TypeError"):
        net.build(*SHAPE)  # it is called, and is no such function


def test_an_installed_module_is_the_one_that_the_job_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its sha256 is part of the job: a worker that has another one builds nothing."""
    package = tmp_path / "mine_installed"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    document = changed(TRAIN, {"model": {"arch": "custom", "factory": "mine_installed.nets:build"}})
    job = parse(document, [], "here", tmp_path / "elsewhere")
    assert isinstance(job, Train) and isinstance(job.model, CustomNet) and job.model.source is None
    assert job.model.sha256 == hashlib.sha256(SOURCE.encode()).hexdigest()
    assert job.model.build(*SHAPE).training
    (package / "nets.py").write_text(SOURCE + "# changed")
    with pytest.raises(JobError, match=r"^model\.factory: the mine_installed\.nets .*nets\.py has another sha256"):
        job.model.build(*SHAPE)
    (told,) = differences(parse(document, [], "here", tmp_path / "elsewhere"), dump(job))
    assert told.startswith("model.sha256: ")


@pytest.mark.parametrize("base", [TRAIN, TUNE], ids=["train", "tune"])
def test_the_text_beside_the_job_file_becomes_part_of_the_job(tmp_path: Path, base: dict):
    """So a submitted job, a resumed one and every worker have it, and a changed text is another job."""
    (tmp_path / "mine.py").write_text(SOURCE)
    path = "train.model" if base is TUNE else "model"
    document = changed(base, {path: {"arch": "custom", "factory": "mine:build"}})
    if base is TUNE:
        document["space"] = {"model.args.hidden": {"choice": [4, 8]}}
    (tmp_path / "job.yaml").write_text(job_yaml_of(document))
    job = read(tmp_path / "job.yaml")
    model = job.model if isinstance(job, Train) else job.train.model
    assert isinstance(model, CustomNet) and model.source == SOURCE
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "job.yaml").write_text(job_yaml(job))
    assert read(tmp_path / "other" / "job.yaml") == job, "where no file lies beside it"
    assert "\n" + 4 * " " + "class Net(nn.Module):\n" in job_yaml(job).replace("  " * 3, "  " * 2), "in lines"
    (tmp_path / "mine.py").write_text(SOURCE + "\n# changed")
    (told,) = differences(read(tmp_path / "job.yaml"), dump(job))
    assert told.endswith("model.source: this text, not that of before")


def job_yaml_of(document: dict) -> str:
    import yaml

    return yaml.safe_dump(document)


def test_without_a_file_the_module_is_expected_to_be_installed(tmp_path: Path):
    document = changed(TRAIN, {"model": {"arch": "custom", "factory": "mine:build"}})
    job = parse(document, [], "here", tmp_path)
    assert isinstance(job, Train) and isinstance(job.model, CustomNet) and job.model.source is None
    (tmp_path / "mine.py").write_bytes(b"\xff")
    with pytest.raises(JobError, match=r"model\.factory: .*mine\.py: cannot be read"):
        parse(document, [], "here", tmp_path)

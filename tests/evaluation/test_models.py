"""distrib.evaluation.models: a model from its weights, or from its exported program, is the same model."""

import io
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from distrib.attack import FGSM, Adversary
from distrib.data.beton import DataCard, open_split
from distrib.errors import CheckpointError
from distrib.evaluation.models import Exported, Weights, fingerprint
from distrib.models import SmallCNN
from distrib.models.weights import save_weights
from distrib.noise import Noise
from distrib.threat import Linf

CPU = torch.device("cpu")
VALUE = SmallCNN(width=0.25)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A net whose normalisation and weights are not those that it would be built with."""
    torch.manual_seed(11)
    return VALUE.build((1, 8, 8), 10, [0.3], [0.37]).eval()


@pytest.fixture(scope="module")
def weights(trained: nn.Module, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("subject") / "weights.safetensors"
    save_weights(trained, path)
    return Weights.of(VALUE.model_dump(mode="json"), open_split(digits, "test", "evaluation").card, path)


@pytest.fixture(scope="module")
def program(trained: nn.Module) -> bytes:
    """What the registry keeps: exported with a batch of any size."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about its own internals
        batch = torch.export.Dim("batch", min=1)
        exported = torch.export.export(trained, (torch.rand(4, 1, 8, 8),), dynamic_shapes=({0: batch},))
        torch.export.save(exported, file)
    return file.getvalue()


def test_a_model_is_known_by_its_tensors_in_whatever_form(weights: Weights, program: bytes, tmp_path: Path):
    assert fingerprint(weights) == fingerprint(Exported(program))
    other = weights.load(CPU)
    with torch.no_grad():
        next(other.parameters())[0] += 1e-3
    save_weights(other, tmp_path / "other.safetensors")
    assert fingerprint(replace(weights, path=tmp_path / "other.safetensors")) != fingerprint(weights)


def test_weights_and_program_give_the_logits_of_the_trained_model(trained: nn.Module, weights: Weights, program: bytes):
    assert (weights.image, weights.num_classes) == ((8, 8, 1), 10)
    torch.manual_seed(0)
    loaded = weights.load(CPU)
    assert not loaded.training
    exported = Exported(program).load(CPU)
    for count in (1, 2, 7, 64):
        x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            expected = trained(x)
            assert torch.equal(loaded(x), expected)
            torch.testing.assert_close(exported(x), expected, rtol=1e-6, atol=1e-6)


def test_both_can_be_attacked_and_stay_as_they_are(trained: nn.Module, weights: Weights, program: bytes):
    x, y = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)

    def attacked(model: nn.Module) -> torch.Tensor:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        x_adv = Adversary(Linf(epsilon=0.1), FGSM).perturb(model, x, y, Noise.of(torch.arange(6), 0))
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        return x_adv

    expected = attacked(trained)
    for subject in (weights, Exported(program)):
        found = attacked(subject.load(CPU))
        # a gradient that is zero but for its rounding may have either sign
        assert (found == expected).float().mean() > 0.98


def test_a_loaded_model_owns_its_weights(weights: Weights):
    first = weights.load(CPU)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    x = torch.rand(2, 1, 8, 8)
    assert not torch.equal(weights.load(CPU)(x), first(x))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, weights: Weights):
    for other in (
        Weights(SmallCNN(width=0.5).model_dump(), weights.image, 10, weights.path),
        Weights(weights.model, weights.image, 7, weights.path),
        Weights(weights.model, (16, 16, 1), 10, weights.path),
        Weights(weights.model, weights.image, 10, tmp_path / "gone.safetensors"),
    ):
        with pytest.raises(CheckpointError, match=r"\.safetensors"):
            other.load(CPU)
    for damaged in (b"", weights.path.read_bytes()[:-5], b"{" * 100):
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged\.safetensors"):
            Weights(weights.model, weights.image, 10, path).load(CPU)


@pytest.mark.parametrize("damage", ["empty", "no archive", "cut short", "half", "another archive"])
def test_a_damaged_program_is_refused(program: bytes, damage: str):
    content = {
        "empty": b"",
        "no archive": b"not a program at all" * 50,
        "cut short": program[:-1000],
        "half": program[: len(program) // 2],
        "another archive": b"PK\x05\x06" + b"\x00" * 18,  # an empty zip
    }[damage]
    with pytest.raises(CheckpointError, match="exported program cannot be read"):
        Exported(content).load(CPU)


def test_card_of_data_is_enough_to_name_a_model(tmp_path: Path):
    card = DataCard(
        distrib_version="0", job={}, job_digest="", split="train", count=1, classes=("a", "b"), image=(8, 8, 1),
        encoding="array", file="train.beton", size_bytes=1, sha256="", content_sha256="", mean=(0.0,), std=(1.0,),
        fingerprint="",
    )  # fmt: skip
    subject = Weights.of({"arch": "small_cnn"}, card, tmp_path / "none")
    assert (subject.image, subject.num_classes) == ((8, 8, 1), 2)

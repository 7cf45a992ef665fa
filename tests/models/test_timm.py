"""timm behind its door: what fits is adapted, what does not is refused with a cure."""

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from pydantic import ValidationError
from safetensors.torch import save_file

from distrib.errors import JobError
from distrib.files import file_sha256
from distrib.models import TimmNet
from distrib.models.contract import check_contract
from distrib.models.layers import Normalise
from distrib.models.start import Init, begin_from
from distrib.models.timm import _config

GREY = ((1, 32, 32), 5, (0.5,), (0.25,))
COLOUR = ((3, 32, 32), 5, (0.5,) * 3, (0.25,) * 3)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValidationError, match="timm has no classifier 'resnet81'; the nearest names are resnet18"):
        TimmNet(name="resnet81")
    with pytest.raises(ValidationError, match=r"no classifier 'resnet10t.x_in1k'; the nearest .*resnet10t.c3_in1k"):
        TimmNet(name="resnet10t.x_in1k")
    with pytest.raises(ValidationError, match="no classifier 'hf-hub:someone/model'"):  # what it holds is not timm's
        TimmNet(name="hf-hub:someone/model")


def test_arguments_that_distrib_gives_itself_are_refused():
    with pytest.raises(ValidationError, match="num_classes follows from the data"):
        TimmNet(name="resnet10t", args={"num_classes": 3})
    with pytest.raises(ValidationError, match="checkpoint_path loads weights; say it in init"):
        TimmNet(name="resnet10t", args={"checkpoint_path": "weights.pt"})


@pytest.mark.parametrize("image", [GREY, COLOUR])
@pytest.mark.parametrize(
    "model",
    [
        TimmNet(name="resnet10t"),
        TimmNet(name="mobilenetv3_small_050", args={"drop_path_rate": 0.1}),
        TimmNet(name="convnext_atto", args={"dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}),
        TimmNet(name="vit_tiny_patch16_224", args={"embed_dim": 48, "depth": 2}),  # a table of positions: sized
        TimmNet(name="swin_tiny_patch4_window7_224", args={"embed_dim": 24, "depths": [1, 1, 1, 1]}, resize=64),
    ],
    ids=lambda value: value.name if isinstance(value, TimmNet) else value[0][0],
)
def test_networks_of_every_kind_keep_the_contract(model: TimmNet, image: tuple):
    torch.manual_seed(0)
    net = model.build(*image)
    first = next(net.children())
    assert net.training and isinstance(first, Normalise) and first.std.flatten()[0] == 0.25
    check_contract(net, torch.rand(3, *image[0], generator=torch.Generator().manual_seed(0)), 5)
    assert model.batch_norm == model.name.startswith(("resnet", "mobilenet"))


def test_same_seed_same_weights():
    def draw() -> torch.Tensor:
        torch.manual_seed(3)
        net = TimmNet(name="convnext_atto").build(*COLOUR)
        return torch.cat([p.flatten() for p in net.parameters()])

    assert torch.equal(draw(), draw())


def test_asking_for_batch_norm_draws_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert TimmNet(name="resnet10t", args={"drop_rate": 0.125}).batch_norm
    assert torch.equal(before, torch.get_rng_state())


def test_what_timm_refuses_is_an_error_with_a_cure():
    with pytest.raises(JobError, match=r"model: timm cannot build resnet10t .*unexpected keyword argument 'widht'"):
        TimmNet(name="resnet10t", args={"widht": 2}).build(*COLOUR)
    with pytest.raises(JobError, match=r"model\.resize: inception_v3 does not take images of 32x32 pixels"):
        TimmNet(name="inception_v3").build(*COLOUR)


def test_without_timm_a_model_can_be_read_about_but_not_built(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    model = TimmNet(name="resnet10t")
    assert not model.batch_norm
    with pytest.raises(JobError, match=r"model\.arch: timm cannot be imported .*pip install 'distrib\[timm\]'"):
        model.build(*COLOUR)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put(hub: Path, name: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """Random weights of that network where the hub's cache keeps what it fetched."""
    place = hub / f"models--{_config(name)['hf_hub_id'].replace('/', '--')}"
    file = place / "snapshots" / "0" / "model.safetensors"
    file.parent.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0")
    state = timm.create_model(name).state_dict()
    save_file(state, file)
    return file, state


@pytest.mark.parametrize(("image", "mean"), [(COLOUR, [0.485, 0.456, 0.406]), (GREY, [(0.485 + 0.456 + 0.406) / 3])])
def test_pretrained_weights_come_with_their_normalisation(hub: Path, image: tuple, mean: list):
    file, stored = put(hub, "resnet10t.c3_in1k")
    model = TimmNet(name="resnet10t")
    tensors, sha256 = model.pretrained(image[0], download=False)
    assert sha256 == file_sha256(file)
    net = model.build(*image)
    with pytest.raises(JobError, match=r"net\.fc\.weight is 1000x512 and must be 5x512.*init\.head: new"):
        begin_from(net, tensors, Init(weights="pretrained"))
    begin_from(net, tensors, Init(weights="pretrained", head="new"))
    assert net.get_submodule("normalise").mean.flatten().tolist() == pytest.approx(mean)
    state = net.get_submodule("net").state_dict()
    differ = {name for name in state if state[name].shape != stored[name].shape or (state[name] != stored[name]).any()}
    first = {"conv1.0.weight"} if image is GREY else set()  # whose three colours are one
    assert differ == {"fc.weight", "fc.bias"} | first
    if image is GREY:
        torch.testing.assert_close(state["conv1.0.weight"], stored["conv1.0.weight"].sum(1, keepdim=True))


def test_positions_are_resampled_for_other_sizes(hub: Path):
    _, stored = put(hub, "vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    model = TimmNet(name="vit_tiny_patch16_224", resize=64)
    tensors, _ = model.pretrained(COLOUR[0], download=False)
    assert stored["pos_embed"].shape == (1, 1 + 14 * 14, 192)
    assert tensors["net.pos_embed"].shape == (1, 1 + 4 * 4, 192)
    begin_from(model.build(*COLOUR), tensors, Init(weights="pretrained", head="new"))


def test_pretrained_weights_that_are_not_here_are_fetched_only_if_told(hub: Path, monkeypatch: pytest.MonkeyPatch):
    model = TimmNet(name="resnet10t")
    with pytest.raises(JobError, match=r"init\.weights: timm/resnet10t.c3_in1k is not in .*init\.download: true"):
        model.pretrained(COLOUR[0], download=False)
    asked = []

    def no_network(place: str, name: str, **named: object) -> str:
        asked.append((place, name, named))
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    with pytest.raises(JobError, match=r"init\.weights: timm/resnet10t.c3_in1k cannot be had .*\(no network\)"):
        model.pretrained(COLOUR[0], download=True)
    assert asked == [("timm/resnet10t.c3_in1k", "model.safetensors", {"local_files_only": False})]


def test_a_network_without_weights_is_refused():
    name = next(name for name in timm.list_models() if not _config(name).get("hf_hub_id"))
    with pytest.raises(JobError, match=rf"timm keeps no weights of {name} on its hub"):
        TimmNet(name=name).pretrained(COLOUR[0], download=True)


def test_the_value_is_json():
    model = TimmNet(name="convnext_atto", args={"dims": [8, 16, 32, 64]}, resize=64)
    assert TimmNet.model_validate(json.loads(model.model_dump_json())) == model

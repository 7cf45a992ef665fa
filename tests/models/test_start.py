"""Weights that training begins with: names are matched, what does not fit is listed with a cure, bodies freeze."""

import pytest
import torch
from torch import Tensor, nn

from distrib.errors import JobError
from distrib.models import PaperCNN, PreActResNet, SmallCNN, TorchvisionNet, WideResNet
from distrib.models.start import Init, begin_from, freeze_body, head_of

KEPT = Init(weights="there")
NEW = Init(weights="there", head="new")


def net(classes: int = 10, width: float = 0.125, seed: int = 0, mean: float = 0.5) -> nn.Module:
    torch.manual_seed(seed)
    return PreActResNet(width=width, depth=12).build((3, 16, 16), classes, (mean,) * 3, (0.25,) * 3)


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that are equal."""
    return [name for name in one if torch.equal(one[name], other[name])]


@pytest.mark.parametrize(
    "value",
    [SmallCNN(width=0.25), PaperCNN(width=0.125), PreActResNet(width=0.125), WideResNet(depth=10, width=1.0)]
    + [TorchvisionNet(name=name, resize=32) for name in ("resnet18", "squeezenet1_1", "mobilenet_v3_small")],
    ids=lambda value: getattr(value, "name", value.arch),
)
def test_the_head_gives_the_logits(value: SmallCNN):
    """Whatever it is drawn anew with changes every logit, and it has a row for each class."""
    module = value.build((3, 28, 28), 7, (0.5,) * 3, (0.25,) * 3).eval()
    x = torch.rand(2, 3, 28, 28)
    head = module.get_submodule(head_of(module))
    with torch.no_grad():
        before = module(x)
        head.weight.zero_()
        head.bias.copy_(torch.arange(7.0))
    assert head.weight.shape[0] == 7 and (module(x) == torch.arange(7.0)).all() and before.std() > 0


def test_a_network_without_such_a_layer_has_no_head():
    with pytest.raises(JobError, match="leave init out"):
        head_of(nn.Flatten())


def test_all_tensors_are_taken_the_normalisation_too():
    source, target = net(seed=1, mean=0.4), net(seed=2)
    begin_from(target, copied(source), KEPT)
    assert len(alike(target.state_dict(), source.state_dict())) == len(source.state_dict())


@pytest.mark.parametrize("before", ["module.", "_orig_mod.module.", "model.", "model.net.", ""])
def test_words_before_all_names_are_dropped(before: str):
    source, target = net(seed=1), net(seed=2)
    begin_from(target, {f"{before}{name}": tensor for name, tensor in source.state_dict().items()}, KEPT)
    assert len(alike(target.state_dict(), source.state_dict())) == len(source.state_dict())


def test_weights_of_torchvision_itself_are_found_under_our_names():
    target = TorchvisionNet(name="resnet18", resize=32).build((3, 16, 16), 5, (0.5,) * 3, (0.25,) * 3)
    inner = TorchvisionNet(name="resnet18").build((3, 32, 32), 5, (0.1,) * 3, (0.2,) * 3).get_submodule("net")
    begin_from(target, dict(inner.state_dict()), KEPT)
    state = target.get_submodule("net").state_dict()
    assert len(alike(state, inner.state_dict())) == len(state)
    assert target.get_submodule("normalise").mean.flatten().tolist() == [0.5] * 3, "which those do not have"


def test_a_new_head_stays_as_it_was_drawn():
    source, target = net(classes=100, seed=1), net(seed=2)
    drawn = copied(target)
    begin_from(target, copied(source), NEW)
    state = target.state_dict()
    assert alike(state, drawn) and {name for name in state if name.startswith("classifier.")} <= set(
        alike(state, drawn)
    )
    body = [name for name in state if not name.startswith("classifier.")]
    assert set(body) <= set(alike({name: state[name] for name in body}, source.state_dict()))


def test_a_new_head_needs_none_there():
    source, target = copied(net(seed=1)), net(seed=2)
    for name in ("classifier.weight", "classifier.bias"):
        del source[name]
    begin_from(target, source, NEW)
    with pytest.raises(JobError, match=r"classifier\.weight is not there; classifier\.bias is not there"):
        begin_from(target, source, KEPT)


def test_other_classes_are_cured_by_a_new_head():
    words = r"init\.weights: there does not fit: classifier\.weight is 100x32 and must be 10x32; .*init\.head: new$"
    with pytest.raises(JobError, match=words):
        begin_from(net(), copied(net(classes=100)), KEPT)


@pytest.mark.parametrize("init", [KEPT, NEW], ids=["kept", "new"])
def test_another_network_is_told_in_ten_names_and_nothing_is_changed(init: Init):
    target = net()
    before = copied(target)
    with pytest.raises(JobError, match=r"stem\.weight is 16x3x3x3 and must be 8x3x3x3; .*; and \d+ more; set model to"):
        begin_from(target, copied(net(width=0.25)), init)
    with pytest.raises(JobError) as refused:
        begin_from(target, {"first.weight": torch.ones(2), **copied(target)}, init)
    assert "first.weight is of another network; set model" in str(refused.value)
    assert len(alike(before, target.state_dict())) == len(before)
    assert str(refused.value).count(";") == 1


def test_numbers_that_are_not_finite_are_refused():
    source = copied(net())
    source["stem.weight"][0, 0, 0, 0] = torch.nan
    with pytest.raises(JobError, match="not finite"):
        begin_from(net(), source, KEPT)


def test_of_a_frozen_body_only_the_head_takes_gradients():
    module = net()
    freeze_body(module)
    assert [name for name, one in module.named_parameters() if one.requires_grad] == [
        "classifier.weight",
        "classifier.bias",
    ]

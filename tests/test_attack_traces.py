"""What an attack leaves in the model: nothing. What it asks of BatchNorm; and the attack in one call."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from adversaries import adversary, but, draws, images, noise
from torch import Tensor, nn

from distrib.attack import FGSM, PGD, Adversary, perturb, undisturbed
from distrib.errors import DataError
from distrib.noise import Noise
from distrib.threat import Linf


class Mixed(nn.Module):
    """BatchNorm, dropout, a frozen layer, a buffer; layers in different modes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fixed = nn.BatchNorm2d(4, momentum=None)
        self.bare = nn.BatchNorm2d(4, track_running_stats=False)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Linear(4 * 64, 8)
        self.last = nn.Linear(8, 3)
        self.frozen.requires_grad_(False)
        with torch.no_grad():
            self.norm.running_mean.fill_(2.0)
            self.norm.running_var.fill_(9.0)
        self.train()
        self.fixed.eval()
        self.frozen.eval()
        self.last.weight.grad = torch.ones_like(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bare(self.fixed(self.norm(self.conv(x)))).relu()
        return self.last(self.frozen(self.drop(x).flatten(1)))


def trace(model: nn.Module) -> dict:
    """All that an attack might change."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return {
        "state": digest.hexdigest(),
        "modes": {name: module.training for name, module in model.named_modules()},
        "tracking": {name: getattr(module, "track_running_stats", None) for name, module in model.named_modules()},
        "trained": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "gradients": {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()},
        "random": torch.get_rng_state().tolist(),
        "taping": torch.is_grad_enabled(),
    }


TRACES = {
    "pgd": {},
    "restarts": {"restarts": 3},
    "cw": {"loss": "cw_margin", "kappa": 1.0},
    "random target": {"target": "random"},
    "least likely": {"target": "least_likely"},
    "every target": {"target": "all"},
}


@pytest.mark.parametrize("fields", TRACES.values(), ids=TRACES)
@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_an_attack_leaves_no_trace(batch_norm: str, fields: dict):
    model, x, y = Mixed(), images(6, 0, 1, (1, 8, 8)), torch.arange(6) % 3
    before, x_before, y_before = trace(model), x.clone(), y.clone()
    attack = adversary(Linf(epsilon=0.1), num_steps=3, batch_norm=batch_norm, **fields)
    x_adv = attack.perturb(model, x, y, noise(6))
    assert trace(model) == before
    assert torch.equal(x, x_before) and torch.equal(y, y_before)
    assert not x_adv.requires_grad and x_adv.grad_fn is None
    assert not torch.equal(x_adv, x)
    with torch.no_grad():  # the caller's mode does not matter, and stays
        assert torch.equal(attack.perturb(model, x, y, noise(6)), x_adv)
        assert not torch.is_grad_enabled()
    model.eval()
    assert torch.equal(attack.perturb(model, x, y, noise(6)), x_adv), "the mode of the model decides what it meets"


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_no_trace_even_where_the_model_raises(batch_norm: str):
    model = Mixed()
    model.last.register_forward_hook(lambda *_: 1 / 0)
    before = trace(model)
    with pytest.raises(ZeroDivisionError):
        adversary(Linf(epsilon=0.1), batch_norm=batch_norm).perturb(
            model, torch.rand(4, 1, 8, 8, generator=draws()), torch.zeros(4, dtype=torch.long), noise(4)
        )
    assert trace(model) == before


def test_batch_norm_means_what_it_says():
    """With running statistics far off, the two modes see different gradients; each is checked the long way."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].running_mean.fill_(5.0)
        model[0].running_var.fill_(4.0)
    x, y = images(6), torch.arange(6) % 3
    found = {}
    for mode in ("eval", "train"):
        z = x.clone().requires_grad_()
        first = model[0]
        statistics = (None, None) if mode == "train" else (first.running_mean, first.running_var)
        out = F.batch_norm(z, *statistics, first.weight, first.bias, mode == "train", 0.0, first.eps)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model[1:](out), y, reduction="sum"), z)
        attack = but(Adversary(Linf(epsilon=0.1), FGSM), batch_norm=mode)
        found[mode] = attack.perturb(model, x, y, noise(6))
        sure = gradient.abs() > 1e-6
        assert sure.float().mean() > 0.9
        assert torch.equal((found[mode] - x).sign()[sure], gradient.sign()[sure])  # pixels are far from 0 and 1
    assert not torch.equal(found["eval"], found["train"])


def test_undisturbed_takes_no_weight_gradients():
    model = Mixed()
    with undisturbed(model, "eval"):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        assert not model(torch.rand(2, 1, 8, 8)).requires_grad


@pytest.mark.parametrize(
    "x", [torch.rand(2, 1, 2, 2) * 255, torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.rand(2, 4)]
)
def test_perturb_in_one_call_refuses_what_are_no_pixels(x: Tensor):
    with pytest.raises(DataError, match=r"^x: "):
        perturb(nn.Flatten(), x, torch.zeros(2, dtype=torch.int64), Linf(epsilon=0.1))


def test_perturb_in_one_call_is_the_adversary_s_and_the_same_again():
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    threat = Linf(epsilon=0.1)
    for attack in (None, PGD(num_steps=3, restarts=2)):
        x_adv = perturb(model, x, y, threat, attack)
        noise = Noise.of(torch.arange(5), 0, "perturb")
        assert torch.equal(x_adv, Adversary(threat, attack or PGD()).perturb(model, x, y, noise))
        assert torch.equal(x_adv, perturb(model, x, y, threat, attack)) and not torch.equal(x_adv, x)

"""Small training states, batches that depend on the step alone, and every byte that training changes."""

import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.models import SmallCNN
from distrib.optim import SGD, Adam, Cosine, Muon, Optimiser
from distrib.state import State

COMMON = {"epochs": 2, "batch_size": 8, "schedule": Cosine(shape="cosine"), "weight_decay": 0.01}
OPTIMISERS = {
    "sgd": SGD(name="sgd", lr=0.05, nesterov=True, **COMMON),
    "sgd without momentum": SGD(name="sgd", lr=0.05, momentum=0.0, **COMMON),
    "adam": Adam(name="adam", lr=0.01, **COMMON),
    "adamw, averaged": Adam(name="adamw", lr=0.01, ema=0.9, clip_norm=0.5, **COMMON),
    "muon": Muon(name="muon", lr=0.05, rest_lr=0.02, **COMMON),
}


def small_cnn() -> nn.Module:
    return SmallCNN(width=0.25).build((1, 8, 8), 10, [0.5], [0.3])


def with_norms() -> nn.Module:
    """BatchNorm, whose buffers move, and dropout, which draws from torch's own generator."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(256, 10)
    )


def new(optim: Optimiser = OPTIMISERS["sgd"], build: Callable[[], nn.Module] = small_cnn, seed: int = 0) -> State:
    torch.manual_seed(seed)
    return State(build(), optim, steps_per_epoch=5)


def descend(state: State, loss: Tensor, loss_weight: float = 1.0) -> None:
    """One step down ``loss``, as :mod:`distrib.step` takes it."""
    with state.part():
        state.backward(loss, loss_weight)
    state.advance()


def train(state: State, steps: int) -> State:
    for _ in range(steps):
        draw = torch.Generator().manual_seed(state.step)  # the same batch at the same step, whoever trains
        x, y = torch.rand(8, 1, 8, 8, generator=draw), torch.randint(10, (8,), generator=draw)
        descend(state, F.cross_entropy(state.ddp(x), y))
    return state


def contents(state: State) -> dict[str, bytes]:
    """Every byte that training changes."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    for number, slots in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{slot}": value for slot, value in slots.items() if value is not None}
    tensors["random"] = torch.get_rng_state()
    plain = {name: str(tensor.dtype).encode() + tensor.detach().numpy().tobytes() for name, tensor in tensors.items()}
    groups = [{k: v for k, v in g.items() if k != "params"} for g in state.optimiser.param_groups]
    return plain | {"step": str(state.step).encode(), "groups": json.dumps(groups).encode()}

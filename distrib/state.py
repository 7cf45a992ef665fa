"""What training changes: weights, their average, the optimiser, the step; and how it is saved and verified.

A stored state is a folder that appears whole or not at all:

    weights.safetensors     the model (what evaluation and the registry read)
    average.safetensors     the moving average of the weights, if there is one
    optimiser.safetensors   the optimiser's tensors, and torch's random state
    state.json              step, epoch, metrics of every epoch, the job and its digest, sha256 of the files above
    state.json.sha256       of state.json
"""

import copy
import json
import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distrib.errors import CheckpointError, NonFiniteLoss, RunError
from distrib.files import disk_full, file_sha256, sync
from distrib.optim import Optimiser
from distrib.precision import Precision
from distrib.world import World

FORMAT = 1
SEAL = "state.json.sha256"


@dataclass
class State:
    """All that a training step may change. The same on every rank, between steps."""

    model: nn.Module
    """The bare module: what attacks and evaluation use."""
    optim: Optimiser
    steps_per_epoch: int
    world: World = field(default_factory=World)
    precision: Precision = "float32"
    step: int = 0
    """Optimiser steps done."""

    def __post_init__(self):
        self.model.to(self.world.device).train()
        self.ddp = self.world.parallel(self.model)
        self.optimiser = self.optim.build(self.model)  # pyright: ignore[reportAttributeAccessIssue]
        # Each rank's BatchNorm sees its own part of the batch: their running statistics are averaged after every step,
        # so that the attack, which runs in evaluation mode, meets the same network on every rank.
        self.running = [
            statistic
            for module in self.model.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
            for statistic in (module.running_mean, module.running_var)
        ]
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False) if self.optim.ema else None
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=self.precision == "float16")

    @property
    def epoch(self) -> float:
        """Epochs done, a fraction within one."""
        return self.step / self.steps_per_epoch

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optim.lr_at(self.step, self.steps_per_epoch)

    @property
    def judged(self) -> nn.Module:
        """The module whose accuracy counts: the average of the weights if there is one, else the model."""
        return self.average or self.model

    def finite(self) -> bool:
        """Whether every weight and every running statistic is finite, those of the average too."""
        modules = [self.model] if self.average is None else [self.model, self.average]
        return all(finite(module.state_dict()) for module in modules)

    def descend(self, loss: Tensor, share: float = 1.0) -> None:
        """One optimiser step down ``loss`` (a scalar, this rank's mean), on all ranks alike.

        ``share`` is this rank's part of the global batch times the number of ranks: 1 where all parts are equal.
        Raises :class:`NonFiniteLoss` on every rank, before the weights move, if the gradient is not finite on any.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        self.optimiser.zero_grad(set_to_none=True)
        # A loss that is not finite may have finite gradients: times nan they tell every rank of it
        finite = torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)
        self.scaler.scale(loss * share * finite).backward()
        self.scaler.unscale_(self.optimiser)
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        length = nn.utils.clip_grad_norm_(parameters, self.optim.clip_norm or math.inf)
        # DDP has averaged the gradients, so a nan on one rank is a nan on all: they decide alike, without a collective
        if not torch.isfinite(length) and not (self.scaler.is_enabled() and self.scaler.get_scale() > 1):
            raise NonFiniteLoss(
                f"the loss is no longer finite at step {self.step} (epoch {self.epoch:.2f}, learning rate "
                f"{self.lr:.3g}, this rank's loss {loss.item():.4g}); lower optim.lr, set optim.clip_norm, or warm up"
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.world.average_(self.running)
        self.step += 1
        if self.average is not None:
            self._average()

    @torch.no_grad()
    def _average(self) -> None:
        assert self.average is not None
        decay = self.optim.decay_at(self.step)
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for mean, now in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mean.copy_(now)


@dataclass(frozen=True)
class Checkpoint:
    """What ``state.json`` says, verified against the files."""

    folder: Path
    step: int
    epoch: int
    history: list[dict]
    """One dict of metrics an epoch, from the first."""
    job: dict
    job_digest: str
    weights_sha256: str

    @property
    def judged(self) -> Path:
        """The file of the weights whose accuracy counts."""
        average = self.folder / "average.safetensors"
        return average if average.exists() else self.folder / "weights.safetensors"


def save_checkpoint(
    state: State, folder: Path, epoch: int, history: list[dict], job: dict, job_digest: str
) -> Checkpoint:
    """Writes ``state`` to ``folder``, aside first and then renamed. One rank does this, after whole epochs.

    Raises :class:`NonFiniteLoss`, and writes nothing, where a weight is not finite; :class:`RunError`, and leaves
    nothing half-written, where the disk is full: workers that start again would find it as full.
    """
    if not state.finite():
        raise NonFiniteLoss(f"{folder}: not written: the weights are no longer finite")
    aside = folder.with_name(f".{folder.name}.part")
    try:
        _write(state, aside, epoch, history, job, job_digest)
        _replace(aside, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        if not disk_full(error):
            raise
        free = shutil.disk_usage(folder.parents[1]).free / 1e6
        raise RunError(
            f"storage: the disk of {folder.parent} is full ({free:.0f} MB are free): the checkpoint of epoch {epoch} "
            "cannot be stored; make room, and the same command goes on from the last one"
        ) from None
    return verify(folder)


def _write(state: State, aside: Path, epoch: int, history: list[dict], job: dict, job_digest: str) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    numbers, tensors = _flatten(state.optimiser.state_dict())
    tensors["torch_random_state"] = torch.get_rng_state()
    save_weights(state.model, aside / "weights.safetensors")
    if state.average is not None:
        save_weights(state.average, aside / "average.safetensors")
    save_file(_plain(tensors), aside / "optimiser.safetensors")
    record = {
        "format": FORMAT, "step": state.step, "epoch": epoch, "history": history, "job": job, "job_digest": job_digest,
        "optimiser": numbers, "scaler": state.scaler.state_dict(), "finite": True,
        "sha256": {path.name: file_sha256(path) for path in sorted(aside.iterdir())},
    }  # fmt: skip
    (aside / "state.json").write_text(json.dumps(record, indent=1))
    (aside / SEAL).write_text(file_sha256(aside / "state.json"))
    for path in aside.iterdir():
        path.chmod(0o644)  # safetensors makes its files the owner's alone
        sync(path)


def _replace(aside: Path, folder: Path) -> None:
    """Renames ``aside`` to ``folder``; an older ``folder`` goes only when the new one is in its place."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(aside, folder)
    except BaseException:
        if old.exists():
            os.rename(old, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def verify(folder: Path) -> Checkpoint:
    """What is stored in ``folder``.

    Raises :class:`CheckpointError` if a file is missing, changed or unreadable, or holds weights that are not finite.
    """
    cure = "use another checkpoint, or delete this folder"
    try:
        if (folder / SEAL).read_text() != file_sha256(folder / "state.json"):
            raise CheckpointError(f"{folder / 'state.json'}: damaged: its sha256 is not the one in {SEAL}; {cure}")
        record = json.loads((folder / "state.json").read_bytes())
        if record["format"] != FORMAT:
            raise CheckpointError(f"{folder}: format {record['format']}, but this distrib reads {FORMAT}; {cure}")
        for name, expected in record["sha256"].items():
            if file_sha256(folder / name) != expected:
                raise CheckpointError(f"{folder / name}: damaged: its sha256 is not the one in state.json; {cure}")
        if not record.get("finite"):  # an older version's, which did not look before it wrote
            for name in sorted(record["sha256"].keys() & {"weights.safetensors", "average.safetensors"}):
                if not finite(load_file(folder / name)):
                    raise CheckpointError(f"{folder / name}: damaged: its weights are not finite; {cure}")
        weights = "average.safetensors" if "average.safetensors" in record["sha256"] else "weights.safetensors"
        return Checkpoint(
            folder, record["step"], record["epoch"], record["history"], record["job"], record["job_digest"],
            record["sha256"][weights],
        )  # fmt: skip
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: missing, so {folder} is no whole checkpoint; {cure}") from None
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror}); {cure}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'state.json'}: not a checkpoint's record ({error!r}); {cure}") from None


def load_checkpoint(state: State, folder: Path) -> Checkpoint:
    """Puts what is stored in ``folder`` into ``state``, after verifying it. Raises :class:`CheckpointError`."""
    stored = verify(folder)
    load_weights(state.model, folder / "weights.safetensors")
    if state.average is not None:
        load_weights(state.average, folder / "average.safetensors")
    record = json.loads((folder / "state.json").read_bytes())
    tensors = load_file(folder / "optimiser.safetensors")
    torch.set_rng_state(tensors.pop("torch_random_state"))
    state.optimiser.load_state_dict(_unflatten(record["optimiser"], tensors))
    state.scaler.load_state_dict(record["scaler"])
    state.step = stored.step
    return stored


def finite(tensors: dict[str, Tensor]) -> bool:
    """Whether all numbers of all tensors are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the model's parameters and buffers to a safetensors file."""
    save_file(_plain(model.state_dict()), path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Puts the tensors of a safetensors file into ``model``, all of them or none. Raises :class:`CheckpointError`."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error})") from None
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys()) or sorted(
        name for name, tensor in expected.items() if tensor.shape != tensors[name].shape
    )
    if wrong:
        raise CheckpointError(f"{path}: these weights are of another model ({', '.join(wrong[:3])} differ)")
    model.load_state_dict(tensors)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _flatten(optimiser: dict) -> tuple[dict, dict[str, Tensor]]:
    """An optimiser's state_dict as (plain numbers, tensors by name "parameter.slot")."""
    tensors = {
        f"{parameter}.{slot}": value
        for parameter, slots in optimiser["state"].items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }
    return {"param_groups": optimiser["param_groups"]}, tensors


def _unflatten(numbers: dict, tensors: dict[str, Tensor]) -> dict:
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, slot = name.split(".", 1)
        slots.setdefault(int(parameter), {})[slot] = tensor
    return {"state": slots, "param_groups": numbers["param_groups"]}

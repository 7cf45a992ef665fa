"""How a run's states are stored, verified, chosen and pruned: a folder ``epoch-00003`` each, whole or not there at all.

weights.safetensors     the model (what evaluation and the registry read)
average.safetensors     the moving average of the weights, if there is one
optimiser.safetensors   the optimiser's tensors, and torch's random state
state.json              step, epoch, metrics of every epoch, the job and its digest, sha256 of the files above
state.json.sha256       of state.json
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distrib.errors import CheckpointError, NonFiniteLoss, RunError
from distrib.files import disk_full, file_sha256, sync
from distrib.models.weights import finite, load_weights, save_tensors, save_weights
from distrib.precision import Format
from distrib.state import State

FORMAT = 1
SEAL = "state.json.sha256"
ROBUST, CLEAN = "validation_robust_accuracy", "validation_clean_accuracy"


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
    precision: Format
    """The number format of its training, which a resumption keeps to."""

    @property
    def judged(self) -> Path:
        """The file of the weights whose accuracy counts."""
        average = self.folder / "average.safetensors"
        return average if average.exists() else self.folder / "weights.safetensors"


def save_checkpoint(state: State, folder: Path, history: list[dict], job: dict, job_digest: str) -> Checkpoint:
    """Writes ``state`` to ``folder``, aside first and then renamed. One rank does this, after whole epochs.

    ``history`` has the metrics of every epoch so far, ``job`` is what is trained, as plain values.
    Raises :class:`NonFiniteLoss`, and writes nothing, where a weight is not finite; :class:`RunError`, and leaves
    nothing half-written, where the disk is full: workers that start again would find it as full.
    """
    if not state.finite():
        raise NonFiniteLoss(f"{folder}: not written: the weights are no longer finite")
    aside = folder.with_name(f".{folder.name}.part")
    try:
        _write(state, aside, history, job, job_digest)
        _replace(aside, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        if not disk_full(error):
            raise
        free = shutil.disk_usage(folder.parents[1]).free / 1e6
        raise RunError(
            f"storage: the disk of {folder.parent} is full ({free:.0f} MB are free): the checkpoint of epoch "
            f"{len(history)} cannot be stored; make room, and the same command goes on from the last one"
        ) from None
    return verify(folder)


def _write(state: State, aside: Path, history: list[dict], job: dict, job_digest: str) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    numbers, tensors = _flatten(state.optimiser.state_dict())
    tensors["torch_random_state"] = torch.get_rng_state()
    save_weights(state.model, aside / "weights.safetensors")
    if state.average is not None:
        save_weights(state.average, aside / "average.safetensors")
    save_tensors(tensors, aside / "optimiser.safetensors")
    record = {
        "format": FORMAT, "step": state.step, "epoch": len(history), "history": history, "job": job,
        "job_digest": job_digest, "optimiser": numbers, "scaler": state.scaler.state_dict(), "finite": True,
        "precision": state.precision,
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
            record.get("precision", "float32"),  # an older version's says so in its job, which was never auto
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
    for parameter, slots in state.optimiser.state.items():  # stored contiguous; fastest as its parameter lies
        alike = {slot: value for slot, value in slots.items() if getattr(value, "shape", None) == parameter.shape}
        slots.update({slot: torch.empty_like(parameter).copy_(value) for slot, value in alike.items()})
    state.scaler.load_state_dict(record["scaler"])
    state.step = stored.step
    return stored


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


def folder_for(run: Path, epoch: int) -> Path:
    """Where the state after ``epoch`` epochs is stored."""
    return run / f"epoch-{epoch:05d}"


def stored_epochs(run: Path) -> list[int]:
    """The epochs that have a folder, rising. One that a kill caught half-way through its replacement is put back."""
    for old in run.glob(".epoch-*.old"):
        folder = run / old.name[1:].removesuffix(".old")
        if not folder.exists():
            old.rename(folder)
    names = [re.fullmatch(r"epoch-(\d{5})", path.name) for path in run.glob("epoch-*")]
    return sorted(int(name[1]) for name in names if name)


def latest(run: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none at all.

    Damaged ones are passed over with a word. If all are damaged, raises :class:`CheckpointError`: starting over
    without being asked to would lose them.
    """
    found = stored_epochs(run)
    for epoch in reversed(found):
        try:
            return verify(folder_for(run, epoch))
        except CheckpointError as error:
            say(f"passing over a damaged checkpoint: {error}")
    if found:
        raise CheckpointError(f"{run}: every checkpoint is damaged; delete the folder to train from the start")
    return None


def history(run: Path, say: Callable[[str], None]) -> list[dict]:
    """The metrics of every epoch so far, from the newest whole checkpoint."""
    newest = latest(run, say)
    return newest.history if newest else []


def epoch_score(epoch: dict, floor: float) -> float:
    """What an epoch with these metrics is worth: its validation robust accuracy.

    Where its clean accuracy is under ``floor`` it is worth less than 0, and the less the further below; minus infinity
    where it was not validated.
    """
    if ROBUST not in epoch:
        return -math.inf
    clean, robust = epoch[CLEAN], epoch[ROBUST]
    return robust if clean >= floor else clean - floor - 1


def ranking(history: list[dict], floor: float) -> list[int]:
    """Every epoch (from 1), the best one first: by :func:`epoch_score`, then clean accuracy; the later of equals."""
    return sorted(
        range(1, len(history) + 1),
        key=lambda epoch: (epoch_score(history[epoch - 1], floor), history[epoch - 1].get(CLEAN, 0.0), epoch),
        reverse=True,
    )


def best_epoch(history: list[dict], floor: float) -> int:
    """The first of the :func:`ranking`."""
    return ranking(history, floor)[0]


def best(run: Path, floor: float, say: Callable[[str], None]) -> Checkpoint:
    """The best checkpoint that is whole, by the history of the newest whole one.

    Where it is not the best epoch of all, says which one that was and why it is passed over.
    Raises :class:`CheckpointError` where none is whole, or none is there.
    """
    newest = latest(run, say)
    if newest is None:
        raise CheckpointError(f"{run}: there is no checkpoint here")
    order = ranking(newest.history, floor)
    stored, why = newest, ""
    for epoch in order[: order.index(newest.epoch)]:
        try:
            stored = verify(folder_for(run, epoch))
            break
        except CheckpointError as error:
            why = why or str(error)
    if stored.epoch != order[0]:
        say(
            f"the best epoch is {order[0]}, whose checkpoint cannot be used ({why}); epoch {stored.epoch} takes its "
            "place, the best of those that can"
        )
    return stored


def prune(run: Path, history: list[dict], keep: int, floor: float) -> None:
    """Deletes all but the newest ``keep`` checkpoints and the best one, up to the epoch at which ``history`` ends.

    Where the best one is damaged it is left as it is, and the best of those that are whole is kept beside it.
    """
    found = [epoch for epoch in stored_epochs(run) if epoch <= len(history)]
    kept = set(found[-keep:])
    for epoch in ranking(history, floor):
        kept.add(epoch)
        if epoch == len(history) or _whole(folder_for(run, epoch)):  # the newest has just been written, and verified
            break
    for epoch in set(found) - kept:
        shutil.rmtree(folder_for(run, epoch), ignore_errors=True)


def _whole(folder: Path) -> bool:
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True

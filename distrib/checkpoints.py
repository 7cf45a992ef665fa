"""The checkpoints of one run: a folder ``epoch-00003`` each; the newest whole one, the best one, and what is kept."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from distrib.errors import CheckpointError
from distrib.state import Checkpoint, verify

ROBUST, CLEAN = "validation_robust_accuracy", "validation_clean_accuracy"


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

    Where its clean accuracy is under ``floor`` it is worth less than 0, and the less the further below.
    """
    clean, robust = epoch[CLEAN], epoch[ROBUST]
    return robust if clean >= floor else clean - floor - 1


def ranking(history: list[dict], floor: float) -> list[int]:
    """Every epoch (from 1), the best one first: by :func:`epoch_score`, then clean accuracy; the later of equals."""
    return sorted(
        range(1, len(history) + 1),
        key=lambda epoch: (epoch_score(history[epoch - 1], floor), history[epoch - 1][CLEAN], epoch),
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

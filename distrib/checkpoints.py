"""The checkpoints of one run: a folder ``epoch-00003`` each; the newest whole one, the best one, and what is kept."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from distrib.errors import CheckpointError
from distrib.state import Stored, verify

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


def latest(run: Path, say: Callable[[str], None]) -> Stored | None:
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


def score(epoch: dict, floor: float) -> float:
    """What an epoch with these metrics is worth: its validation robust accuracy.

    Where its clean accuracy is under ``floor`` it is worth less than 0, and the less the further below.
    """
    clean, robust = epoch[CLEAN], epoch[ROBUST]
    return robust if clean >= floor else clean - floor - 1


def best_epoch(history: list[dict], floor: float) -> int:
    """The epoch (from 1) with the highest :func:`score`; the first of equals."""
    return max(range(len(history)), key=lambda i: (score(history[i], floor), -i)) + 1


def best(run: Path, floor: float, say: Callable[[str], None]) -> Stored:
    """The checkpoint that the run's history calls best. Raises :class:`CheckpointError` if it is gone or damaged."""
    known = history(run, say)
    if not known:
        raise CheckpointError(f"{run}: there is no checkpoint here")
    return verify(folder_for(run, best_epoch(known, floor)))


def prune(run: Path, history: list[dict], keep: int, floor: float) -> None:
    """Deletes all but the newest ``keep`` checkpoints and the best one."""
    found = stored_epochs(run)
    for epoch in set(found[:-keep]) - {best_epoch(history, floor)}:
        shutil.rmtree(folder_for(run, epoch), ignore_errors=True)

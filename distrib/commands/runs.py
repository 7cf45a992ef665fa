"""The runs in a storage: what each is, how far it came, and when it will be done."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distrib import checkpoints
from distrib.errors import InputError
from distrib.tracking.folder import NATURAL, ROBUST, in_use, read_record, read_result, read_trials

Row = dict[str, Any]


def list_runs(storage: Path) -> list[Row]:
    """Every run in the folder ``storage``, the one that was changed last first. Nothing is touched.

    Raises :class:`InputError` where there is no such folder.
    """
    if not storage.is_dir():
        raise InputError(f"--storage: there is no folder {storage}; run a job first, or name the folder of its runs")
    rows = []
    for folder in storage.iterdir():
        with suppress(InputError, KeyError, TypeError, OSError):  # damaged, of another distrib, or just being changed
            record = read_record(folder)
            if record is not None:
                rows.append(_row(folder, record["job"]))
    return sorted(rows, key=lambda row: row["changed"], reverse=True)


def _row(folder: Path, job: Mapping[str, Any]) -> Row:
    result = read_result(folder)
    state = "complete" if result is not None else "running" if in_use(folder) else "stopped"
    done, whole, accuracies, eta = "", "", {}, None
    if job["kind"] == "train":
        phases = [_history(folder / phase) for phase in (ROBUST, NATURAL)] if result is None else [[]]
        every = [one for phase in phases for one in phase]
        epochs = job["optim"]["epochs"] * (2 if job["compare_natural"] else 1)
        done, whole = (str(len(every)), str(epochs)) if result is None else (str(result["epochs"]), "")
        main = next((phase for phase in phases if phase), [])  # the other one is its natural twin
        last = next((one for one in reversed(main) if checkpoints.ROBUST in one), {})
        accuracies = {"clean": last.get(checkpoints.CLEAN), "robust": last.get(checkpoints.ROBUST)}
        seconds = [one["train_seconds"] for one in every]
        eta = (epochs - len(every)) * sum(seconds) / len(seconds) if seconds and state == "running" else None
    elif job["kind"] == "tune":
        with suppress(InputError):
            done, whole = str(len(read_trials(folder))), str(job["search"]["num_trials"])
    if result is not None:
        accuracies = {"clean": result.get("clean_accuracy"), "robust": result.get("robust_accuracy")}
    return {
        "name": folder.name, "kind": job["kind"], "state": state, "done": done, "of": whole,
        "clean_accuracy": accuracies.get("clean"), "robust_accuracy": accuracies.get("robust"),
        "on": "" if not accuracies or accuracies["robust"] is None else "validation" if result is None else "test",
        "eta_seconds": None if eta is None else round(eta), "changed": _changed(folder),
    }  # fmt: skip


def _history(phase: Path) -> list[dict]:
    """The metrics of every epoch, of the newest checkpoint, which may be written at this moment."""
    for folder in sorted(phase.glob("epoch-*"), reverse=True):
        with suppress(OSError, ValueError, KeyError):
            return json.loads((folder / "state.json").read_bytes())["history"]
    return []


def _changed(folder: Path) -> str:
    """When something in the folder was; what is pruned meanwhile is left out."""
    moments = [folder.stat().st_mtime]
    for path in (*folder.glob("*"), *folder.glob("*/epoch-*")):
        with suppress(OSError):
            moments.append(path.stat().st_mtime)
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(max(moments)))

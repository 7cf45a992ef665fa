"""The folder of a run: whose it is, how far it came, and what came out of it. One drawing of all that is in it.

STORAGE/NAME/
    job.json          the resolved job, its digest, the MLflow run, the device           (every kind of job)
    data.json         the hash of each split's images, and the fingerprint of the files that they came from
    .key              what the MLflow run is found by, if a kill comes before job.json says which it is
    .lock             held while a process runs the job
    replaced.json     the job.json of a job with nothing done, until the MLflow run of its successor is there
    result.json       the run is complete

    robust/           checkpoints, epoch by epoch (natural/ for a natural objective)      (train)
    natural/          those of the same model trained without an adversary, if asked for
    evaluation/       finished shards of the end evaluation, with their images            (train, evaluate)
    card/             the robustness card
    training_curves.svg
    CELL/             checkpoints of each training of a capacity study                    (study)
    parts/            what each task of the study found
    study/            its table, findings and plots, and report.html of them all
    trials.json       every trial: its settings, and how it ended                         (tune)
    trials/NAME-0001/ the run of a trial, as that of any train job
    search/           report.html, tables of trials and rungs, plots, best.yaml

This module reads and writes every file but those with tensors: checkpoints, and the shards of an evaluation.
"""

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distrib.config.differences import differences
from distrib.config.job import AnyRun, Run, completed, dump, with_data
from distrib.config.moved import renewed
from distrib.data.source import TorchvisionData
from distrib.errors import InputError, JobError
from distrib.files import locked, write_bytes, write_json
from distrib.tracking.display import Display
from distrib.values import MODEL_ADDRESS

NATURAL, ROBUST = "natural", "robust"
REPLACED = "replaced.json"
"""The record of a job that had nothing done, until the MLflow run of the one in its place is there."""


def home(job: Run) -> Path:
    """Where the run's folder is."""
    return Path(job.storage).absolute() / job.name


@contextmanager
def run_folder(job: Run) -> Iterator[Path]:
    """The run's folder, for this process alone. Raises :class:`JobError` if it belongs to another job, or is in use.

    Another job's that has nothing done yet is begun anew: so may a job be mended that failed before it trained.
    """
    folder = home(job)
    must_be_its_own(job, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"storage: {folder} cannot be written to ({error.strerror}); choose another folder") from None
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", 1))  # whoever looks whether it is in use holds it shortly
        except BlockingIOError:
            raise JobError(f"name: {job.name!r} is being run by another process ({folder})") from None
        except OSError as error:
            raise InputError(
                f"storage: {folder} cannot be written to, or not be locked ({error.strerror}); choose another folder"
            ) from None
        if _of_another(job, folder):
            _clear(folder)
        yield folder


def in_use(folder: Path) -> bool:
    """Whether a process runs the job of this folder now, as far as this machine can tell."""
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def must_be_its_own(job: Run, folder: Path) -> None:
    """Raises :class:`JobError` where another job, of the same name, has something to lose in ``folder``."""
    found = _of_another(job, folder)
    if found and not nothing_done(folder):
        raise JobError(
            f"name: {job.name!r} is the run of another job, kept in {folder}: {'; '.join(found[:5])}. "
            "Choose another name (--set name=...), or delete that folder"
        )


def _of_another(job: Run, folder: Path) -> list[str]:
    """What tells the job whose run is in ``folder`` from this one; nothing for the same job, or a new run."""
    record = read_record(folder)
    return [] if record is None else differences(job, record["job"])


def nothing_done(folder: Path) -> bool:
    """Whether the run in ``folder`` has nothing to lose: no checkpoint, finished shard, part or result."""
    done = ("result.json", "**/epoch-*", "**/.epoch-*.old", "evaluation/*.json", "parts/*.json")
    return not any(next(folder.glob(pattern), None) for pattern in done)


def _clear(folder: Path) -> None:
    """Takes the place of a run that has nothing done; ``replaced.json`` says which MLflow run it had."""
    for name in ("trials", "search"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (".key", "data.json", "trials.json"):
        (folder / name).unlink(missing_ok=True)
    os.replace(folder / "job.json", folder / REPLACED)  # last: until then the next start does the same


def with_versions(job: AnyRun, pin: Callable[[str], str]) -> AnyRun:
    """The job with what ``pin`` says in the place of each address by alias."""

    def whole(value: object) -> object:
        if isinstance(value, dict):
            return {key: whole(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [whole(inner) for inner in value]
        parts = MODEL_ADDRESS.match(value) if isinstance(value, str) else None
        return pin(parts[0]) if parts and parts["alias"] else value

    return type(job).model_validate(whole(dump(job)), strict=False)


def kept_pins(job: Run, uri: str) -> dict[str, str]:
    """The versions, by alias, that an interrupted run began with; nothing for another one, or on another server."""
    folder = home(job)
    record = read_record(folder) if read_result(folder) is None else None
    pins = record.get("pins", {}) if record and record.get("tracking_uri") == uri else {}
    again = with_versions(job, lambda alias: pins.get(alias, alias))
    return {} if _of_another(again, folder) and nothing_done(folder) else pins


def read_record(folder: Path) -> dict | None:
    """What ``job.json`` of a run's folder says, or None for a new run. Raises :class:`InputError` if damaged.

    The job of a run that an older distrib began is given as this one would write it.
    """
    try:
        record = json.loads((folder / "job.json").read_bytes())
        return record | {"job": completed(renewed(record["job"]))} if isinstance(record["job"], dict) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{folder / 'job.json'}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / 'job.json'}: damaged; delete {folder} to start the run anew") from None


def resuming(folder: Path) -> dict | None:
    """What binds a run that was begun: its record, without the device while nothing that was computed on it is kept."""
    record = read_record(folder)
    return record | {"device": None} if record and nothing_done(folder) else record


def write_record(folder: Path, record: dict) -> None:
    """Makes ``record`` what ``job.json`` says."""
    write_json(folder / "job.json", record)


def read_data(folder: Path) -> dict | None:
    """What ``data.json`` of a run's folder says; None where it does not."""
    return _object(folder / "data.json")


def write_data(folder: Path, hashes: dict[str, str]) -> None:
    """Notes the images that the run works on."""
    write_json(folder / "data.json", hashes)


def start_file(folder: Path) -> Path:
    """Where a run keeps the weights that its training begins with."""
    return folder / "init.safetensors"


def judged_file(folder: Path) -> Path:
    """Where an evaluation keeps the network that it put together of a file of tensors."""
    return folder / "judged.safetensors"


def read_start(folder: Path) -> dict | None:
    """What ``init.json`` of a run's folder says of the weights that its training begins with, or None."""
    return _object(folder / "init.json")


def write_start(folder: Path, start: dict[str, str]) -> None:
    """Notes whence the weights are that the run's training begins with."""
    write_json(folder / "init.json", start)


def read_result(folder: Path) -> dict | None:
    """The result of a run that is complete, else None."""
    return _object(folder / "result.json")


def write_result(folder: Path, result: dict) -> None:
    """Completes the run."""
    write_json(folder / "result.json", result)


def read_replaced(folder: Path) -> dict | None:
    """The record of the job that had nothing done, in whose place this run stands; None where there was none."""
    return _object(folder / REPLACED)


def forget_replaced(folder: Path) -> None:
    """Its MLflow run is closed."""
    (folder / REPLACED).unlink(missing_ok=True)


def run_key(folder: Path) -> str:
    """What the folder's MLflow run is found by, if a kill comes between its making and its note in ``job.json``."""
    file = folder / ".key"
    key = file.read_bytes().decode(errors="replace") if file.exists() else ""
    if not re.fullmatch("[0-9a-f]{32}", key):  # a damaged one finds nothing, and might not even be asked for
        key = uuid.uuid4().hex
        write_bytes(file, key.encode())
    return key


def read_trials(folder: Path) -> list[dict]:
    """Every trial of a search that was begun, as ``trials.json`` has it. Raises :class:`InputError` if damaged."""
    file = folder / "trials.json"
    try:
        found = json.loads(file.read_bytes()) if file.exists() else []
        if not isinstance(found, list):
            raise ValueError("not a list")
        return found
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: damaged ({error}); delete {folder} to search anew") from None


def write_trials(folder: Path, trials: list[dict]) -> None:
    """Notes every trial of a search."""
    write_json(folder / "trials.json", trials)


def trial_folder(folder: Path, name: str) -> Path:
    """The folder of a trial's run."""
    return folder / "trials" / name


def read_part(folder: Path, name: str) -> dict | None:
    """What a finished part of a study found, else None."""
    return _object(folder / "parts" / f"{name}.json")


def write_part(folder: Path, name: str, found: dict) -> None:
    """Keeps what a part of a study found."""
    (folder / "parts").mkdir(exist_ok=True)
    write_json(folder / "parts" / f"{name}.json", found)


def write_files(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Writes what a run shows people (its card, study or search) to ``folder``; the paths, in their order."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    return [folder / name for name in files]


def _object(file: Path) -> dict | None:
    """The mapping in a JSON file; None where there is none that can be read."""
    try:
        found = json.loads(file.read_bytes())
        return found if isinstance(found, dict) else None
    except (OSError, ValueError):
        return None


def kept_result(job: Run, folder: Path, display: Display) -> dict | None:
    """The result of a run that is complete, which the person at the terminal is told; else None."""
    result = read_result(folder)
    if result is None:
        return None
    resuming = (read_data(folder) or {}).get("source")
    with with_data(job) as part:
        data = part.data
        if resuming and isinstance(data, TorchvisionData) and data.fingerprint() not in ("", resuming):
            raise JobError(
                f"data.root: {data.root} holds other images than those that the run in {folder} was made with; name "
                "those, or choose another name (--set name=...)"
            )
    display.say(f"the run {job.name!r} is complete; its result is kept in {folder / 'result.json'}")
    display.say("for another one, choose another name: --set name=NAME")
    return result

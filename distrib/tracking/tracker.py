"""The MLflow run of a job, one for all its restarts."""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distrib import __version__
from distrib.config.file import job_yaml
from distrib.config.job import Run, digest, dump
from distrib.errors import DistribError, TrackingError
from distrib.files import write_bytes, write_json
from distrib.tracking import client, provenance
from distrib.tracking.client import Tracker
from distrib.tracking.display import Display
from distrib.tracking.folder import REPLACED, read_record


def opened(
    job: Run,
    folder: Path,
    tags: dict[str, str] | None = None,
    pins: dict[str, str] | None = None,
    device: str | None = None,
) -> Tracker:
    """The job's MLflow run, one for all its restarts; the caller closes it.

    ``device`` is what its workers compute on: the record keeps it for the next start.
    What the job is stands in it before anything else; if that fails it is closed, and the next start makes up for it.
    """
    record = read_record(folder) or {}
    uri = client.address(job.tracking.uri)
    known = record.get("run_id") if record.get("tracking_uri") == uri else None
    tags = {
        **(tags or {}),
        client.RUN_KEY: _key(folder),
        "distrib.job_digest": digest(job),
        "distrib.kind": job.kind,
        "distrib.version": __version__,
        **provenance.code(),
    }
    tracker = client.Tracker(uri, job.tracking.experiment, job.name, known, tags)
    _fail_replaced(folder, tracker)
    described = known == tracker.run_id and record.get("described", True)
    record = {
        "job": dump(job), "job_digest": digest(job), "tracking_uri": uri, "run_id": tracker.run_id,
        "pins": pins or {}, "device": device, "described": described,
    }  # fmt: skip
    write_json(folder / "job.json", record)
    if not described:
        try:
            with client.in_words():
                tracker.parameters(dump(job))
                tracker.text(job_yaml(job), "job.yaml")
                tracker.text(provenance.environment(), "environment.txt")
        except BaseException as error:
            with suppress(DistribError):
                tracker.close(_status(error))
            raise
        write_json(folder / "job.json", record | {"described": True})
    return tracker


def _fail_replaced(folder: Path, tracker: Tracker) -> None:
    """Leaves the MLflow run of a job that had nothing done, and in whose place this one stands, as FAILED."""
    file = folder / REPLACED
    if not file.exists():
        return
    before = json.loads(file.read_bytes())
    if before.get("tracking_uri") == tracker.uri:
        tracker.fail(before["run_id"])
    file.unlink()


def _key(folder: Path) -> str:
    """What the folder's MLflow run is found by, if a kill comes between its making and its note in ``job.json``."""
    file = folder / ".key"
    key = file.read_bytes().decode(errors="replace") if file.exists() else ""
    if not re.fullmatch("[0-9a-f]{32}", key):  # a damaged one finds nothing, and might not even be asked for
        key = uuid.uuid4().hex
        write_bytes(file, key.encode())
    return key


def _status(error: BaseException) -> str:
    """Of an MLflow run that this ended."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


@contextmanager
def tracked(
    job: Run, folder: Path, display: Display, pins: dict[str, str] | None = None, device: str | None = None
) -> Iterator[Tracker]:
    """The job's MLflow run, closed as FINISHED, FAILED or KILLED; it also records the use of this machine."""
    known = (read_record(folder) or {}).get("run_id")
    tracker = opened(job, folder, pins=pins, device=device)
    display.say(f"mlflow: run {tracker.run_id} in {tracker.uri}{' (resumed)' if known == tracker.run_id else ''}")
    if (place := tracker.elsewhere()) is not None:
        display.say(
            f"warning: files and models go to {place}, not beside {tracker.uri}: an experiment keeps the folder that "
            "it was made with, also in a copy; another tracking.experiment or tracking.uri keeps them here"
        )
    tracker.watch()
    try:
        yield tracker
    except BaseException as error:
        try:
            tracker.close(_status(error))
        except DistribError as second:
            if not isinstance(error, TrackingError):  # which says it
                display.say(f"warning: {second}")
        raise
    tracker.close("FINISHED")

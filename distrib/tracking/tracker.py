"""What keeps a record of a job: what a tracker does, and the one that a job gets, for all its restarts.

Another tracker than MLflow takes a module of its own beside :mod:`distrib.tracking.mlflow_run`, and a line in
:func:`open_tracker` and :func:`must_answer`. Registering a model takes MLflow in any case: see :mod:`distrib.registry`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from distrib import __version__
from distrib.config.cluster import Tracking
from distrib.config.file import job_yaml
from distrib.config.job import Run, digest, dump
from distrib.errors import DistribError, TrackingError
from distrib.tracking import client, provenance
from distrib.tracking.display import Display
from distrib.tracking.folder import forget_replaced, read_record, read_replaced, run_key, write_record
from distrib.tracking.mlflow_run import RUN_KEY, MLflowRun


class Tracker(Protocol):
    """The record of one run: what a job, a search, a study and the registry ask of it."""

    uri: str
    """Where the record is kept."""
    run_id: str
    """What it is found by there; it holds also after a restart."""

    def parameters(self, nested: dict) -> None:
        """Records what the run was asked to do; what is there already stays as it is."""
        ...

    def tags(self, tags: dict[str, str], run_id: str | None = None) -> None:
        """Sets tags of the run, or of another one."""
        ...

    def logged(self, metric: str) -> int:
        """The last step at which ``metric`` was logged; 0 if never."""
        ...

    def metrics(self, points: Iterable[tuple[str, float, int, int]]) -> None:
        """Logs points (metric, value, step, milliseconds since 1970): all or none, and one sent twice is there once."""
        ...

    def results(self, values: dict[str, float], step: int) -> None:
        """Logs the end results at ``step``, but for those that the run has already."""
        ...

    def file(self, path: Path, folder: str | None = None) -> None:
        """Stores a file with the run."""
        ...

    def text(self, text: str, name: str) -> None:
        """Stores a text with the run."""
        ...

    def describe(self, text: str, page: str, picture: str = "") -> None:
        """Makes a text in Markdown the run's description, with a link to one of its files and a picture among them."""
        ...

    def dataset(self, name: str, digest: str, source: dict, context: str) -> None:
        """Notes a data set that the run works on: its name, its content's hash, its place, and what it is for."""
        ...

    def page(self) -> str:
        """What opens the record in a browser, in words."""
        ...

    def elsewhere(self) -> str | None:
        """Where the run's files go, if that is not where one would look for them."""
        ...

    def watch(self) -> None:
        """Records the use of this machine until the run is closed."""
        ...

    def attempt(self, what: Callable[[], None], say: Callable[[str], None]) -> bool:
        """Whether ``what``, which calls this tracker, was taken, in one short try that never raises."""
        ...

    def fail(self, run_id: str) -> None:
        """Ends another run as FAILED, if it is there and was not ended."""
        ...

    def close(self, status: str) -> None:
        """Ends the run as FINISHED, FAILED or KILLED. Raises :class:`TrackingError` where that cannot be told."""
        ...


def must_answer(where: Tracking) -> None:
    """Raises :class:`RegistryError` unless a run can be recorded there now."""
    client.connect(client.address(where.uri), where.experiment)


TITLE = "mlflow.runName"
"""The tag that is the run's name in MLflow: the job's, if no other is given."""


def open_tracker(
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
        RUN_KEY: run_key(folder),
        "distrib.job_digest": digest(job),
        "distrib.kind": job.kind,
        "distrib.version": __version__,
        **provenance.code(),
        **provenance.starter(job.kind),
    }
    tracker: Tracker = MLflowRun(uri, job.tracking.experiment, tags.pop(TITLE, job.name), known, tags)
    _fail_replaced(folder, tracker)
    described = known == tracker.run_id and record.get("described", True)
    record = {
        "job": dump(job), "job_digest": digest(job), "tracking_uri": uri, "run_id": tracker.run_id,
        "pins": pins or {}, "device": device, "described": described,
    }  # fmt: skip
    write_record(folder, record)
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
        write_record(folder, record | {"described": True})
    return tracker


def _fail_replaced(folder: Path, tracker: Tracker) -> None:
    """Leaves the MLflow run of a job that had nothing done, and in whose place this one stands, as FAILED."""
    before = read_replaced(folder)
    if before is not None and before.get("tracking_uri") == tracker.uri:
        tracker.fail(before["run_id"])
    forget_replaced(folder)


def _status(error: BaseException) -> str:
    """Of an MLflow run that this ended."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


@contextmanager
def tracked(
    job: Run, folder: Path, display: Display, pins: dict[str, str] | None = None, device: str | None = None
) -> Iterator[Tracker]:
    """The job's MLflow run, closed as FINISHED, FAILED or KILLED; it also records the use of this machine."""
    known = (read_record(folder) or {}).get("run_id")
    tracker = open_tracker(job, folder, pins=pins, device=device)
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

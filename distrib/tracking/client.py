"""MLflow runs: one a job, also across restarts. This module and the registry are the only doors to MLflow.

Everything is logged by the driver, once: the workers only report. While a training lasts, a server that does not
answer is tried for some seconds at a time, with growing pauses, and holds nothing up; what could not be logged is
logged later, from the run's history. What must be told to MLflow at the end is tried for longer, within bounds.
"""

import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

from distrib.errors import DistribError, RegistryError, TrackingError
from distrib.tracking import limits
from distrib.tracking.artifacts import must_serve
from distrib.tracking.database import file_of, make
from distrib.values import PASSWORD, WITHOUT, sendable

BOUNDS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # a server with passwords hashes one for every request
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default of 7 makes one call to a dead server last four minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that keeps artifacts in an object store sends its clients there with signed addresses, which are the
    # server's own: whoever cannot reach the store hangs. Through the server it always works
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nobody asked to tell others what is trained here
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for the result alone
}
BRIEF = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""Of one short try, in the place of ``BOUNDS``, by which a call to a server that hangs takes 93 s."""
PAUSE, LONGEST_PAUSE = 10.0, 600.0
"""Seconds between a try that failed and the next one: at first, and at most."""
MONITOR_SECONDS = 5.0
"""For the recorder of this machine's use to end; it may hang on a call."""
FOREIGN = ("MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID")
"""Variables that would tie every metric to a model of another program; one that this server lacks takes none."""
SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

Answer = TypeVar("Answer")
REFUSED = (401, 403)
RUN_KEY = "distrib.key"
"""The tag that tells a run's MLflow run from those of other runs."""
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow calls a thing that is not there; an alias that is not there is the second."""


def address(uri: str | None) -> str:
    """The tracking server's address: the job's, else MLFLOW_TRACKING_URI, else SQLite in the working directory.

    A web server's user and password are taken out of it, into MLflow's own variables: an address is shown and kept.
    Raises :class:`RegistryError` where it has the password of a database, or a user without one.
    """
    found = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    if not PASSWORD.match(found):
        return found
    login = re.match(r"(https?://)([^/:]*):([^/]+)@", found)  # to the last @ before a path
    if login is None or PASSWORD.match(login[1] + found[login.end() :]):
        raise RegistryError(f"MLFLOW_TRACKING_URI or --tracking-uri: {WITHOUT}")
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(login[2])
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(login[3])
    return login[1] + found[login.end() :]


def client(uri: str, experiment: str | None = None):
    """An MLflow client of ``uri``, reached now. Raises :class:`RegistryError` where it cannot be.

    Where a run of an ``experiment`` is to be kept, also where the server takes no files.
    """
    for name, value in BOUNDS.items():
        os.environ.setdefault(name, value)
    for name in FOREIGN:
        os.environ.pop(name, None)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # else it tells of every migration of a new database
    for name in SECRETS:
        try:
            sendable(name, os.environ.get(name, ""))
        except ValueError as error:
            raise RegistryError(str(error)) from None
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it logs what it raises too, with a traceback
    cure = "start it, or set tracking.uri or MLFLOW_TRACKING_URI to another (sqlite:///mlflow.db needs no server)"
    if uri.startswith("file:") or "://" not in uri:
        raise RegistryError(f"tracking.uri: {uri}: MLflow keeps no runs in plain folders any more; use sqlite:///FILE")
    file = file_of(uri)
    if file is not None:
        cure = "see whether its disk is full, or set tracking.uri or MLFLOW_TRACKING_URI to another"
        folder = file.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise RegistryError(f"tracking.uri: {uri}: there is no folder {folder} that can be written to")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        if file is not None:
            make(file)
        found = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        found.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if isinstance(error, MlflowException) and error.get_http_status_code() in REFUSED:
            raise _in_words(error) from None
        failing = "does not answer" if file is None else "cannot be used"
        raise RegistryError(f"tracking.uri: {uri} {failing} ({_line(error)[:200]}); {cure}") from None
    if experiment is not None:
        with in_words():
            must_serve(found, uri, experiment)
    return found


_BRIEFLY = threading.RLock()


@contextmanager
def briefly() -> Iterator[None]:
    """Within, a call to MLflow is one short try. MLflow reads its bounds at every call, from the environment alone."""
    with _BRIEFLY:
        before = {name: os.environ.get(name) for name in BRIEF}
        os.environ.update(BRIEF)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def in_words() -> Iterator[None]:
    """What MLflow raises inside, in words: :class:`RegistryError` where it refuses, else :class:`TrackingError`."""
    try:
        yield
    except Exception as error:
        match type(error).__module__:
            case "mlflow.exceptions":
                raise _in_words(error) from None
            case "requests.exceptions":  # of artifacts
                raise TrackingError(f"MLflow failed: {_line(error)[:300]}") from None
        raise


@contextmanager
def recorded(done: str, left: Literal["recorded", "registered"] = "recorded") -> Iterator[None]:
    """Within, MLflow is told of what is ``done`` and kept. Where it fails or refuses, the error says what is left."""
    try:
        with in_words():
            yield
    except (TrackingError, RegistryError) as error:
        raise type(error)(
            f"{done}, but not {left}: {error}; when that is over the same command does the rest"
        ) from None


def or_none(ask: Callable[[], Answer]) -> Answer | None:
    """What MLflow gives; None where it says that there is no such thing. Where it fails: as :func:`in_words`."""
    from mlflow.exceptions import MlflowException

    with in_words():
        try:
            return ask()
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise


def _in_words(error: Any) -> DistribError:
    text = _line(error)
    asked = re.search(r"endpoint (\S+)", text)
    what = asked[1] if asked else "that"
    match error.get_http_status_code():
        case 401:
            return RegistryError(
                "tracking.uri: MLflow refuses this user and password; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        case 403 if "host" in text.lower():
            return RegistryError(
                "tracking.uri: MLflow does not answer to this host's name; start it with --allowed-hosts, or call it "
                "by a name that it knows"
            )
        case 403:
            return RegistryError(
                f"tracking.uri: MLflow does not let this user do {what}; set MLFLOW_TRACKING_USERNAME to one who may, "
                "or have the right granted"
            )
        case _:
            return TrackingError(f"MLflow failed: {text[:300]}")


def _line(error: BaseException) -> str:
    """The first line of what an error says, but for SQLAlchemy's remark on when it happened."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]
    return (lines or [type(error).__name__])[0]


class Tracker:
    """One MLflow run, opened again by its id if it is there already."""

    def __init__(self, uri: str, experiment: str, name: str, run_id: str | None, tags: dict[str, str]):
        """Raises :class:`RegistryError` if the server cannot be reached now."""
        self.uri, self.warned = uri, False
        self.pause = self.again = 0.0
        self.client = client(uri, experiment)
        self.run_id = self._reopen(run_id) or self._create(experiment, name, tags)
        self.monitor = None

    def _reopen(self, run_id: str | None) -> str | None:
        if run_id is None:
            return None
        run = or_none(lambda: self.client.get_run(run_id))
        if run is None or run.info.lifecycle_stage != "active":
            return None
        with in_words():
            self.client.update_run(run_id, status="RUNNING")
        return run_id

    def _create(self, experiment: str, name: str, tags: dict[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise RegistryError(f"tracking.experiment: {experiment!r} is deleted; restore it, or use another name")
        if found is None:
            file = file_of(self.uri)
            artifacts = None if file is None else (file.parent / "mlartifacts").as_uri()
            try:
                identity = self.client.create_experiment(experiment, artifacts)
            except MlflowException as error:
                found = self.client.get_experiment_by_name(experiment)
                if found is None:
                    raise _in_words(error) from None
                identity = found.experiment_id  # another job has just made it
        else:
            identity = found.experiment_id
        key = tags.get(RUN_KEY)
        same = self.client.search_runs([identity], f"tags.`{RUN_KEY}` = '{key}'", max_results=1) if key else []
        if same and (run_id := self._reopen(same[0].info.run_id)):  # a kill came before it was noted
            return run_id
        return self.client.create_run(identity, run_name=name, tags=_run_tags(tags)).info.run_id

    def watch(self) -> None:
        """Records the use of this machine's CPU, memory, disk and GPU, until the run is closed."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about GPU libraries that are not there
            self.monitor = SystemMetricsMonitor(
                self.run_id, sampling_interval=5, resume_logging=True, tracking_uri=self.uri
            )
            self.monitor.start()

    def parameters(self, nested: dict) -> None:
        """Logs a nested dict as parameters with dotted names; those that are there stay as they are."""
        from mlflow.entities import Param

        there = self.client.get_run(self.run_id).data.params
        whole = {limits.fitting_name(name): str(value) for name, value in flatten(nested).items()}
        texts = {name: limits.shortened(value, limits.PARAMETER, "in job.yaml") for name, value in whole.items()}
        flat = [Param(name, text) for name, text in texts.items() if name not in there]
        for start in range(0, len(flat), 100):
            self.client.log_batch(self.run_id, params=flat[start : start + 100])

    def logged(self, metric: str) -> int:
        """The last step at which ``metric`` was logged; 0 if never."""
        return max(
            (point.step for point in self.client.get_metric_history(self.run_id, limits.fitting_name(metric))),
            default=0,
        )

    def metrics(self, points: Iterable[tuple[str, float, int, int]]) -> None:
        """Logs points (metric, value, step, :func:`now`): all or none, and one that is there already not again."""
        from mlflow.entities import Metric

        found = [Metric(limits.fitting_name(name), value, at, step) for name, value, step, at in points]
        self.client.log_batch(self.run_id, metrics=found)

    def results(self, values: dict[str, float], step: int) -> None:
        """Logs the end results at ``step``, but for those that the run has already."""
        there, at = self.client.get_run(self.run_id).data.metrics, now()
        self.metrics(
            (name, value, step, at) for name, value in values.items() if there.get(limits.fitting_name(name)) != value
        )

    def attempt(self, what: Callable[[], None], say: Callable[[str], None]) -> bool:
        """Whether MLflow took ``what``, in one short try; after one that failed nothing is tried for a while.

        The first failure is said, and when it is over.
        """
        if time.monotonic() < self.again:
            return False
        try:
            with briefly():
                what()
        except Exception as error:  # whatever the server's failure raises, training goes on
            self.pause = min(max(2 * self.pause, PAUSE), LONGEST_PAUSE)
            self.again = time.monotonic() + self.pause
            if not self.warned:
                say(f"warning: {self.uri} does not take the metrics ({_line(error)[:120]}); trying again later")
            self.warned = True
            return False
        if self.warned:
            say(f"{self.uri} answers again")
        self.pause, self.again, self.warned = 0.0, 0.0, False
        return True

    def file(self, path: Path, folder: str | None = None) -> None:
        """Stores a file with the run."""
        self.client.log_artifact(self.run_id, str(path), folder)

    def text(self, text: str, name: str) -> None:
        """Stores a text with the run."""
        self.client.log_text(self.run_id, text, name)

    def tags(self, tags: dict[str, str]) -> None:
        """Sets tags of the run."""
        for name, value in _run_tags(tags).items():
            self.client.set_tag(self.run_id, name, value)

    def elsewhere(self) -> str | None:
        """Where the run's files go, if that is not beside its SQLite file; the database knows full addresses alone."""
        file, place = file_of(self.uri), self.client.get_run(self.run_id).info.artifact_uri or ""
        if file is None or not place.startswith(("file:", "/")):
            return None
        path = Path(unquote(place.removeprefix("file://")))
        return None if path.is_relative_to(file.parent) else str(path)

    def fail(self, run_id: str) -> None:
        """Ends another run as FAILED, if it is there and was not ended."""
        run = or_none(lambda: self.client.get_run(run_id))
        if run is not None and run.info.status == "RUNNING":
            with in_words():
                self.client.set_terminated(run_id, "FAILED")

    def close(self, status: str) -> None:
        """Ends the run as FINISHED, FAILED or KILLED: a run that is finished patiently, others in one short try.

        Raises :class:`TrackingError` if the server cannot be told.
        """
        if self.monitor is not None:
            ending = threading.Thread(target=self.monitor.finish, daemon=True)
            ending.start()
            ending.join(MONITOR_SECONDS)
            self.monitor = None
        try:
            with nullcontext() if status == "FINISHED" else briefly():
                self.client.set_terminated(self.run_id, status)
        except Exception as error:
            raise TrackingError(f"{self.uri} cannot be told that the run is {status} ({_line(error)})") from None


def now() -> int:
    """Milliseconds since 1970, as MLflow counts the time of a point."""
    return int(time.time() * 1000)


def _run_tags(tags: dict[str, str]) -> dict[str, str]:
    return {limits.fitting_name(name): limits.shortened(value, limits.RUN_TAG) for name, value in tags.items()}


def flatten(nested: dict, prefix: str = "") -> dict[str, object]:
    """``{"optim": {"lr": 1}}`` -> ``{"optim.lr": 1}``."""
    flat: dict[str, object] = {}
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def must_exist(uri: str) -> None:
    """Raises :class:`RegistryError` where ``uri`` is a SQLite file that is not there: reading shall not make one."""
    file = file_of(uri)
    if file is not None and not file.is_file():
        raise RegistryError(
            f"{uri}: there is no such file; run a job first, or set MLFLOW_TRACKING_URI or --tracking-uri"
        )

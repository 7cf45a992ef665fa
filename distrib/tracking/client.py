"""MLflow: where its server is, how it is reached, how long it is tried, and its errors in words."""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

from distrib.errors import DistribError, RegistryError, TrackingError
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
FOREIGN = ("MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID")
"""Variables that would tie every metric to a model of another program; one that this server lacks takes none."""
SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

Answer = TypeVar("Answer")
REFUSED = (401, 403)
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


def connect(uri: str, experiment: str | None = None):
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
            raise worded(error) from None
        failing = "does not answer" if file is None else "cannot be used"
        raise RegistryError(f"tracking.uri: {uri} {failing} ({first_line(error)[:200]}); {cure}") from None
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
                raise worded(error) from None
            case "requests.exceptions":  # of artifacts
                raise TrackingError(f"MLflow failed: {first_line(error)[:300]}") from None
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


def worded(error: Any) -> DistribError:
    """What MLflow raised, as an error of ours that names the cure."""
    text = first_line(error)
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


def first_line(error: BaseException) -> str:
    """The first line of what an error says, but for SQLAlchemy's remark on when it happened."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]
    return (lines or [type(error).__name__])[0]


def is_there(uri: str) -> bool:
    """Whether there is anything to read: False where ``uri`` is a SQLite file that is not there."""
    file = file_of(uri)
    return file is None or file.is_file()


def must_exist(uri: str) -> None:
    """Raises :class:`RegistryError` where ``uri`` is a SQLite file that is not there: reading shall not make one."""
    if not is_there(uri):
        raise RegistryError(
            f"{uri}: there is no such file; run a job first, or set MLFLOW_TRACKING_URI or --tracking-uri"
        )

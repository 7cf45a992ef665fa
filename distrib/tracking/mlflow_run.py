"""One run of MLflow: what is logged, stored and tagged.

Everything is logged by the driver, once: the workers only report. While a training lasts, a server that does not
answer is tried for some seconds at a time, with growing pauses, and holds nothing up; what could not be logged is
logged later, from the run's history. What must be told to MLflow at the end is tried for longer, within bounds.
"""

import json
import shlex
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import unquote

from distrib.errors import RegistryError, TrackingError
from distrib.tracking import limits
from distrib.tracking.client import briefly, connect, first_line, in_words, or_none, worded
from distrib.tracking.clock import now
from distrib.tracking.database import file_of

PAUSE, LONGEST_PAUSE = 10.0, 600.0
"""Seconds between a try that failed and the next one: at first, and at most."""
MONITOR_SECONDS = 5.0
"""For the recorder of this machine's use to end; it may hang on a call."""
RUN_KEY = "distrib.key"
"""The tag that tells a run's MLflow run from those of other runs."""


class MLflowRun:
    """One MLflow run, opened again by its id if it is there already."""

    def __init__(self, uri: str, experiment: str, name: str, run_id: str | None, tags: dict[str, str]):
        """Raises :class:`RegistryError` if the server cannot be reached now."""
        self.uri, self.warned, self.experiment_id = uri, False, ""
        self.pause = self.again = 0.0
        self.client = connect(uri, experiment)
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
        self.experiment_id = run.info.experiment_id
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
                    raise worded(error) from None
                identity = found.experiment_id  # another job has just made it
        else:
            identity = found.experiment_id
        self.experiment_id = identity
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
                say(f"warning: {self.uri} does not take the metrics ({first_line(error)[:120]}); trying again later")
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

    def tags(self, tags: dict[str, str], run_id: str | None = None) -> None:
        """Sets tags of the run, or of another one."""
        for name, value in _run_tags(tags).items():
            self.client.set_tag(run_id or self.run_id, name, value)

    def describe(self, text: str, page: str, picture: str = "") -> None:
        """Makes a text in Markdown the run's description, with a link to one of its files and a picture among them.

        MLflow shows the description's first lines, and the rest at a click. The addresses are those of its own pages.
        """
        link = f"[{page}](#/experiments/{self.experiment_id}/runs/{self.run_id}/artifacts/{page})"
        shown = f"![{picture}](get-artifact?path={picture}&run_uuid={self.run_id})\n\n" if picture else ""
        end = f"\n\n{shown}{link}"
        self.tags({"mlflow.note.content": limits.shortened(text, limits.RUN_TAG - len(end)) + end})

    def dataset(self, name: str, digest: str, source: dict, context: str) -> None:
        """Notes a data set that the run works on; one that is noted already stays once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        found = Dataset(limits.shortened(name, limits.DATASET), digest[: limits.DIGEST], "distrib", json.dumps(source))
        self.client.log_inputs(self.run_id, [DatasetInput(found, [InputTag("mlflow.data.context", context)])])

    def page(self) -> str:
        """The address of the run's experiment on a server; of a file, the command that serves it, and the address.

        MLflow opens on its pages for language models unless it is told otherwise.
        """
        path = f"#/experiments/{self.experiment_id}?workflowType=machine_learning"
        if file_of(self.uri) is None and self.uri.startswith("http"):
            return f"{self.uri.rstrip('/')}/{path}"
        return f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}, then http://127.0.0.1:5000/{path}"

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
            raise TrackingError(f"{self.uri} cannot be told that the run is {status} ({first_line(error)})") from None


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

"""The Run: a job that is being carried out, with all that is open for it.

    with opened(job, display) as run:       the folder is this process's alone; aliases stand for versions
        if run.result:                      complete before: nothing is done again
            return run.result
        run.prepare()                       the data, packed; those that the run began with
        ...                                 what can still be refused: models, sizes, costs
        run.join()                          Ray; every machine was tried
        run.track()                         MLflow
        ...
        return run.finish(result)           MLflow knows it, all is closed, result.json completes the run

The order is that of the refusals: a wrong address is told before hours of packing, a model that does not fit before Ray
is started, and what a search would cost before MLflow has a run of it.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Generic

from distrib.cluster.map import Workers
from distrib.cluster.resources import Resources, must_fit
from distrib.commands.models import ModelFinder
from distrib.commands.prepare import must_be_callable, prepared_for
from distrib.config.job import AnyRun, digest, with_data
from distrib.data.beton import Beton, open_split
from distrib.data.split import SPLITS, Split
from distrib.registry import versions
from distrib.tracking import client
from distrib.tracking.clock import Clock
from distrib.tracking.display import Display
from distrib.tracking.folder import kept_result, resuming, run_folder, write_files, write_result
from distrib.tracking.tracker import Tracker, must_answer, tracked

CONTEXTS: dict[Split, str] = {"train": "training", "validation": "validation", "test": "evaluation"}
"""What each split is for, in MLflow's words."""


class OpenRun(Generic[AnyRun]):
    """A job that is being carried out. Each of its parts is there once it was opened, and closed with the run."""

    data: Path
    """The folder of the betons, after :meth:`prepare`."""
    resources: Resources
    """What the cluster has, after :meth:`join`."""
    tracker: Tracker
    """The job's MLflow run, after :meth:`track`."""

    def __init__(self, job: AnyRun, folder: Path, display: Display, pins: dict[str, str], clock: Clock):
        self.job, self.folder, self.display, self.pins = job, folder, display, pins
        self.uri = client.address(job.tracking.uri)
        self.clock = clock
        self.result: dict | None = kept_result(job, folder, display)
        self.stack = ExitStack()
        """What is closed at the end, the last opened first."""

    def prepare(self) -> None:
        """Packs the data, unless they are packed. Raises :class:`InputError` for what can be known before."""
        must_fit(self.job.cluster, resuming(self.folder))
        must_answer(self.job.tracking)  # a wrong address is told now
        with self.clock.measure("prepare"), with_data(self.job) as part:
            must_be_callable(part)
            self.data = prepared_for(part, self.folder, self.display)

    def join(self, dashboard: bool = False) -> None:
        """Starts Ray on this machine, or joins the cluster that the job names, and tries each of its machines.

        ``dashboard``: see :func:`distrib.cluster.session.session`.
        """
        from distrib.cluster.preflight import check_nodes
        from distrib.cluster.session import session

        with self.clock.measure("ray_start"):
            found = session(self.job.cluster, self.display.say, resuming(self.folder), dashboard)
            self.resources = self.stack.enter_context(found)
            check_nodes(self.resources, self.folder, self.data, self.job.cluster)

    def track(self) -> None:
        """Opens the job's MLflow run, one for all its restarts."""
        with self.clock.measure("mlflow_start"):
            found = tracked(self.job, self.folder, self.display, self.pins, self.resources.device)
            self.tracker = self.stack.enter_context(found)
            with client.in_words(), with_data(self.job) as part:
                for split in SPLITS:
                    card = open_split(self.data, split, "evaluation").card
                    name = f"{part.data.source} {split}"
                    self.tracker.dataset(name, card.content_sha256, card.job.get("data", {}), CONTEXTS[split])

    @property
    def use_gpu(self) -> bool:
        """Whether the job's workers compute on GPUs."""
        return self.resources.use_gpu(self.job.cluster)

    @property
    def workers(self) -> Workers:
        """Where tasks are mapped to."""
        return Workers(self.job.cluster, self.use_gpu)

    @property
    def test(self) -> Beton:
        """The packed test split."""
        return open_split(self.data, "test", "evaluation")

    @property
    def models(self) -> ModelFinder:
        """Where the models that the job names are found: each must fit the test split."""
        job: Any = self.job  # of a kind that names models
        return ModelFinder(self.test, job.loader, self.uri, getattr(job, "trust_pickle", False), self.display.say)

    def keep(self, room: str, files: dict[str, bytes]) -> Path:
        """Writes files to a folder of the run, stores them with its MLflow run, and returns the folder."""
        for path in write_files(self.folder / room, files):
            self.tracker.file(path, room)
        return self.folder / room

    def finish(self, result: dict) -> dict:
        """Completes the run: MLflow gets the result, everything is closed, and then the folder has it too."""
        whole = {
            "kind": self.job.kind, "name": self.job.name, "run_id": self.tracker.run_id, **result,
            "seconds": self.clock.seconds, "job_digest": digest(self.job),
        }  # fmt: skip
        self.tracker.text(json.dumps(whole, indent=2), "result.json")
        page = self.tracker.page()
        self.stack.close()
        write_result(self.folder, whole)
        self.display.say(f"mlflow: {page}")
        return whole


@contextmanager
def opened(job: AnyRun, display: Display) -> Iterator[OpenRun[AnyRun]]:
    """The run of ``job``, for this process alone; whatever it opened is closed at the end.

    Raises :class:`JobError` where its folder belongs to another job, or is in use.
    """
    clock = Clock.start()
    pinned, pins = versions.pinned(job, client.address(job.tracking.uri), display.say)
    with run_folder(pinned) as folder:
        run = OpenRun(pinned, folder, display, pins, clock)
        with run.stack:
            yield run

"""What runs in a trial's own process: a distributed training that tells Ray Tune of every epoch."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.actor import ActorHandle
from ray.tune.integration.ray_train import TuneReportCallback

from distrib import checkpoints
from distrib.cluster.train import WorkOrder, fit
from distrib.config.search import Score
from distrib.errors import DistribError, NoRoom
from distrib.files import write_bytes
from distrib.search.trials import trial_metrics
from distrib.tracking.folder import ROBUST

ERROR_FILE = "error.txt"
"""In a trial's folder: why it failed."""
NO_ROOM_FILE = "no_room.txt"
"""In a trial's folder and in that of all trials: which machines were missing."""


@dataclass(frozen=True)
class TrialConfig:
    """What a trial's process is told."""

    order: WorkOrder
    use_gpu: bool
    score: Score
    units: float
    """Cores or GPUs that the trial takes."""


def trial_main(config: dict, mailbox: ActorHandle) -> None:
    """Runs a whole trial, which is a distributed training, in the process that Ray Tune starts for it.

    An error of our own is written to ``error.txt`` in the trial's folder. Where machines are missing it goes to
    ``no_room.txt``, since it says nothing about the trial; also to the folder of all trials, so that no other trial
    begins and waits as long.
    """
    work: TrialConfig | None = config["work"]
    if work is None:
        return
    run = work.order.run
    for name in (ERROR_FILE, NO_ROOM_FILE):
        (run / name).unlink(missing_ok=True)
    common = run.parent / NO_ROOM_FILE
    if common.exists():
        shutil.copy(common, run / NO_ROOM_FILE)
        return
    try:
        fit(work.order, work.use_gpu, mailbox, [TuneReporter(work.score, run / ROBUST, work.units)])
    except NoRoom as error:
        for folder in (run.parent, run):
            write_bytes(folder / NO_ROOM_FILE, str(error).encode())
    except DistribError as error:  # kept from Ray Tune, which would start the trial again, to fail again
        write_bytes(run / ERROR_FILE, str(error).encode())


class TuneReporter(TuneReportCallback):
    """Tells Ray Tune after every epoch what the trial has reached: its best epoch by robust accuracy, and its cost."""

    def __init__(self, score: Score, run: Path, units: float):
        super().__init__()
        self.score, self.run, self.units = score, run, units

    def after_report(self, run_context: Any, metrics: list[dict], checkpoint: Any) -> None:
        """Called by Ray Train with what each rank reported."""
        epoch = metrics[0]["epoch"]  # its checkpoint is stored already; a report may be lost, a checkpoint is not
        history = checkpoints.history(self.run, lambda text: None)[:epoch]
        super().after_report(run_context, [trial_metrics(self.score, history, self.units)], checkpoint)

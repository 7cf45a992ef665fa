"""The training of one or more phases on Ray, with every epoch logged once."""

import time
from pathlib import Path

from distrib import checkpoints
from distrib.cluster.session import Resources
from distrib.config.job import Train
from distrib.tracking.client import Tracker
from distrib.tracking.clock import Clock
from distrib.tracking.display import Display
from distrib.tracking.epochs import Journal


def train(
    phases: dict[str, Train],
    job: Train,
    folder: Path,
    data: Path,
    tracker: Tracker,
    resources: Resources,
    display: Display,
    clock: Clock,
) -> Journal:
    """Trains every phase that is not at its end yet. What MLflow has not taken of it is left in the journal."""
    from distrib.cluster.messages import Note, Started, listening
    from distrib.cluster.train import Order, fit
    from distrib.trainer import EpochEnd, Progress

    journal = Journal(tracker, display)
    for phase in phases:
        journal.catch_up(phase, checkpoints.history(folder / phase, display.say))
    if all(journal.epochs.get(phase) == part.optim.epochs for phase, part in phases.items()):
        display.say("training: complete already")
        return journal
    began = time.perf_counter()

    def listen(phase: str, notice: object) -> None:
        match notice:
            case Started():
                journal.started(notice.rank, notice.ranks, notice.node, notice.precision)
                if notice.rank == 0:
                    clock.marks.setdefault("workers_start", round(time.perf_counter() - began, 2))
                    display.say(
                        f"{phase} training: {notice.ranks} workers on {notice.device}, {notice.precision}, "
                        f"{notice.loader} loader"
                        + (f", resumed after epoch {notice.start_epoch}" if notice.start_epoch else "")
                    )
            case Note():
                display.say(notice.text)
            case Progress():
                clock.marks.setdefault("first_step", round(time.perf_counter() - began, 2))
                epoch = notice.step * phases[phase].optim.epochs / notice.steps
                detail = f"epoch {epoch:.1f}, loss {notice.loss:.3f}, {notice.images_per_second:.0f} images/s"
                display.advance(f"{phase} training", notice.step, notice.steps, detail + journal.latest(phase))
            case EpochEnd():
                journal.add(phase, notice.epoch, notice.metrics)
                journal.tell(phase, notice.epoch, phases[phase].optim.epochs)

    with listening(listen) as board:
        fit(Order(job, data, folder, phases), resources.use_gpu(job.cluster), board)
    display.end()
    for phase in phases:
        journal.catch_up(phase, checkpoints.history(folder / phase, display.say))
    return journal

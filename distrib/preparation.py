"""The data of a job, packed where it is not packed yet."""

from pathlib import Path

from distrib.data.beton import prepare
from distrib.data.loader import resolve
from distrib.job import Evaluate, Prepare, Study, Training, digest, dump
from distrib.progress import Display


def prepared(job: Prepare | Training | Evaluate | Study, display: Display) -> Path:
    """The folder of the job's betons, made now if it is not there."""
    packing = resolve(job.loader)
    if packing == "memory" and job.loader == "auto":
        display.say("warning: ffcv cannot be imported here; images are kept in memory instead (see distrib doctor)")
    implied = Prepare(kind="prepare", data=job.data, loader=job.loader)
    return prepare(job.data, packing, dump(implied), digest(implied), display.say)

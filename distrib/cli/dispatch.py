"""A job, handed to whatever carries it out."""

from pathlib import Path

from distrib.commands.evaluate import run_evaluate
from distrib.commands.prepare import run_prepare
from distrib.commands.train import run_train
from distrib.config.file import parse, read
from distrib.config.job import AnyJob, Evaluate, Prepare, Study, Train, Tune
from distrib.search.run import run_tune
from distrib.studies.run import run_study
from distrib.tracking.display import Display


def run(job: AnyJob | dict | str | Path, display: Display | None = None) -> dict:
    """Carries a job out and returns its result as plain values. Raises :class:`DistribError`.

    The job is what :func:`read` gives, the path of a job file, or what such a file says, as a dictionary. ``display``
    shows what goes on; without one, one is opened for this job.
    """
    if isinstance(job, dict):
        job = parse(job, [], "the job", Path.cwd())
    elif isinstance(job, str | Path):
        job = read(job)
    if display is None:
        with Display() as own:
            return run(job, own)
    match job:
        case Prepare():
            return run_prepare(job, display)
        case Train():
            return run_train(job.resolved(), display)
        case Evaluate():
            return run_evaluate(job.resolved(), display)
        case Study():
            return run_study(job, display)
        case Tune():
            return run_tune(job.resolved(), display)

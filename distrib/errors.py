"""The errors that distrib raises on purpose.

    DistribError
    |-- InputError(ValueError)        the input is wrong: exit status 2
    |   |-- JobError                  a job file, or an override of one
    |   |-- DataError                 a data set, a beton or its card
    |   |-- CheckpointError           a stored state
    |   `-- RegistryError             a model address, a tracking server
    `-- RunError(RuntimeError)        a sound input whose run failed: exit status 1
        |-- NoRoom                    machines lacked for too long
        |-- TrackingError             MLflow fails, or does not answer
        `-- NonFiniteLoss             the outer loss, or a weight, became nan or inf

Every message names the field or file that is wrong and the cure. Errors cross process borders (Ray pickles
them), so each takes its whole message as its one argument.
"""

import difflib
from collections.abc import Sequence

WIDEST, MOST = 1500, 40


def bounded(text: str) -> str:
    """The text, its long lines cut in the middle and many lines at the end: a message echoes values of any length."""
    lines = [line if len(line) <= WIDEST else f"{line[:1000]} [...] {line[-300:]}" for line in text.split("\n")]
    more = [f"... and {len(lines) - MOST} more lines"] if len(lines) > MOST else []
    return "\n".join(lines[:MOST] + more)


def nearest(name: object, names: Sequence[str]) -> str:
    """`` (did you mean x?)`` where one of ``names`` is close to ``name``, else nothing."""
    close = difflib.get_close_matches(str(name), names, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


class DistribError(Exception):
    """The root: what the command line catches and prints without a traceback."""

    exit_status = 1


class InputError(DistribError, ValueError):
    """Something that was handed in is wrong; nothing was changed."""

    exit_status = 2


class JobError(InputError):
    """A job file, or an override of it, is not a job."""


class DataError(InputError):
    """A data set, a beton or a card cannot be used."""


class CheckpointError(InputError):
    """A stored state is missing, damaged, or belongs to another job."""


class RegistryError(InputError):
    """A model address or a tracking server cannot be used."""


class RunError(DistribError, RuntimeError):
    """A run that was started did not finish."""


class NoRoom(RunError):
    """Machines lacked for too long; the same command goes on when there are more."""


class TrackingError(RunError):
    """MLflow fails, or does not answer any more; what is done is kept, and the same command records it."""


class NonFiniteLoss(RunError):
    """The outer loss became nan or inf on some rank, and every rank stops before its optimiser moves; or a weight did,
    and every rank stops before it is stored."""

"""The ``distrib`` command: parse -> Job -> one call -> print where the result is."""

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from distrib.cli import verbs
from distrib.cli.parser import parser
from distrib.errors import DistribError, bounded
from distrib.files import disk_full


def command() -> NoReturn:
    """What the shell calls. It ends at once: to free every object of a run, one by one, would take 1.6 s more."""
    status = main()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 0 (done), 1 (the run failed) or 2 (the input is wrong)."""
    root = parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may follow, and waits
        import argcomplete

        argcomplete.autocomplete(root)
    options = root.parse_args(arguments)
    if options.verb is None:
        root.print_help()
        return 0
    from distrib.tracking.client import in_words  # not before: help is quick

    signal.signal(signal.SIGTERM, _terminated)
    try:
        with in_words():
            status = verbs.carry_out(options)
        sys.stdout.flush()  # here, where a reader that has left is caught
        return status
    except DistribError as error:
        print(f"distrib: {bounded(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("distrib: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a share that is gone
        file = error.filename2 or error.filename  # the second is where it was to be written
        where = f"{file}: " if file else "the disk of storage, data.store or TMPDIR: " if disk_full(error) else ""
        print(
            f"distrib: {where}{error.strerror or error}; the same command goes on when that is mended", file=sys.stderr
        )
        return 1


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt

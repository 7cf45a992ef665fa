"""The verbs that speak to a Ray cluster: submit, jobs, logs, stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from distrib.cli.parser import Options
from distrib.errors import JobError, RunError

if TYPE_CHECKING:  # it takes a second to import
    from distrib.cluster.submit import Attempt, Remote
    from distrib.config.job import AnyJob


def carry_out_remote(options: Options) -> int:
    """Does what was asked for; the exit status, which is the job's own where its end was waited for."""
    from distrib.cluster.submit import Remote
    from distrib.config.file import read

    job = (
        read(options.job, options.overrides, options.removals) if options.verb == "submit" else None
    )  # wrong input before any network
    if not options.address:
        raise JobError("--address: is missing; name the cluster's dashboard, such as http://HEAD:8265")
    remote = Remote(options.address)
    if job is not None:
        return _submit(remote, job, options)
    if options.verb == "jobs":
        return _jobs(remote, options)
    attempt = remote.attempt(options.name)
    if options.verb == "stop":
        attempt = remote.stop(attempt)
        print(f"{attempt.id} is {attempt.status}")
    elif options.follow:
        return _follow(remote, attempt, _show).outcome
    else:
        print(remote.logs(attempt), end="")
    return 0


def _submit(remote: Remote, job: AnyJob, options: Options) -> int:
    attempt = remote.submit(job, options.directory, options.with_code)
    shows = f"distrib logs {attempt.name} --follow{remote.option}"
    _say(f"{attempt.id} is submitted to {remote.address}: {shows} shows what it does")
    if options.follow or options.wait:
        attempt = _follow(remote, attempt, _show if options.follow else lambda _: None)
    if options.json:
        print(json.dumps(attempt.as_json()))
    return attempt.outcome if attempt.over else 0


def _jobs(remote: Remote, options: Options) -> int:
    from distrib.cli.text import submissions

    found = remote.attempts()
    print(json.dumps([one.as_json() for one in found]) if options.json else submissions(found))
    return 0


def _follow(remote: Remote, attempt: Attempt, show: Callable[[str], None]) -> Attempt:
    """The submission at its end. Ctrl-C leaves the job alone, or stops it where a person says so."""
    try:
        found = remote.follow(attempt, show, _say)
    except KeyboardInterrupt:
        if sys.stdin.isatty() and input(f"\nstop {attempt.id} there too? [y/N] ").strip().lower().startswith("y"):
            found = remote.stop(attempt)
        else:
            raise RunError(
                f"{attempt.id} goes on; distrib logs {attempt.name} --follow{remote.option} shows it, "
                f"distrib stop {attempt.name}{remote.option} ends it"
            ) from None
    why = f": {found.message.splitlines()[0]}" if found.outcome and found.message else ""
    _say(f"{found.id} is {found.status}{why}")
    return found


def _show(text: str) -> None:
    """A part of the job's own output."""
    print(text, end="", flush=True)


def _say(text: str) -> None:
    """A line for the person who watches, beside the output."""
    print(text, file=sys.stderr, flush=True)

"""The ``distrib`` command: parse -> Job -> one call -> print where the result is."""

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from distrib import __version__
from distrib.errors import DistribError, JobError, RunError, bounded
from distrib.files import disk_full

ABOUT = """\
Distributed training of image classifiers that withstand adversarial attack.

Everything that can be run is a job file (see jobs/): data -> FFCV beton -> Ray Train workers running PGD adversarial
training -> honest end evaluation -> a version in the MLflow registry."""

EPILOG = """\
examples:
  distrib run jobs/digits.yaml                            train, judge and register in minutes
  distrib run jobs/mnist.yaml --set data.root=/data       the same with fields of the job set here
  distrib run jobs/mnist.yaml --dry-run                   what it would do, without doing it
  distrib submit jobs/mnist.yaml --address http://head:8265 --directory /shared    the same on a Ray cluster
  distrib jobs --address http://head:8265                 what was submitted there
  distrib logs mnist --address http://head:8265 --follow    what it prints, until it ends
  distrib stop mnist --address http://head:8265           stop it; submit it again, and it goes on
  distrib models                                          what is registered, and how robust it is
  distrib pull models:/digits@champion digits-model       bring a model here
  distrib compare models:/digits/2 models:/digits@champion   image by image, with a significance test
  distrib export runs/digits digits-adversarial           a frozen adversarial test set for others
  distrib doctor                                          what this machine lacks, and what to do about it

exit status: 0 done, 1 the run failed, 2 the input is wrong"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    root = argparse.ArgumentParser("distrib", description=ABOUT, epilog=EPILOG, formatter_class=raw)
    root.add_argument("--version", action="version", version=f"distrib {__version__}")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    tracked = argparse.ArgumentParser(add_help=False)
    tracked.add_argument(
        "--tracking-uri", metavar="URI", help="of MLflow (default: MLFLOW_TRACKING_URI, else ./mlflow.db)"
    )

    described = argparse.ArgumentParser(add_help=False)
    described.add_argument("job", type=Path, metavar="JOB.yaml", help="the job file")
    described.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="overrides",
                           help="set a field of the job, such as optim.epochs=3 (may be repeated)")  # fmt: skip

    remote = argparse.ArgumentParser(add_help=False)
    remote.add_argument(
        "--address", metavar="URL", default=os.environ.get("RAY_API_SERVER_ADDRESS"),
        help="of the cluster's dashboard, such as http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS)",
    )  # fmt: skip

    run = verbs.add_parser(
        "run", help="carry out a job file", formatter_class=raw, parents=[described],
        description="Carries out a job file. The same job again goes on where it was stopped; a complete one says so.",
        epilog="examples:\n  distrib run jobs/digits.yaml\n  distrib run jobs/mnist.yaml --set data.root=/data "
        "--set optim.epochs=3 --set name=short\n  distrib run jobs/digits.yaml --json 2>/dev/null | tail -1",
    )  # fmt: skip
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="resolve, check and print the job and what it would need; touch nothing",
    )
    run.add_argument("--json", action="store_true", help="the last line on stdout is the result as one JSON object")

    submit = verbs.add_parser(
        "submit", help="hand a job in to a Ray cluster", formatter_class=raw, parents=[described, remote],
        description="Hands a job in to a Ray cluster where distrib is installed (or is sent along), and returns.\n"
        "A run that is there already is refused while it lives; then the same command goes on where it was left.\n"
        "The token is RAY_AUTH_TOKEN, or is read from RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.",
        epilog="examples:\n  distrib submit jobs/mnist.yaml --address http://head:8265 --directory /shared --follow"
        "\n  distrib jobs --address http://head:8265\n  distrib logs mnist --address http://head:8265 --follow",
    )  # fmt: skip
    submit.add_argument(
        "--directory", metavar="DIR",
        help="where the job's relative paths begin, on the cluster: a folder that every node sees (default: storage)",
    )  # fmt: skip
    submit.add_argument("--with-code", action="store_true", help="send this distrib along, instead of the nodes' own")
    submit.add_argument("--follow", action="store_true", help="show the output until the end; exit as the job does")
    submit.add_argument("--wait", action="store_true", help="the same without the output")
    submit.add_argument("--json", action="store_true", help="the last line on stdout is the submission as JSON")

    jobs = verbs.add_parser(
        "jobs", help="list what was submitted to a Ray cluster", parents=[remote],
        description="Lists every submission by distrib that the cluster knows, oldest first.",
    )  # fmt: skip
    jobs.add_argument("--json", action="store_true", help="a JSON list instead of a table")

    logs = verbs.add_parser(
        "logs", help="show what a submitted job prints", parents=[remote],
        description="Shows the output of a run's last submission (or of one of them, NAME-NUMBER).",
    )  # fmt: skip
    logs.add_argument("name", metavar="NAME", help="the run's name, or NAME-NUMBER")
    logs.add_argument("--follow", action="store_true", help="go on until the job's end, and exit as it does")

    stop = verbs.add_parser(
        "stop", help="stop a submitted job", parents=[remote],
        description="Stops a run's last submission. It keeps its checkpoints: submit it again, and it goes on.",
    )  # fmt: skip
    stop.add_argument("name", metavar="NAME", help="the run's name, or NAME-NUMBER")

    doctor = verbs.add_parser(
        "doctor",
        parents=[tracked],
        help="check this machine",
        description="Checks what distrib needs, and says what to do about each fault.",
    )
    doctor.add_argument(
        "--storage", type=Path, default=Path("runs"), help="the folder that runs would be kept in (default: runs)"
    )

    models = verbs.add_parser(
        "models",
        help="list registered models",
        parents=[tracked],
        description="Lists every registered version with its robustness.",
    )
    models.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    models.add_argument("--history", metavar="NAME", help="every decision about champion of this model, oldest first")

    pull = verbs.add_parser(
        "pull", help="bring a registered model here", parents=[tracked],
        description="Brings a version to a new folder: MLflow model, weights, card, job, an example of use.",
    )  # fmt: skip
    pull.add_argument(
        "address", metavar="MODEL", help="models:/NAME/VERSION or models:/NAME@ALIAS (champion, latest-robust)"
    )
    pull.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")

    compare = verbs.add_parser(
        "compare", help="compare two versions on the same images", parents=[tracked],
        description="Compares two registered versions image by image, from their robustness cards, by McNemar's test. "
        "Versions that were judged on another threat, attacks, data or images are refused.",
    )  # fmt: skip
    for one in ("a", "b"):
        compare.add_argument(one, metavar=one.upper(), help="models:/NAME/VERSION or models:/NAME@ALIAS")
    compare.add_argument("--tier", help="of the cards to compare (default: each version's best)")
    compare.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    export = verbs.add_parser(
        "export", help="write a frozen adversarial test set",
        description="Writes the worst images of a finished train or evaluate run, with what made them and a script "
        "that checks and scores them without distrib. An evaluation judges such a folder by the attack stored.",
    )  # fmt: skip
    export.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/digits")
    export.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 0 (done), 1 (the run failed) or 2 (the input is wrong)."""
    options = parser().parse_args(arguments)
    from distrib.tracking.client import in_words  # not before: help is quick

    signal.signal(signal.SIGTERM, _terminated)
    try:
        with in_words():
            status = _verb(options)
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


def _stopping(number: int, frame: object) -> None:
    """Says so at once: what was started takes some seconds to end."""
    os.write(2, b"\ndistrib: stopping ...\n")  # print may be what was interrupted
    raise KeyboardInterrupt


def _verb(options: argparse.Namespace) -> int:
    match options.verb:
        case "run":
            return _run(options)
        case "submit" | "jobs" | "logs" | "stop":
            return _elsewhere(options)
        case "doctor":
            return _doctor(options)
        case "models":
            return _models(options)
        case "pull":
            return _pull(options)
        case "compare":
            return _compare(options)
        case _:
            return _export(options)


def _run(options: argparse.Namespace) -> int:
    from distrib.config.file import read

    job = read(options.job, options.overrides)
    if options.dry_run:
        from distrib.cli.dry_run import plan

        print(plan(job))
        return 0
    from distrib.cli.dispatch import run
    from distrib.cli.text import table
    from distrib.tracking.display import Display

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopping)
    with Display() as display:
        result = run(job, display)
    if options.json:
        print(json.dumps(result))
    else:
        uri = None if job.kind == "prepare" else job.tracking.uri
        print(table(result, f" --tracking-uri {shlex.quote(uri)}" if uri else ""))
    return 0


def _elsewhere(options: argparse.Namespace) -> int:
    from distrib.cluster.submit import Remote
    from distrib.config.file import read

    job = read(options.job, options.overrides) if options.verb == "submit" else None  # wrong input before any network
    if not options.address:
        raise JobError("--address: is missing; name the cluster's dashboard, such as http://HEAD:8265")
    remote = Remote(options.address)
    if options.verb == "jobs":
        from distrib.cli.text import submissions

        found = remote.attempts()
        print(json.dumps([one.as_json() for one in found]) if options.json else submissions(found))
        return 0
    if options.verb == "stop":
        attempt = remote.stop(remote.attempt(options.name))
        print(f"{attempt.id} is {attempt.status}")
        return 0
    if job is None:
        attempt = remote.attempt(options.name)
        if not options.follow:
            print(remote.logs(attempt), end="")
            return 0
        return _follow(remote, attempt, lambda text: print(text, end="", flush=True)).outcome
    attempt = remote.submit(job, options.directory, options.with_code)
    shows = f"distrib logs {attempt.name} --follow{remote.option}"
    say(f"{attempt.id} is submitted to {remote.address}: {shows} shows what it does")
    if options.follow or options.wait:
        silent = options.wait and not options.follow
        attempt = _follow(remote, attempt, lambda text: None if silent else print(text, end="", flush=True))
    if options.json:
        print(json.dumps(attempt.as_json()))
    return attempt.outcome if attempt.over else 0


def _follow(remote, attempt, show):
    """The job at its end. Ctrl-C leaves it alone, or stops it where a person says so."""
    try:
        found = remote.follow(attempt, show, say)
    except KeyboardInterrupt:
        if sys.stdin.isatty() and input(f"\nstop {attempt.id} there too? [y/N] ").strip().lower().startswith("y"):
            found = remote.stop(attempt)
        else:
            raise RunError(
                f"{attempt.id} goes on; distrib logs {attempt.name} --follow{remote.option} shows it, "
                f"distrib stop {attempt.name}{remote.option} ends it"
            ) from None
    say(
        f"{found.id} is {found.status}"
        + (f": {found.message.splitlines()[0]}" if found.outcome and found.message else "")
    )
    return found


def say(text: str) -> None:
    """A line for the person who watches, beside the output."""
    print(text, file=sys.stderr, flush=True)


def _doctor(options: argparse.Namespace) -> int:
    from distrib.cli.doctor import examine, report

    checks = examine(options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"), options.storage)
    print(report(checks))
    return 0 if all(check.ok for check in checks) else 1


def _models(options: argparse.Namespace) -> int:
    from distrib.cli.text import decisions, models_table
    from distrib.registry import champion, versions
    from distrib.tracking import client

    uri = client.address(options.tracking_uri)
    client.must_exist(uri)
    if options.history:
        found = champion.decision_history(options.history, uri)
        print(json.dumps(found) if options.json else decisions(found, options.history))
        return 0
    rows = versions.versions(uri)
    print(json.dumps(rows) if options.json else models_table(rows, uri))
    return 0


def _pull(options: argparse.Namespace) -> int:
    from distrib.registry import versions
    from distrib.tracking import client

    uri = client.address(options.tracking_uri)
    client.must_exist(uri)
    versions.pull(options.address, options.folder, uri)
    print(
        f"{options.address} is in {options.folder}: {', '.join(sorted(path.name for path in options.folder.iterdir()))}"
    )
    if (options.folder / "example.py").exists():
        print(f"try it: python {options.folder / 'example.py'}")
    else:
        say("no example: it has no card, or is a pickled module, which runs whatever code is in it when it is loaded")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from distrib.cli.text import comparison
    from distrib.registry.compare import compare
    from distrib.tracking import client

    uri = client.address(options.tracking_uri)
    client.must_exist(uri)
    result = compare(options.a, options.b, uri, options.tier)
    print(json.dumps(result) if options.json else comparison(result))
    return 0


def _export(options: argparse.Namespace) -> int:
    from distrib.commands.export import export
    from distrib.tracking.display import Display

    with Display() as display:
        spec = export(options.run, options.folder, display)
    print(f"{spec['n']} images in {options.folder}: adversarial.safetensors, attack.json, README.md, validate.py")
    return 0

"""The command line: its verbs, their arguments, and what the help says of them."""

import argparse
import os
from pathlib import Path

from distrib import __version__

Options = argparse.Namespace
"""What was asked for: ``verb``, and that verb's arguments."""
RAW = argparse.RawDescriptionHelpFormatter

ABOUT = """\
Distributed training of image classifiers that withstand adversarial attack.

Everything that can be run is a job file (see jobs/): data -> FFCV beton -> Ray Train workers running PGD adversarial
training -> honest end evaluation -> a version in the MLflow registry."""

EPILOG = """\
examples:
  distrib run jobs/digits.yaml                            train, judge and register in minutes
  distrib run jobs/mnist.yaml --set data.root=/data       the same with fields of the job set here
  distrib run jobs/mnist.yaml --dry-run                   what it would do, without doing it
  distrib fields optim.schedule                           what a job file may say there
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
    """The parser of the whole command; it imports nothing heavy, so that help is quick."""
    root = argparse.ArgumentParser("distrib", description=ABOUT, epilog=EPILOG, formatter_class=RAW)
    root.add_argument("--version", action="version", version=f"distrib {__version__}")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for add in (_run, _fields, _submit, _jobs, _logs, _stop, _doctor, _models, _pull, _compare, _export):
        add(verbs)
    return root


def _tracked() -> argparse.ArgumentParser:
    """The argument of verbs that read MLflow."""
    tracked = argparse.ArgumentParser(add_help=False)
    tracked.add_argument(
        "--tracking-uri", metavar="URI", help="of MLflow (default: MLFLOW_TRACKING_URI, else ./mlflow.db)"
    )
    return tracked


def _described() -> argparse.ArgumentParser:
    """The arguments of verbs that take a job file."""
    described = argparse.ArgumentParser(add_help=False)
    described.add_argument("job", type=Path, metavar="JOB.yaml", help="the job file")
    described.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="overrides",
                           help="set a field of the job, such as optim.epochs=3 (may be repeated)")  # fmt: skip
    return described


def _remote() -> argparse.ArgumentParser:
    """The argument of verbs that speak to a Ray cluster."""
    remote = argparse.ArgumentParser(add_help=False)
    remote.add_argument(
        "--address", metavar="URL", default=os.environ.get("RAY_API_SERVER_ADDRESS"),
        help="of the cluster's dashboard, such as http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS)",
    )  # fmt: skip
    return remote


def _run(verbs: argparse._SubParsersAction) -> None:
    run = verbs.add_parser(
        "run", help="carry out a job file", formatter_class=RAW, parents=[_described()],
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


def _fields(verbs: argparse._SubParsersAction) -> None:
    fields = verbs.add_parser(
        "fields", help="tell the fields of a job file", formatter_class=RAW,
        description="Tells the fields of a job: type, bounds, default and meaning of each; of all kinds, or at a path.",
        epilog="examples:\n  distrib fields\n  distrib fields optim.schedule\n  distrib fields evaluation.attacks\n"
        "  distrib fields tune",
    )  # fmt: skip
    fields.add_argument("path", nargs="?", default="", metavar="PATH", help="a field, or a kind of job (default: all)")
    fields.add_argument("--markdown", action="store_true", help="as the page docs/jobs.md has it")


def _submit(verbs: argparse._SubParsersAction) -> None:
    submit = verbs.add_parser(
        "submit", help="hand a job in to a Ray cluster", formatter_class=RAW, parents=[_described(), _remote()],
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


def _jobs(verbs: argparse._SubParsersAction) -> None:
    jobs = verbs.add_parser(
        "jobs", help="list what was submitted to a Ray cluster", parents=[_remote()],
        description="Lists every submission by distrib that the cluster knows, oldest first.",
    )  # fmt: skip
    jobs.add_argument("--json", action="store_true", help="a JSON list instead of a table")


def _logs(verbs: argparse._SubParsersAction) -> None:
    logs = verbs.add_parser(
        "logs", help="show what a submitted job prints", parents=[_remote()],
        description="Shows the output of a run's last submission (or of one of them, NAME-NUMBER).",
    )  # fmt: skip
    logs.add_argument("name", metavar="NAME", help="the run's name, or NAME-NUMBER")
    logs.add_argument("--follow", action="store_true", help="go on until the job's end, and exit as it does")


def _stop(verbs: argparse._SubParsersAction) -> None:
    stop = verbs.add_parser(
        "stop", help="stop a submitted job", parents=[_remote()],
        description="Stops a run's last submission. It keeps its checkpoints: submit it again, and it goes on.",
    )  # fmt: skip
    stop.add_argument("name", metavar="NAME", help="the run's name, or NAME-NUMBER")


def _doctor(verbs: argparse._SubParsersAction) -> None:
    doctor = verbs.add_parser(
        "doctor",
        parents=[_tracked()],
        help="check this machine",
        description="Checks what distrib needs, and says what to do about each fault.",
    )
    doctor.add_argument(
        "--storage", type=Path, default=Path("runs"), help="the folder that runs would be kept in (default: runs)"
    )


def _models(verbs: argparse._SubParsersAction) -> None:
    models = verbs.add_parser(
        "models",
        help="list registered models",
        parents=[_tracked()],
        description="Lists every registered version with its robustness.",
    )
    models.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    models.add_argument("--history", metavar="NAME", help="every decision about champion of this model, oldest first")


def _pull(verbs: argparse._SubParsersAction) -> None:
    pull = verbs.add_parser(
        "pull", help="bring a registered model here", parents=[_tracked()],
        description="Brings a version to a new folder: MLflow model, weights, card, job, an example of use.",
    )  # fmt: skip
    pull.add_argument(
        "address", metavar="MODEL", help="models:/NAME/VERSION or models:/NAME@ALIAS (champion, latest-robust)"
    )
    pull.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")


def _compare(verbs: argparse._SubParsersAction) -> None:
    compare = verbs.add_parser(
        "compare", help="compare two versions on the same images", parents=[_tracked()],
        description="Compares two registered versions image by image, from their robustness cards, by McNemar's test. "
        "Versions that were judged on another threat, attacks, data or images are refused.",
    )  # fmt: skip
    for one in ("a", "b"):
        compare.add_argument(one, metavar=one.upper(), help="models:/NAME/VERSION or models:/NAME@ALIAS")
    compare.add_argument("--tier", help="of the cards to compare (default: each version's best)")
    compare.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def _export(verbs: argparse._SubParsersAction) -> None:
    export = verbs.add_parser(
        "export", help="write a frozen adversarial test set, or a model for RobustBench",
        description="Writes the worst images of a finished train or evaluate run, with what made them and a script "
        "that checks and scores them without distrib. An evaluation judges such a folder by the attack stored.",
    )  # fmt: skip
    export.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/digits")
    export.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    export.add_argument(
        "--robustbench", action="store_true",
        help="its model instead: weights, network, claim and log of AutoAttack, as RobustBench's zoo takes them",
    )  # fmt: skip

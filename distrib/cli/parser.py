"""The command line: its verbs, their arguments, and what the help says of them."""

import argparse
import difflib
import os
import re
from pathlib import Path
from typing import NoReturn

from distrib import __version__

MODEL = "NAME/VERSION or NAME@ALIAS (champion, latest-robust)"

Options = argparse.Namespace
"""What was asked for: ``verb``, and that verb's arguments."""
RAW = argparse.RawDescriptionHelpFormatter

ABOUT = """\
Distributed training of image classifiers that withstand adversarial attack.

Everything that can be run is a job file (see jobs/): data -> FFCV beton -> Ray Train workers running PGD adversarial
training -> honest end evaluation -> a version in the MLflow registry."""

MEANT = {
    "train": "run", "start": "run", "fit": "run", "eval": "evaluate", "judge": "evaluate", "ls": "models",
    "list": "models", "get": "pull", "download": "pull", "upload": "push", "card": "show",
    "status": "runs", "new": "init",
}  # fmt: skip
"""What other tools call our commands."""

EPILOG = """\
examples:
  distrib init digits                                     a job file to begin with, here
  distrib run digits.yaml                                 train, judge and register in minutes
  distrib run jobs/mnist.yaml --set data.root=/data       the same with fields of the job set here
  distrib run jobs/mnist.yaml --dry-run                   what it would do, without doing it
  distrib fields optim.schedule                           what a job file may say there
  distrib runs                                            what ran here, how far it came, when it will be done
  distrib evaluate digits@champion --tier quick           judge a model, without a job file
  distrib submit jobs/mnist.yaml --address http://head:8265 --directory /shared    the same on a Ray cluster
  distrib jobs --address http://head:8265                 what was submitted there
  distrib logs mnist --address http://head:8265 --follow    what it prints, until it ends
  distrib stop mnist --address http://head:8265           stop it; submit it again, and it goes on
  distrib models                                          what is registered, and how robust it is
  distrib show digits@champion                            the robustness card of a model
  distrib pull digits@champion digits-model               bring a model here
  distrib push digits-model --to http://mlflow:5000       and to another registry
  distrib compare digits/2 digits@champion                image by image, with a significance test
  distrib export runs/digits digits-adversarial           a frozen adversarial test set for others
  distrib doctor                                          what this machine lacks, and what to do about it

completion in the shell: eval "$(register-python-argcomplete distrib)"
exit status: 0 done, 1 the run failed, 2 the input is wrong"""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command; it imports nothing heavy, so that help is quick."""
    root = _Parser("distrib", description=ABOUT, epilog=EPILOG, formatter_class=RAW)
    root.add_argument("--version", action="version", version=f"distrib {__version__}")
    verbs = root.add_subparsers(dest="verb", metavar="COMMAND")
    for add in (
        _run, _init, _fields, _schema, _runs, _evaluate, _models, _show, _pull, _push, _compare, _export, _submit,
        _jobs, _logs, _stop, _doctor,
    ):  # fmt: skip
        add(verbs)
    return root


class _Parser(argparse.ArgumentParser):
    """One that tells which command may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, in a line, and where the help is; exits with 2."""
        unknown = re.search(r"argument COMMAND: invalid choice: '(.*)' \(choose from (.*)\)", message)
        if unknown is not None:
            verbs = [name.strip(" '") for name in unknown[2].split(",")]
            near = difflib.get_close_matches(unknown[1], [*verbs, *MEANT], n=1)
            meant = f"did you mean {MEANT.get(near[0], near[0])}?" if near else f"they are {', '.join(verbs)}"
            message = f"there is no command {unknown[1]!r}; {meant}"
        self.exit(2, f"distrib: {message} (see {self.prog} --help)\n")


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
    described.add_argument("job", type=Path, metavar="JOB", help="a job file, or the name of one that distrib brings")
    _settable(described)
    return described


def _settable(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="overrides",
                      help="set a field of the job, such as optim.epochs=3 or evaluation.attacks[0].num_steps=50 "
                      "(may be repeated)")  # fmt: skip
    verb.add_argument("--unset", action="append", default=[], metavar="FIELD", dest="removals",
                      help="take a field out of the job, so that it has its default (may be repeated)")  # fmt: skip


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


def _init(verbs: argparse._SubParsersAction) -> None:
    init = verbs.add_parser(
        "init", help="write a job file to begin with", formatter_class=RAW,
        description="Copies one of the jobs that distrib brings to a file here; without a name, lists them.",
        epilog="examples:\n  distrib init\n  distrib init folder mine.yaml",
    )  # fmt: skip
    init.add_argument("name", nargs="?", metavar="NAME", help="the job, such as digits, mnist or folder")
    init.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where to (default: NAME.yaml)")


def _schema(verbs: argparse._SubParsersAction) -> None:
    verbs.add_parser(
        "schema", help="print the JSON schema of job files, for editors", formatter_class=RAW,
        description="Prints the JSON schema of job files. An editor that has it completes and explains their fields.",
        epilog="example:\n  distrib schema > distrib.schema.json\n"
        "  and, as the first line of a job file:   # yaml-language-server: $schema=distrib.schema.json",
    )  # fmt: skip


def _runs(verbs: argparse._SubParsersAction) -> None:
    runs = verbs.add_parser(
        "runs", help="list the runs of this folder",
        description="Lists every run: complete, running or stopped, how far it came, and when it will be done.",
    )  # fmt: skip
    runs.add_argument("--storage", type=Path, default=Path("runs"), metavar="DIR",
                      help="the folder that they are in (default: runs)")  # fmt: skip
    runs.add_argument("--json", action="store_true", help="a JSON list instead of a table")


def _evaluate(verbs: argparse._SubParsersAction) -> None:
    evaluate = verbs.add_parser(
        "evaluate", help="judge a model, without a job file", formatter_class=RAW, parents=[_tracked()],
        description="Judges a model on a test split, as a job of kind: evaluate does. Of a registered model, data and\n"
        "threat are those of its card, if nothing else is said.",
        epilog="examples:\n  distrib evaluate digits@champion --tier quick\n"
        "  distrib evaluate net.pt2 --data images --epsilon 8/255 --n 500\n"
        "  distrib evaluate digits/1 --epsilon 0.3 --set cluster.num_workers=4",
    )  # fmt: skip
    evaluate.add_argument("model", metavar="MODEL", help=f"{MODEL}, a checkpoint folder, or a .pt2 file")
    evaluate.add_argument("--data", metavar="DATA", help="a set by its name (mnist, cifar10, ...), a folder that holds "
                          "train and test, or the mapping of a job file: '{source: mnist, root: /data}'")  # fmt: skip
    evaluate.add_argument("--norm", choices=("linf", "l2", "l1"), help="of the change (default: the card's, or linf)")
    evaluate.add_argument("--epsilon", help="its size, in pixel units: 8/255 or 0.3 (default: the card's)")
    evaluate.add_argument("--tier", choices=("quick", "paper", "standard", "paranoid"), default="standard",
                          help="the attacks (default: standard, with AutoAttack)")  # fmt: skip
    evaluate.add_argument("--n", type=int, help="how many test images (default: all)")
    evaluate.add_argument("--name", help="of the run (default: made of the model's name and all of this)")
    _settable(evaluate)
    evaluate.add_argument("--dry-run", action="store_true", help="print the job and what it would need; touch nothing")
    evaluate.add_argument("--json", action="store_true", help="the last line on stdout is the result as a JSON object")


def _show(verbs: argparse._SubParsersAction) -> None:
    show = verbs.add_parser(
        "show", help="show the robustness card of a registered model", parents=[_tracked()],
        description="Shows the robustness card of a registered version.",
    )  # fmt: skip
    show.add_argument("address", metavar="MODEL", help=MODEL)
    show.add_argument("--tier", help="of the evaluation (default: the best one)")
    show.add_argument("--json", action="store_true", help="card.json instead")


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
    models.add_argument("name", nargs="?", metavar="NAME", help="of this model alone")
    models.add_argument("--sort", choices=("name", "robust", "clean", "date"), default="name",
                        help="the best, or the newest, first (default: by name, the newest version first)")  # fmt: skip
    models.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    models.add_argument("--history", metavar="NAME", help="every decision about champion of this model, oldest first")


def _pull(verbs: argparse._SubParsersAction) -> None:
    pull = verbs.add_parser(
        "pull", help="bring a registered model here", parents=[_tracked()],
        description="Brings a version to a new folder: MLflow model, weights, card, job, an example of use.",
    )  # fmt: skip
    pull.add_argument("address", metavar="MODEL", help=MODEL)
    pull.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")


def _push(verbs: argparse._SubParsersAction) -> None:
    push = verbs.add_parser(
        "push", help="register a pulled model in another registry", formatter_class=RAW,
        description="Registers what distrib pull brought, unchanged, as a new version that says where it came from.\n"
        "A folder that is changed or not whole is refused; weights that are there already are found. No alias moves:\n"
        "distrib evaluate NAME/VERSION, on the other registry, decides about champion.",
        epilog="examples:\n  distrib push digits-model --to http://mlflow:5000\n"
        "  distrib push digits-model digits-of-ours --to sqlite:////shared/team/mlflow.db",
    )  # fmt: skip
    push.add_argument("folder", type=Path, metavar="DIR", help="as distrib pull made it")
    push.add_argument("name", nargs="?", metavar="NAME", help="of the registered model (default: as it was called)")
    push.add_argument("--to", metavar="URI", help="of MLflow (default: MLFLOW_TRACKING_URI, else ./mlflow.db)")
    push.add_argument("--experiment", metavar="NAME", default="distrib",
                      help="of MLflow, in which a run keeps the files (default: distrib)")  # fmt: skip


def _compare(verbs: argparse._SubParsersAction) -> None:
    compare = verbs.add_parser(
        "compare", help="compare two versions on the same images", parents=[_tracked()],
        description="Compares two registered versions image by image, from their robustness cards, by McNemar's test. "
        "Versions that were judged on another threat, attacks, data or images are refused.",
    )  # fmt: skip
    for one in ("a", "b"):
        compare.add_argument(one, metavar=one.upper(), help=MODEL)
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

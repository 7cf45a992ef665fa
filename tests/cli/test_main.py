"""The command: its exit statuses, its one line on stderr where something is wrong, and how quick its help is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import nothing_made, raises

from distrib import errors
from distrib.cli import main

pytestmark = pytest.mark.usefixtures("elsewhere")
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DistribError)]


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["run"], ["run", "a.yaml", "b.yaml"], ["run", "a.yaml", "--sets", "x=1"],
     ["run", "a.yaml", "--set"], ["pull", "models:/m/1"], ["pull"], ["models", "x", "y"], ["--nothing"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_told_on_stderr(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    told = capsys.readouterr()
    assert (caught.value.code, told.out) == (2, "") and nothing_made(tmp_path)
    assert told.err.startswith("distrib: ") and told.err.count("\n") == 1 and "(see distrib" in told.err


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("rnu", "run"),
        ("trian", "run"),
        ("train", "run"),
        ("evalaute", "evaluate"),
        ("ls", "models"),
        ("modles", "models"),
    ],
)
def test_a_word_that_is_no_command_leads_to_the_one_that_is_meant(
    word: str, meant: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main.main([word])
    assert (
        capsys.readouterr().err
        == f"distrib: there is no command {word!r}; did you mean {meant}? (see distrib --help)\n"
    )


def test_without_a_command_the_help_is_told(capsys: pytest.CaptureFixture[str]):
    assert main.main([]) == 0
    assert capsys.readouterr().out.startswith("usage: distrib [-h]")


@pytest.mark.parametrize("error", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_our_own_is_one_message_and_a_status(
    error: type, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """2 where the input is wrong, 1 where a run failed; and the parts of the tree are caught by their Python kind."""
    monkeypatch.setattr("distrib.cli.dispatch.run", raises(error("field: is wrong; mend it")))
    status = main.main(["run", file])
    assert (status, *capsys.readouterr()) == (error.exit_status, "", "distrib: field: is wrong; mend it\n")
    assert status == (2 if issubclass(error, ValueError) else 1)
    assert issubclass(error, errors.DistribError) and (
        error is errors.DistribError or issubclass(error, (ValueError, RuntimeError))
    )


def test_a_full_disk_is_told_in_a_line(file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("distrib.cli.dispatch.run", raises(OSError(28, "No space left on device", "runs/x/job.json")))
    assert main.main(["run", file]) == 1
    told = "distrib: runs/x/job.json: No space left on device; the same command goes on when that is mended\n"
    assert tuple(capsys.readouterr()) == ("", told)


def test_a_bug_is_not_hidden(file: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("distrib.cli.dispatch.run", raises(KeyError("a bug")))
    with pytest.raises(KeyError, match="a bug"):
        main.main(["run", file])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_how_to_go_on(
    number: int, file: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def run(*_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr("distrib.cli.dispatch.run", run)
    assert main.main(["run", file]) == 1
    first, second = capfd.readouterr().err.strip().splitlines()
    assert first == "distrib: stopping ...", "at once: what was started takes seconds to end"
    assert second == "distrib: interrupted; the same command goes on from the last checkpoint"


def in_a_process(code: str, **options) -> subprocess.CompletedProcess:
    """In an ordinary Python: stdout is buffered there, whatever this one was told."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", code], env=environment, text=True, stderr=subprocess.PIPE, **options)


def test_help_is_quick():
    """No torch, no pydantic, no yaml: they take seconds."""
    code = """
import sys
from distrib.cli.main import main
try:
    main(["--help"])
except SystemExit:
    sys.exit(str(found) if (found := {"torch", "pydantic", "yaml", "rich", "numpy"} & set(sys.modules)) else 0)
"""
    assert in_a_process(code, stdout=subprocess.DEVNULL).stderr == ""


def test_a_reader_that_left_is_no_failure_with_noise():
    """distrib models | head -1"""
    code = "import sys; from distrib.cli import main, verbs; verbs._models = lambda _: print('x') or 0; "
    code += "sys.exit(main.main(['models']))"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = in_a_process(code, stdout=closed)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("status", [0, 2])
def test_the_command_ends_at_once_but_nothing_is_lost(status: int):
    """What is printed comes, who registered for the end is called, and the objects of a run are not taken apart."""
    code = f"""
import atexit
from distrib.cli import main
class Large:
    def __del__(self):
        print("taken apart")
def carry_out(options):
    print("done", end="")
    return {status}
kept, main.verbs.carry_out = Large(), carry_out
atexit.register(print, " closed", end="")
import sys
sys.argv = ["distrib", "models"]
main.command()
"""
    done = in_a_process(code, stdout=subprocess.PIPE)
    assert (done.stdout, done.stderr, done.returncode) == ("done closed", "", status)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("distrib ev", {"evaluate "}),
        ("distrib evaluate --ti", {"--tier "}),
        ("distrib evaluate --tier pa", {"paper", "paranoid"}),
    ],
)
def test_a_shell_completes_commands_options_and_choices(line: str, offered: set[str], tmp_path: Path):
    """As argcomplete's bash function asks: by variables, for words in a file."""
    asked = {
        "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_COMP_WORDBREAKS": " ",
        "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"),
    }  # fmt: skip
    command = [sys.executable, "-m", "distrib.cli"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert set((tmp_path / "words").read_text().split("\n")) == offered

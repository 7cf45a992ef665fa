"""The command: its help, its exit statuses, what goes to stdout and what to stderr. It touches only what it must."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from distrib import __version__, errors
from distrib.cli import main

VERBS = ["run", "submit", "jobs", "logs", "stop", "doctor", "models", "pull", "compare", "export"]
PREPARE = {"kind": "prepare", "data": {"source": "digits"}, "loader": "memory"}
RESULT = {"kind": "prepare", "folder": "/f", "splits": {"train": {"count": 3}}}
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DistribError)]


def unheard(number: int, frame: object) -> None:
    raise AssertionError("the command did not listen to SIGTERM")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, and handlers of signals as in the foreground.

    They are put back. A shell starts what it runs in the background with SIGINT ignored; this test is no such thing.
    """
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    own = {signal.SIGTERM: unheard, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(PREPARE))
    return str(path)


def raises(error: BaseException) -> Callable[..., None]:
    def begin(*_: object, **__: object) -> None:
        raise error

    return begin


def nothing_made(tmp_path: Path) -> bool:
    return list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)], ids=lambda verb: " ".join(verb) or "distrib")
def test_help_is_told_and_complete(verb: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit) as caught:
        main.main([*verb, "--help"])
    told = capsys.readouterr()
    assert caught.value.code == 0 and told.err == "" and nothing_made(tmp_path)
    assert told.out.startswith(f"usage: {' '.join(['distrib', *verb])}")
    assert all(len(line) < 160 for line in told.out.splitlines())
    if not verb:
        assert all(f"\n    {name} " in told.out for name in VERBS) and "exit status: 0 done" in told.out
        assert all(f"distrib {name}" in told.out for name in VERBS), "an example for each"


def test_every_argument_says_what_it_is_for():
    (verbs,) = [action for action in main.parser()._actions if action.dest == "verb"]
    assert list(verbs.choices) == VERBS
    for name, verb in verbs.choices.items():
        assert verb.description, name
        assert all(action.help for action in verb._actions), name


def test_the_examples_in_the_help_are_commands(monkeypatch: pytest.MonkeyPatch):
    """Each line is parsed; each job file is there, and takes the overrides."""
    from distrib.config.file import read

    monkeypatch.chdir(Path(__file__).parents[2])
    (verbs,) = [action for action in main.parser()._actions if action.dest == "verb"]
    texts = [main.EPILOG, *(verb.epilog or "" for verb in verbs.choices.values())]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.startswith("  distrib ")]
    assert len(lines) >= 8
    for line in lines:
        command = line.split("   ")[0].split(" 2>")[0].split(" | ")[0].split()
        options = main.parser().parse_args(command[1:])
        if options.verb == "run":
            read(options.job, options.overrides)


def test_the_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main.main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"distrib {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["train"], ["run"], ["run", "a.yaml", "b.yaml"], ["run", "a.yaml", "--sets", "x=1"],
     ["run", "a.yaml", "--set"], ["pull", "models:/m/1"], ["pull"], ["models", "x"], ["--nothing"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_told_on_stderr(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    told = capsys.readouterr()
    assert (caught.value.code, told.out) == (2, "") and told.err.startswith("usage: distrib") and nothing_made(tmp_path)


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


def test_the_result_is_on_stdout_for_a_person_or_for_a_program(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seen = []

    def run(job: object, display) -> dict:
        seen.append(job)
        display.say("a word on the way")
        return RESULT

    monkeypatch.setattr("distrib.cli.dispatch.run", run)
    assert main.main(["run", file, "--set", "data.limit=20", "--set", "data.limit=30"]) == 0
    told = capsys.readouterr()
    assert told.out == "prepared: /f (train 3)\n" and "a word on the way" in told.err
    assert seen[0].data.limit == 30, "the last one holds"
    assert main.main(["run", file, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == RESULT and told.out.count("\n") == 1


def test_a_dry_run_does_not_run(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr("distrib.cli.dispatch.run", raises(AssertionError("it ran")))
    assert main.main(["run", file, "--dry-run"]) == 0
    told = capsys.readouterr()
    written = yaml.safe_load(told.out)
    assert told.err == "" and written == {**PREPARE, "data": {**written["data"], "source": "digits"}}
    assert nothing_made(tmp_path)


@pytest.mark.parametrize("verb", [["models"], ["models", "--json"], ["pull", "models:/m/1", "there"]], ids=" ".join)
@pytest.mark.parametrize("where", ["option", "environment", "default"])
def test_reading_a_database_that_is_not_there_makes_none(
    verb: list[str], where: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = f"sqlite:///{tmp_path}/place/{'mlflow' if where == 'default' else 'other'}.db"
    if where == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    status = main.main([*verb, *(["--tracking-uri", uri] if where == "option" else [])])
    told = capsys.readouterr()
    assert (status, told.out) == (2, "") and nothing_made(tmp_path)
    assert told.err.startswith(f"distrib: {uri}: there is no such file; run a job first") and told.err.count("\n") == 1


def test_models_are_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    rows = [{"model": "models:/m/1", "aliases": [], "clean_accuracy": 0.5, "robust_accuracy": 0.25, "norm": "linf",
             "epsilon": 0.1, "attacks": ["fgsm"], "n": 4, "flags": "none"}]  # fmt: skip
    (tmp_path / "m.db").touch()
    monkeypatch.setattr("distrib.registry.versions.versions", lambda uri: rows)
    assert main.main(["models", "--json", "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert main.main(["models", "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]) == 0
    assert "models:/m/1" in capsys.readouterr().out


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
    code = "import sys; from distrib.cli import main; main._models = lambda _: print('x') or 0; "
    code += "sys.exit(main.main(['models']))"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = in_a_process(code, stdout=closed)
    assert (done.returncode, done.stderr) == (1, "")

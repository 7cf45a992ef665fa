"""The command line: its help is complete, and what it says can be typed."""

import re
from pathlib import Path

import pytest
from command import nothing_made

from distrib import __version__
from distrib.cli import main, parser

pytestmark = pytest.mark.usefixtures("elsewhere")
VERBS = [
    "run", "init", "fields", "schema", "runs", "evaluate", "models", "show", "pull", "push", "compare", "export",
    "submit", "jobs", "logs", "stop", "doctor",
]  # fmt: skip


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
        assert all(f"distrib {name}" in told.out for name in VERBS if name not in ("fields", "schema")), (
            "an example for each"
        )


def test_every_argument_says_what_it_is_for():
    (verbs,) = [action for action in parser.parser()._actions if action.dest == "verb"]
    assert list(verbs.choices) == VERBS
    for name, verb in verbs.choices.items():
        assert verb.description, name
        assert all(action.help for action in verb._actions), name


def test_the_examples_in_the_help_are_commands(monkeypatch: pytest.MonkeyPatch):
    """Each line is parsed; each job file is there, and takes the overrides."""
    from distrib.config.file import read

    monkeypatch.chdir(Path(__file__).parents[2])
    (verbs,) = [action for action in parser.parser()._actions if action.dest == "verb"]
    texts = [parser.EPILOG, *(verb.epilog or "" for verb in verbs.choices.values())]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.startswith("  distrib ")]
    assert len(lines) >= 8
    for line in lines:
        command = re.split("   | 2>| > | \\| ", line)[0].split()
        options = parser.parser().parse_args(command[1:])
        if options.verb == "run" and options.job.name != "digits.yaml":  # which init wrote
            read(options.job, options.overrides)


def test_the_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main.main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"distrib {__version__}\n")

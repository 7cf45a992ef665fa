"""What the verbs print, and where: a result on stdout, the words on the way on stderr."""

import json
from pathlib import Path

import pytest
import yaml
from command import PREPARE, RESULT, nothing_made, raises

from distrib.cli import main

pytestmark = pytest.mark.usefixtures("elsewhere")


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


def test_a_dry_run_shows_the_whole_job_and_then_refuses_as_the_run_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It showed the error alone, to who wanted to see the job."""
    file, data = tmp_path / "job.yaml", {"source": "mnist", "root": "nowhere"}
    file.write_text(yaml.safe_dump(PREPARE | {"data": data}))
    assert main.main(["run", str(file), "--dry-run"]) == 2
    planned = capsys.readouterr()
    assert yaml.safe_load(planned.out)["data"].items() >= {"validation": 0.1, **data}.items()
    assert "\n# loader: memory\n" in planned.out
    assert main.main(["run", str(file)]) == 2
    assert planned.err == capsys.readouterr().err and planned.err.startswith("distrib: data.root: there is no folder n")
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
             "epsilon": 0.1, "tier": None, "n": 4, "flags": "none", "data": None, "arch": None, "parameters": None,
             "created": "2026-11-29 23:00"}]  # fmt: skip
    (tmp_path / "m.db").touch()
    monkeypatch.setattr("distrib.registry.listing.list_versions", lambda uri, name=None: rows)
    assert main.main(["models", "--json", "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert main.main(["models", "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]) == 0
    assert "  m/1 " in capsys.readouterr().out


def test_the_fields_at_a_path_are_told_and_a_wrong_path_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main.main(["fields", "optim.schedule"]) == 0
    told = capsys.readouterr().out
    assert "optim.schedule.peak: a number, above 0, below 1; default 0.4\n" in told and "shape: multistep" in told
    assert main.main(["fields", "optim.shedule"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "(did you mean schedule?)" in err

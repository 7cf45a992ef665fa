"""The verbs that speak to a Ray cluster: what is refused before any is asked, and what is said."""

import os
from pathlib import Path

import pytest

from distrib.cli import main
from distrib.cluster.submit import Attempt, Remote

JOB = str(Path(__file__).parents[2] / "jobs" / "digits.yaml")
NOBODY = "http://127.0.0.1:9"


def run(words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    return main.main(words)


REFUSED = [
    (["submit", "nothing.yaml", "--address", NOBODY], r"nothing.yaml: there is no such job file"),
    (["submit", JOB, "--set", "optim.epochs=x", "--address", NOBODY], r"optim.epochs: expected a valid integer"),
    (["submit", JOB], r"--address: is missing; name the cluster's dashboard, such as http://HEAD:8265"),
    (["jobs"], r"--address: is missing"),
    (["jobs", "--address", "ray://head:10001"], r"--address ray://head:10001: name the cluster's dashboard"),
    (["jobs", "--address", "head"], r"--address head: name the cluster's dashboard"),
    (["jobs", "--address", NOBODY], r"http://127.0.0.1:9 is no Ray dashboard that answers"),
    (["logs", "x", "--address", "127.0.0.1:9"], r"http://127.0.0.1:9 is no Ray dashboard that answers"),
    (["jobs", "--address", "http://ann:se/cret@h:8265"], r"--address: has a user, password or token in it"),
    (["jobs", "--address", "http://h:8265?token=secret"], r"--address: has a user, password or token in it"),
    (["stop", "x", "--address", NOBODY], r"is no Ray dashboard that answers"),
]


@pytest.mark.parametrize(("words", "told"), REFUSED, ids=[" ".join(words)[:40] for words, _ in REFUSED])
def test_a_wrong_command_is_one_line(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(words, monkeypatch, tmp_path) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and len(err.splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize("token", ["secret\nline", "s\u00e9cret\u2713", "secret\tx"], ids=["line", "sign", "tab"])
@pytest.mark.parametrize("place", ["variable", "file"])
def test_a_token_that_no_header_carries_is_refused_and_not_shown(
    token: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """requests says of it what it is, whole; or ends in a UnicodeEncodeError."""

    def begin(words: list[str]) -> int:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "token").write_bytes(token.encode())
        monkeypatch.setattr(os, "environ", os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "token"})
        if place == "variable":
            os.environ["RAY_AUTH_TOKEN"] = token
        return main.main(words)

    assert begin(["jobs", "--address", NOBODY]) == 2
    told = capsys.readouterr().err
    assert "cret" not in told and "HTTP cannot send" in told and told.count("\n") == 1


@pytest.mark.parametrize("where", ["option", "environment"])
def test_the_lines_to_copy_name_the_cluster_where_the_environment_does_not(
    where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("distrib.cluster.submit.jobs_client", lambda address, token: None)
    attempt = Attempt("digits-1", "digits", 1, "PENDING", 0.0, None, None, "")
    monkeypatch.setattr(Remote, "submit", lambda self, job, directory, code: attempt)
    named = ["--address", NOBODY] if where == "option" else []
    monkeypatch.setattr(os, "environ", {**os.environ, "HOME": str(tmp_path)})
    os.environ.pop("RAY_API_SERVER_ADDRESS", None)
    if not named:
        os.environ["RAY_API_SERVER_ADDRESS"] = NOBODY
    assert main.main(["submit", JOB, "--directory", "/shared", *named]) == 0
    words = "distrib logs digits --follow" + (f" --address {NOBODY}" if named else "")
    assert f": {words} shows what it does\n" in capsys.readouterr().err

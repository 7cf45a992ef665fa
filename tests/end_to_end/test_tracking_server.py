"""Runs, registration, pull and a search against MLflow as a team runs it, with authentication on."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from drive import command, result_of, train_command
from search_runs import job_file, trials
from servers import ADMIN, PASSWORD, POSSIBLE, WHY_NOT, Server, status, tracking_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.skipif(not POSSIBLE, reason=WHY_NOT)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with tracking_server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="module")
def trained(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The short digits job, recorded there by the user trainer."""
    return result_of(call(train_command(), server.user("trainer"), tmp_path_factory.mktemp("trained")))


def call(words: list[str], env: dict[str, str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=800)


def test_who_gets_in(server: Server):
    """As k8s/mlflow starts it: health is open, the rest wants a user and a host that it knows."""
    asked = f"{server.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    admin = f"admin:{ADMIN}"
    assert status(f"{server.uri}/health") == 200
    assert status(asked) == 401 and status(asked, user="admin:wrong-password") == 401
    assert status(asked, user=admin) == 200
    for host in ("mlflow:5000", "mlflow.distrib.svc.cluster.local:5000", "mlflow"):
        assert status(asked, host=host, user=admin) == 200, host
    for host in ("10.244.0.5:5000", "mlflow.example.com", "evil:5000"):
        assert status(asked, host=host, user=admin) == 403, host


def test_a_training_is_recorded_and_registered(server: Server, trained: dict, finished: dict):
    assert trained["weights_sha256"] == finished["weights_sha256"], "where it is recorded changes nothing"
    assert trained["model"] == "models:/digits/1" and trained["champion"].startswith("champion")
    assert server.sql(f"SELECT status FROM runs WHERE run_uuid = '{trained['run_id']}'") == "FINISHED"
    assert int(server.sql("SELECT count(*) FROM metrics")) > 20
    kept = server.objects()
    assert any(name.endswith("card/card.html") for name in kept) and any(".pt2" in name for name in kept)


def test_a_reader_pulls_and_compares_but_moves_no_alias(server: Server, trained: dict, tmp_path: Path):
    reader = server.user("reader")
    listed = call(command("models", "--json"), reader, tmp_path)
    (row,) = json.loads(listed.stdout)
    assert row["robust_accuracy"] == trained["robust_accuracy"]
    pulled = call(command("pull", "models:/digits@champion", "model"), reader, tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    assert json.loads((tmp_path / "model" / "card.json").read_text())["claim"]["n"] == trained["n"]
    for change in (
        "set_registered_model_alias('digits', 'champion', '1')", "delete_registered_model_alias('digits', 'champion')",
        "set_model_version_tag('digits', '1', 'robust_accuracy', '1.0')", "delete_model_version('digits', '1')",
    ):  # fmt: skip
        done = server.python(f"import mlflow; mlflow.MlflowClient().{change}", "reader")
        assert done.returncode == 1 and "Permission denied" in done.stderr, done.stderr[-500:]
    assert server.sql("SELECT version FROM registered_model_aliases WHERE alias = 'champion'") == "1"


REFUSED = [
    ("reader", PASSWORD, train_command("name=mine"), r"does not let this user do \S*runs/create"),
    ("trainer", "a-wrong-password", command("models"), r"refuses this user and password"),
    ("", "", command("pull", "models:/digits@champion", "model"), r"refuses this user and password"),
]


@pytest.mark.parametrize(("user", "password", "words", "told"), REFUSED, ids=["reader", "wrong", "nobody"])
@pytest.mark.usefixtures("trained")
def test_who_may_not_is_told_so_in_one_line(
    server: Server, user: str, password: str, words: list[str], told: str, tmp_path: Path
):
    done = call(words, server.user(user, password), tmp_path)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr and "set MLFLOW_TRACKING_USERNAME" in done.stderr, done.stderr[-3000:]
    assert re.search(told, done.stderr)
    assert not (tmp_path / "model").exists()


def test_a_search_is_recorded_there(server: Server, tmp_path: Path):
    (tmp_path / "place").mkdir()
    job = job_file(tmp_path / "place", name="team", winner=None, search={"method": "random", "num_trials": 2})
    done = call(command("run", job, "--json"), server.user("trainer"), tmp_path / "place")
    result = result_of(done)
    found = server.sql(
        "SELECT runs.status, count(*) FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        f"WHERE tags.key = 'mlflow.parentRunId' AND tags.value = '{result['run_id']}' GROUP BY runs.status"
    )
    assert found == f"FINISHED|{len(trials(tmp_path / 'place', 'team'))}"
    assert server.sql("SELECT count(*) FROM runs WHERE status = 'RUNNING'") == "0"
    best = server.sql(f"SELECT value FROM tags WHERE run_uuid = '{result['run_id']}' AND key = 'mlflow.runName'")
    assert best == "team" and result["best"]["number"] in (1, 2)

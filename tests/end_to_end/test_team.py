"""A cluster of two machines that records with a team's server: users, PostgreSQL, an S3-compatible store."""

from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
import servers
from cluster_runs import call, lose_a_machine, record_of
from hosts import Hosts
from servers import PASSWORD, Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not hosts.POSSIBLE, reason=hosts.WHY_NOT),
    pytest.mark.skipif(not servers.POSSIBLE, reason=servers.WHY_NOT),
]
Team = tuple[Hosts, Server]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Two machines with one CPU each, given MLflow's address and the user trainer, as k8s gives them by a Secret."""
    folder = tmp_path_factory.mktemp
    with (
        hosts.network(folder("team")) as cluster,
        servers.tracking_server(folder("server"), cluster.address(250)) as server,
    ):
        cluster.given = {
            "MLFLOW_TRACKING_URI": server.uri, "MLFLOW_TRACKING_USERNAME": "trainer",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }  # fmt: skip
        for number in (1, 2):
            cluster.add(number)
            cluster.ray(number, cpus=1)
        yield cluster, server


def test_a_run_that_loses_a_machine_is_one_run_there(team: Team, finished: dict, tmp_path: Path):
    cluster, server = team
    lose_a_machine(cluster, "digits")
    record = record_of(cluster, "digits")
    for figure in ("weights_sha256", "robust_accuracy", "attacks", "best_epoch", "model"):
        assert record[figure] == finished[figure], figure
    assert server.sql("SELECT run_uuid, status FROM runs") == f"{record['run_id']}|FINISHED"
    losses = server.sql("SELECT step FROM metrics WHERE key = 'train/loss' ORDER BY step")
    assert losses.split() == ["1", "2", "3", "4", "5", "6"]
    assert any(name.endswith("card/card.html") for name in server.objects())
    pulled = call(cluster, "pull", "models:/digits@champion", tmp_path / "model", MLFLOW_TRACKING_USERNAME="reader")
    assert pulled.returncode == 0 and (tmp_path / "model" / "card.json").is_file(), pulled.stderr
    moved = server.python(
        "import mlflow; mlflow.MlflowClient().set_registered_model_alias('digits', 'champion', '1')", "reader"
    )
    assert moved.returncode == 1 and "Permission denied" in moved.stderr
    refused = call(cluster, "models", MLFLOW_TRACKING_PASSWORD="wrong")
    assert refused.returncode == 2 and "refuses this user and password" in refused.stderr

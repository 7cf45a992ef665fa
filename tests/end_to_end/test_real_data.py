"""Slow proofs on real MNIST and CIFAR-10 (DISTRIB_TEST_DATA names the folder that ../shared/data/unpack fills)."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from drive import call, command, environment, free_port, result_of, wait_for, workers

DATA = os.environ.get("DISTRIB_TEST_DATA")
JOBS = Path(__file__).resolve().parents[2] / "jobs"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
needs_data = pytest.mark.skipif(not DATA, reason="DISTRIB_TEST_DATA does not name the folder of the real data sets")

MNIST = [
    f"data.root={DATA}", "data.limit=8000", "optim.epochs=3", "validation.max_examples=200",
    "evaluation.attacks=[{attack: pgd, num_steps: 20}]", "evaluation.n=400",
]  # fmt: skip
CIFAR = [
    "name=cifar", "data.size=null", f"data.root={DATA}/cifar10", "data.limit=6000", "model.width=0.125",
    "objective.attack.num_steps=2", "objective.attack.step_size=4/255", "optim.epochs=2",
    "validation.max_examples=200", "evaluation.attacks=[{attack: fgsm}, {attack: pgd, num_steps: 10}]",
    "evaluation.n=40",
]  # fmt: skip


def train(job: str, *overrides: str) -> list[str]:
    return command("run", JOBS / job, "--json", *(word for override in overrides for word in ("--set", override)))


def losses(result: dict, folder: Path) -> list[float]:
    from mlflow import MlflowClient

    history = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_metric_history(result["run_id"], "train/loss")
    return [point.value for point in history]


@needs_data
def test_mnist_on_one_and_on_two_workers_is_the_same_training(tmp_path: Path):
    one, two = (
        result_of(call(train("mnist.yaml", *MNIST, f"name=mnist-{n}", f"cluster.num_workers={n}"), tmp_path, 700))
        for n in (1, 2)
    )
    assert losses(one, tmp_path) == pytest.approx(losses(two, tmp_path), rel=2e-2)
    assert losses(one, tmp_path)[0] == pytest.approx(losses(two, tmp_path)[0], rel=1e-3)
    assert one["clean_accuracy"] == pytest.approx(two["clean_accuracy"], abs=0.02)
    assert one["clean_accuracy"] > 0.9


@needs_data
def test_cifar10_survives_the_loss_of_a_worker_in_its_second_epoch(tmp_path: Path):
    words = train("folder.yaml", *CIFAR)
    log = tmp_path / "log"
    with log.open("w") as stream:
        driver = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=stream, stderr=stream)
        try:
            wait_for(lambda: (tmp_path / "runs" / "cifar" / "robust" / "epoch-00001").exists(), driver, 900)
            time.sleep(2)
            os.kill(workers(driver)[0], signal.SIGKILL)
            assert driver.wait(timeout=900) == 0, log.read_text()[-3000:]
        finally:
            driver.terminate()
    result = json.loads(log.read_text().splitlines()[-1])
    assert "resumed after epoch 1" in log.read_text()
    assert result["epochs"] == 2 and len(losses(result, tmp_path)) == 2

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("distrib").experiment_id])
    assert run.info.run_id == result["run_id"] and run.info.status == "FINISHED"


def test_mlflow_serves_the_registered_model(finished: dict, workplace: Path):
    port = free_port()
    words = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/digits@champion", "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    surroundings = environment() | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{workplace / 'mlflow.db'}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (workplace / "serve.log").open("w") as log:
        server = subprocess.Popen(
            words, cwd=workplace, env=surroundings, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/ping"), server)
        body = json.dumps({"inputs": [[[[0.0] * 8] * 8]] * 3}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            predictions = json.load(reply)["predictions"]
        assert len(predictions) == 3 and len(predictions[0]) == 10
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False

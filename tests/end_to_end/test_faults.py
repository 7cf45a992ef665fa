"""Killed workers, killed drivers: the run goes on, and ends exactly as if nothing had happened."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import ray
from drive import JOB, call, call_here, command, environment, result_of, train_command, wait_for, workers

pytestmark = pytest.mark.timeout(900)  # the shared training counts for the first test


@pytest.mark.slow
def test_killed_worker_and_killed_driver_change_nothing(finished: dict, workplace: Path):
    """SIGKILL a worker, then the driver; run the same job again: one MLflow run, every epoch once, the same weights."""
    words = train_command("name=disturbed", "register_as=disturbed")
    checkpoints = workplace / "runs" / "disturbed" / "robust"
    with (workplace / "disturbed.log").open("w") as log:
        driver = subprocess.Popen(
            words, cwd=workplace, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(lambda: (checkpoints / "epoch-00002").exists(), driver)
            os.kill(wait_for(lambda: workers(driver), driver)[0], signal.SIGKILL)
            wait_for(lambda: (checkpoints / "epoch-00004").exists(), driver)
        finally:
            family = psutil.Process(driver.pid).children(recursive=True)
            driver.kill()
            driver.wait(timeout=30)
            _, alive = psutil.wait_procs(family, timeout=40)
            for process in alive:
                process.kill()
    assert "resumed after epoch" in (workplace / "disturbed.log").read_text(), "the first kill was survived"

    result = result_of(call(words, workplace))
    assert result["weights_sha256"] == finished["weights_sha256"]
    assert result["attacks"] == finished["attacks"]

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("distrib").experiment_id])
    (run,) = [run for run in runs if run.info.run_name == "disturbed"]
    assert run.info.run_id == result["run_id"] and run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(workplace: Path, finished: dict):
    done = call(train_command("name=exploding", "optim.lr=1e30", "optim.name=sgd"), workplace)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("robust training: 2 workers") == 1, "they would come to the same again"
    for word in ("no longer finite at step", "learning rate", "checkpoint"):
        assert word in done.stderr
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("distrib").experiment_id])
    assert [run.info.status for run in runs if run.info.run_name == "exploding"] == ["FAILED"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tracking.uri=http://127.0.0.1:9", "does not answer"),
        ("tracking.uri=./mlruns", "sqlite:///"),
        ("tracking.uri=sqlite:////nowhere/there/mlflow.db", "no folder"),
        ("storage=/dev/null/runs", "storage"),
        ("data.store=/dev/null/betons", "data.store"),
    ],
)
def test_what_cannot_be_reached_is_told_before_anything_starts(override: str, words: str, tmp_path: Path):
    done = call_here(train_command("name=unreachable", override), tmp_path)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr) < 2000
    assert not ray.is_initialized() and not (tmp_path / "runs" / "unreachable" / "job.json").exists()
    assert not (tmp_path / "betons").exists(), "nor anything packed"


@pytest.mark.parametrize(
    ("override", "words"), [("cluster.address=127.0.0.1:9", "no Ray cluster"), ("cluster.device=cuda", "GPUs")]
)
def test_a_cluster_that_is_not_there_or_lacks_what_is_asked_for(
    override: str, words: str, workplace: Path, finished: dict
):
    done = call_here(train_command("name=unreachable", override), workplace)
    assert done.returncode == 2, done.stderr[-2000:]
    assert words in done.stderr and "Traceback" not in done.stderr and len(done.stderr) < 2000
    assert not (workplace / "runs" / "unreachable" / "robust").exists()


def test_a_damaged_checkpoint_to_judge_is_named(workplace: Path, finished: dict):
    folder = Path(finished["checkpoint"])
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    job = JOB.with_name("evaluate-digits.yaml")
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = call_here(command("run", job, "--set", f"model={folder}", "--set", "name=damaged"), workplace)
    finally:
        weights.write_bytes(whole)
    assert done.returncode == 2 and "weights.safetensors: damaged" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_elastic_number_of_workers_trains_the_same_model(workplace: Path, finished: dict):
    """The evaluation is a short one: it is the weights that are compared."""
    short = ("evaluation.attacks=[{attack: fgsm}]", "evaluation.n=60")
    done = call(
        train_command("name=elastic", "register_as=elastic", "cluster.num_workers={min: 1, max: 2}", *short), workplace
    )
    assert "2 workers on cpu" in done.stderr, "both fit here"
    assert result_of(done)["weights_sha256"] == finished["weights_sha256"]

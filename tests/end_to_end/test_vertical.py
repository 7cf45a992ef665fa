"""From images to a registered robust model, through the command line; then the model as a stranger would use it."""

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from drive import call, call_here, command, result_of, train_command

pytestmark = pytest.mark.timeout(900)  # the shared training counts for the first test

CLEAN_PROCESS = """
import builtins, json, sys
real = builtins.__import__
def no_distrib(name, *rest, **more):
    if name.split(".")[0] == "distrib":
        raise ImportError("distrib is not installed here")
    return real(name, *rest, **more)
builtins.__import__ = no_distrib
import mlflow, numpy as np, torch
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pytorch.load_model(sys.argv[2])
data = np.load(sys.argv[3])
x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
with torch.no_grad():
    sizes = [1, 7, len(x)]
    logits = [torch.cat([model(part) for part in x.split(size)]) for size in sizes]
assert all(torch.allclose(one, logits[0], atol=1e-4) for one in logits)
x.requires_grad_()
(gradient,) = torch.autograd.grad(model(x).sum(), x)
assert gradient.abs().sum() > 0
assert not any(name.split(".")[0] == "distrib" for name in sys.modules)
print(json.dumps((logits[0].argmax(1) == y).float().mean().item()))
"""


def test_the_result_says_everything(finished: dict, workplace: Path):
    assert finished["model"] == "models:/digits/1"
    assert finished["num_workers"] == 2 and finished["n"] == 60 and finished["n_clean"] == 450
    assert finished["norm"] == "linf" and finished["epsilon"] == 0.2
    assert set(finished["attacks"]) == {"fgsm", "pgd-20", "autoattack"}
    assert finished["attacks_n"] == {"fgsm": 450, "pgd-20": 450, "autoattack": 60}
    assert 0 <= finished["robust_accuracy"] <= finished["attacks"]["fgsm"] <= finished["clean_accuracy"] <= 1
    assert finished["robust_accuracy"] <= finished["attacks"]["autoattack"]
    assert finished["clean_accuracy"] > 0.8, "six epochs teach the digits"
    assert finished["attacks"]["pgd-20"] > 0.1, "and some robustness"
    assert finished["interval"][0] <= finished["robust_accuracy"] <= finished["interval"][1]
    assert all(change <= 0.2 + 1e-6 for change in finished["largest_change"].values())
    assert finished["images_per_second"] > 0 and finished["seconds"] > finished["train_seconds"] > 0
    made = {path.name for path in workplace.iterdir() if path.suffix != ".log"}
    assert {"betons", "mlartifacts", "mlflow.db", "runs"} <= made, "what the README names"
    assert made <= {"betons", "mlartifacts", "mlflow.db", "runs", "pulled"}, "nothing but what the README names"


def test_mlflow_holds_one_run_with_everything(finished: dict, workplace: Path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("distrib").experiment_id], "tags.`distrib.kind` = 'train'")
    (run,) = [run for run in runs if run.info.run_name == "digits"]
    assert run.info.run_id == finished["run_id"] and run.info.status == "FINISHED"
    assert run.data.params["optim.epochs"] == "6" and run.data.params["objective.threat.epsilon"] == "0.2"
    assert run.data.tags["distrib.job_digest"] == finished["job_digest"]
    assert run.data.tags["distrib.nodes"] == "127.0.0.1"
    for metric in (
        "train/loss",
        "validation/robust_accuracy",
        "train/images_per_second",
        "train/data_wait_share",
    ):
        assert [point.step for point in client.get_metric_history(run.info.run_id, metric)] == [1, 2, 3, 4, 5, 6]
    assert any(name.startswith("system/") for name in run.data.metrics), "system metrics"
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"job.yaml", "environment.txt", "result.json", "plots", "card", "promotion.json"} <= names
    cards = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "card")}
    assert cards == {"card/card.json", "card/card.md", "card/card.html", "card/examples.csv"}
    assert run.data.metrics["test/robust_accuracy"] == pytest.approx(finished["robust_accuracy"])


def test_the_same_job_again_says_that_it_is_complete(finished: dict, workplace: Path):
    done = call_here(train_command(), workplace)
    assert result_of(done) == finished
    assert "complete" in done.stderr


def test_another_job_under_the_same_name_is_refused(finished: dict, workplace: Path):
    done = call_here(train_command("optim.lr=0.001"), workplace)
    assert done.returncode == 2 and "optim.lr: 0.001, not 0.004" in done.stderr and "Traceback" not in done.stderr


def test_models_lists_the_version(finished: dict, workplace: Path):
    (row,) = [
        row
        for row in json.loads(call_here(command("models", "--json"), workplace).stdout)
        if row["model"] == finished["model"]
    ]
    assert row["aliases"] == ["champion", "latest-robust"]
    assert row["robust_accuracy"] == pytest.approx(finished["robust_accuracy"], abs=1e-4) and row["n"] == 60
    assert "  digits/1 " in call_here(command("models"), workplace).stdout


def test_the_model_is_pushed_to_another_registry_and_pulled_from_there(workplace: Path, finished: dict, tmp_path: Path):
    here, there = (["--tracking-uri", f"sqlite:///{folder}/mlflow.db"] for folder in (workplace, tmp_path))
    for words in (
        ["pull", "digits/1", "here", *here], ["push", "here", "theirs", "--to", there[1]],
        ["pull", "theirs/1", "back", *there], ["show", "theirs/1", *there],
    ):  # fmt: skip
        done = call_here(command(*words), tmp_path)
        assert done.returncode == 0, done.stderr
    ours, theirs = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "here", tmp_path / "back")
    )
    assert {str(name) for name in ours if ours[name] != theirs.get(name)} == {
        "version.json", "model/MLmodel", "model/registered_model_meta"
    }  # fmt: skip
    assert ours.keys() == theirs.keys() and len(theirs[Path("examples.csv")].splitlines()) == 451


def test_the_model_is_pulled_and_used_without_distrib(finished: dict, workplace: Path, test_images: Path):
    pulled = workplace / "pulled"
    done = call_here(command("pull", "models:/digits@champion", pulled), workplace)
    assert done.returncode == 0, done.stderr
    card = json.loads((pulled / "card.json").read_text())
    assert card["weights_sha256"] == finished["weights_sha256"] and card["job"]["seed"] == 0
    assert card["schema"] == "distrib/robustness-card/1" and card["claim"]["tier"] == "standard"
    assert {path.name for path in pulled.iterdir()} == {
        "model", "weights.safetensors", "card.json", "card.md", "card.html", "examples.csv", "job.json", "example.py",
        "program.py", "model.py", "test_images.safetensors", "version.json",
    }  # fmt: skip
    assert len((pulled / "examples.csv").read_text().splitlines()) == 451
    example = call([sys.executable, "example.py"], pulled)
    assert example.returncode == 0, example.stderr
    assert example.stdout.endswith("model.py: load() gives the same logits\n")
    again = call_here(command("pull", "models:/digits@champion", pulled), workplace)
    assert again.returncode == 2 and "is there already" in again.stderr

    words = [
        sys.executable,
        "-c",
        CLEAN_PROCESS,
        f"sqlite:///{workplace / 'mlflow.db'}",
        "models:/digits@champion",
        str(test_images),
    ]
    loaded = call(words, workplace)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    assert json.loads(loaded.stdout.splitlines()[-1]) == pytest.approx(finished["clean_accuracy"], abs=1e-6)


def test_a_registered_model_is_judged_again(finished: dict, judged: dict):
    assert judged["clean_accuracy"] == pytest.approx(finished["clean_accuracy"])
    for name in ("fgsm", "pgd-20"):  # the exported program, on one worker, meets the same seed: the same fate
        assert judged["attacks"][name] == pytest.approx(finished["attacks"][name], abs=1 / 450)
    assert judged["n"] == 450 and len(judged["interval"]) == 2
    told = {flag["name"]: flag["blocking"] for flag in judged["flags"]}
    assert told == {"listed_attacks_too_weak": False}, "without AutoAttack the figure is too high, and it says so"


def test_a_model_that_is_not_there_is_named(finished: dict, workplace: Path):
    done = call_here(command("pull", "models:/digit@champion", workplace / "nowhere"), workplace)
    assert done.returncode == 2 and "registered there: digits" in done.stderr
    assert not (workplace / "nowhere").exists()


def test_nothing_is_left_open_in_the_database(finished: dict, workplace: Path):
    with sqlite3.connect(workplace / "mlflow.db") as database:
        assert database.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (0,)


@pytest.fixture(scope="session")
def test_images(workplace: Path, finished: dict) -> Path:
    """The whole test split as float32 arrays."""
    import numpy as np

    from distrib.data.source import Digits

    samples = Digits(source="digits").open("test")
    x = np.stack([samples[i][0] for i in range(len(samples))]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    path = workplace.parent / "test_images.npz"
    np.savez(path, x=x, y=samples.labels)
    return path

"""Searches as a person runs them: to a judged winner, killed half-way, with trials that fail or are stopped early."""

import copy
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from documents import TUNE
from drive import call, command, environment, result_of, wait_for
from ray.actor import ActorHandle
from search_runs import LOADER, SPACE, job_file, trials

from distrib.cluster.messages import listening
from distrib.cluster.session import session
from distrib.commands.prepare import prepared
from distrib.config.cluster import Cluster
from distrib.config.file import parse
from distrib.config.job import Tune
from distrib.errors import NoRoom
from distrib.search.callback import Events
from distrib.search.space import known_settings
from distrib.search.trials import Trials, TrialSlots
from distrib.search.tune import search
from distrib.tracking.display import Display

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def worth(folder: Path, name: str) -> list[tuple]:
    keys = ("trial", "state", "robust_accuracy", "clean_accuracy", "epochs")
    return [tuple(row[key] for key in keys) for row in trials(folder, name)]


def begun(folder: Path, fields: dict, epochs: int = 3) -> tuple[Path, Trials]:
    """(the packed data of a search in ``folder``, the record of its trials)."""
    document = copy.deepcopy(TUNE) | fields
    document["train"]["optim"] = {"name": "adam", "lr": 4e-3, "epochs": epochs, "batch_size": 64}
    document["train"]["loader"] = LOADER
    job = parse(document, [], "here")
    assert isinstance(job, Tune)
    job = job.resolved()
    data = prepared(job.train, Display())
    (folder / "runs" / "search" / "trials").mkdir(parents=True)
    recorded = Trials(job, folder / "runs" / "search", 1)
    for settings in known_settings(job) or ():
        recorded.add(settings)
        recorded.run(len(recorded)).mkdir()
    return data, recorded


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("searches") / "place"


@pytest.fixture(scope="module")
def whole(place: Path) -> dict:
    """The result of the search without a disturbance."""
    place.mkdir()
    return result_of(call(command("run", job_file(place), "--json"), place, 600))


def test_a_search_ends_with_a_judged_winner(whole: dict, place: Path):
    assert (whole["trials"], whole["finished"], whole["stopped"], whole["failed"]) == (3, 3, 0, 0)
    rows = trials(place, "search")
    best = max(rows, key=lambda row: float(row["robust_accuracy"]))
    assert whole["best"]["number"] == int(best["trial"]) and whole["winner"]["model"] == "models:/search/1"
    assert whole["winner"]["epsilon"] == 0.2 and whole["winner"]["n"] == 450
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("distrib").experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == whole["run_id"]]
    assert len(runs) == 4 and len(children) == 3 and {run.info.status for run in runs} == {"FINISHED"}
    for run in children:
        assert len(client.get_metric_history(run.info.run_id, "validation/robust_accuracy")) == 3
        assert run.data.params["objective.threat.epsilon"] == run.data.tags[f"search.{next(iter(SPACE))}"]
    version = client.get_model_version("search", "1")
    assert (version.tags["search"], version.tags["search_run"]) == ("search", whole["run_id"])
    assert version.run_id == whole["winner"]["run_id"] in {run.info.run_id for run in children}
    kept = {Path(one.path).name for one in client.list_artifacts(whole["run_id"], "search")}
    names = ("history", "learning_curves", "pareto", "parallel", "width")
    assert {"report.html", "trials.csv", "best.yaml", *(f"{name}.svg" for name in names)} <= kept
    ready = call(command("run", place / "runs" / "search" / "search" / "best.yaml", "--dry-run"), place)
    assert ready.returncode == 0 and "would start anew" in ready.stdout, ready.stderr


def test_a_complete_search_says_so_and_does_nothing(whole: dict, place: Path):
    again = call(command("run", job_file(place), "--json"), place)
    assert result_of(again) == whole and again.stderr.count("is complete") == 2, "the search, and its winner"


def test_a_killed_search_goes_on_and_finds_the_same(whole: dict, place: Path):
    """SIGKILL to the driver when a trial has ended: that one is not trained again, MLflow has no orphans."""
    words = command("run", job_file(place, name="killed", concurrent=1), "--json")
    record = place / "runs" / "killed" / "trials.json"

    def ended() -> list[int]:
        rows = json.loads(record.read_bytes()) if record.exists() else []
        return [row["number"] for row in rows if row["state"] == "finished"]

    with (place.parent / "killed.log").open("w") as log:
        driver = subprocess.Popen(words, cwd=place, env=environment(), stdout=log, stderr=log, start_new_session=True)
    wait_for(ended, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait(timeout=30)
    done = ended()
    assert 1 <= len(done) < 3
    kept = {path: path.stat().st_mtime_ns for path in (place / "runs" / "killed" / "trials").rglob("*.safetensors")
            if int(path.parents[2].name[-4:]) in done}  # fmt: skip
    again = call(words, place, 600)
    result = result_of(again)
    assert "search: resumed" in again.stderr and result["finished"] == 3
    assert worth(place, "killed") == worth(place, "search"), "every trial is what it would have been"
    assert result["best"]["settings"] == whole["best"]["settings"]
    assert result["winner"]["weights_sha256"] == whole["winner"]["weights_sha256"]
    assert kept and {path: path.stat().st_mtime_ns for path in kept} == kept, "what had ended was left alone"
    with sqlite3.connect(place / "mlflow.db") as database:
        assert database.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (0,)
        counts = database.execute("select count(*) from runs where name like '%killed'").fetchone()
    assert counts == (4,), "one parent, three children"


def test_a_trial_that_fails_does_not_sink_the_search(whole: dict, place: Path):
    space = {"optim.lr": {"grid": [4e-3, 1e30]}}
    job = job_file(place, name="failing", space=space, search={"method": "grid"}, winner=None)
    result = result_of(call(command("run", job, "--json"), place, 600))
    assert (result["finished"], result["failed"]) == (1, 1) and result["winner"] is None
    sound, broken = trials(place, "failing")
    assert sound["state"] == "finished" and "no longer finite" in broken["error"]
    with sqlite3.connect(place / "mlflow.db") as database:
        found = database.execute("select status from runs where name like '000% failing' order by name").fetchall()
    assert found == [("FINISHED",), ("FAILED",)]

    job = job_file(place, name="hopeless", space={"optim.lr": {"grid": [1e30]}}, search={"method": "grid"})
    done = call(command("run", job), place, 600)
    assert (
        done.returncode == 1 and "every trial failed; the first: " in done.stderr and "no longer finite" in done.stderr
    )
    assert "Traceback" not in done.stderr and not (place / "runs" / "hopeless" / "result.json").exists()


def test_optuna_searches_for_several_objectives(whole: dict, place: Path):
    job = job_file(place, name="several", search={"method": "optuna", "num_trials": 2, "random_trials": 1},
                   score=TUNE["score"] | {"objectives": ["robust", "clean", "cost"]}, winner=None)  # fmt: skip
    result = result_of(call(command("run", job, "--json"), place, 600))
    assert (result["trials"], result["finished"]) == (2, 2)
    assert len({row["objective.threat.epsilon"] for row in trials(place, "several")}) == 2


def test_too_much_is_refused_before_anything_starts(whole: dict, place: Path):
    for fields, words in (
        ({"concurrent": 99}, "concurrent: 99 trials x 1 workers x 1 CPUs = 99 CPUs, but the cluster has"),
        ({"budget_hours": 1e-6}, "budget_hours: 3 trials would take"),
    ):
        done = call(command("run", job_file(place, name="greedy", **fields)), place)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert not (place / "runs" / "greedy" / "trials.json").exists()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, ActorHandle]]:
    """(its CPUs, a mailbox): a cluster of this process, for the searches that are called here one after the other."""
    cluster = Cluster(num_workers=1, timeout_seconds=10)
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("started"))
        with session(cluster, print, dashboard=True) as resources, listening(lambda phase, notice: None) as mailbox:
            yield int(resources.cpus), mailbox
    os.environ.clear()
    os.environ.update(before)


def every_cpu_is_free(cpus: int) -> bool:
    """Waits for it, at most a minute."""
    end = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < cpus and time.monotonic() < end:
        time.sleep(0.5)
    return ray.available_resources().get("CPU", 0) == cpus


@pytest.mark.parametrize(
    ("method", "stopping"),
    [
        ({"method": "grid"}, {"stop": "asha", "grace_epochs": 1, "reduction_factor": 2}),
        ({"method": "optuna", "num_trials": 2, "random_trials": 1}, {"stop": "median", "grace_epochs": 1}),
    ],
    ids=["grid-asha", "optuna-median"],
)
def test_trials_that_found_no_room_wait_for_the_search_to_go_on(
    started: tuple[int, ActorHandle], method: dict, stopping: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Somebody else has every CPU; when they are free again, the same trials end as they should, and one fails."""
    cpus, mailbox = started
    chosen = "choice" if method["method"] == "optuna" else "grid"
    data, recorded = begun(tmp_path, {
        "space": {"optim.lr": {chosen: [4e-3, 1e30]}}, "search": method, "stopping": stopping,
        "cluster": {"num_workers": 1, "timeout_seconds": 10, "wait_seconds": 10},
    })  # fmt: skip
    assert every_cpu_is_free(cpus)
    ended = []
    events = Events(lambda trial: None, lambda trial: ended.append(trial.state))
    everything = ray.util.placement_group([{"CPU": cpus}])
    try:
        ray.get(everything.ready(), timeout=60)
        with pytest.raises(NoRoom, match=r"(\d) of \1 trials wait: .* there was no room for 1 workers of 1 CPUs"):
            search(recorded, data, TrialSlots(1, False), mailbox, events)
    finally:
        ray.util.remove_placement_group(everything)
    assert ended == [] and not any(trial.ended for trial in Trials(recorded.job, recorded.folder, 1).values())
    assert len(recorded) == (1 if chosen == "choice" else 2), "none is drawn in vain"
    search(recorded, data, TrialSlots(cpus, False), mailbox, events)
    for trial in Trials(recorded.job, recorded.folder, 1).values():
        fails = trial.settings["optim.lr"] == 1e30
        assert trial.state == ("failed" if fails else "finished") and ("no longer finite" in trial.error) == fails
    assert len(recorded) == 2 and len(ended) == 2
    told = capsys.readouterr()
    assert "Last result" not in told.out + told.err and "raylet" not in told.out, "Ray is silent"


def test_trials_that_are_stopped_give_back_every_cpu(started: tuple[int, ActorHandle], tmp_path: Path):
    """The first trial learns, the others cannot. One of them may come to the rung before the first does, and go on;
    only the best hundredth goes on after that, so that twice as many are stopped as there are CPUs to lose."""
    cpus, mailbox = started
    data, recorded = begun(tmp_path, {
        "space": {"optim.lr": {"grid": [4e-3, *(number * 1e-12 for number in range(1, 2 * cpus + 2))]}},
        "search": {"method": "grid"},
        "stopping": {"stop": "asha", "grace_epochs": 2, "reduction_factor": 100},
        "cluster": {"num_workers": 1},
    }, epochs=30)  # fmt: skip
    assert every_cpu_is_free(cpus)
    search(recorded, data, TrialSlots(cpus, False), mailbox, Events(lambda trial: None, lambda trial: None))
    states = [trial.state for trial in recorded.values()]
    assert states.count("stopped") >= 2 * cpus, states
    assert every_cpu_is_free(cpus)
    assert all(group["state"] == "REMOVED" for group in ray.util.placement_group_table().values())

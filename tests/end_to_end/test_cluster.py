"""The same job file on a Ray cluster of two machines: submitted, followed, refused, stopped, and a machine lost."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import servers
from cluster_runs import call, epochs, lose_a_machine, record_of, submission
from drive import JOB, command, result_of, wait_for
from hosts import DASHBOARD, POSSIBLE, WHY_NOT, Hosts, network

from distrib.precision import format_of
from distrib.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.skipif(not POSSIBLE, reason=WHY_NOT)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Two machines with one CPU each."""
    with network(tmp_path_factory.mktemp("cluster")) as hosts:
        for number in (1, 2):
            hosts.add(number)
            hosts.ray(number, cpus=1)
        yield hosts


def mlflow_runs(cluster: Hosts, name: str) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{cluster.folder / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'distrib'")
    return [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == name]


def test_two_machines_give_what_one_gives(cluster: Hosts, finished: dict):
    done = call(cluster, *submission(cluster, "two", "--follow", "--json"))
    assert result_of(done)["exit_status"] == 0 and "two-1 is SUCCEEDED" in done.stderr
    record = record_of(cluster, "two")
    assert f"robust training: 2 workers on cpu, {format_of('auto', World())}, ffcv loader" in done.stdout
    for figure in ("weights_sha256", "clean_accuracy", "robust_accuracy", "attacks", "best_epoch"):
        assert record[figure] == finished[figure], figure
    (run,) = mlflow_runs(cluster, "two")
    assert run.info.status == "FINISHED"
    assert run.data.tags["distrib.nodes"] == f"{cluster.address(1)} {cluster.address(2)}"
    again = call(cluster, *submission(cluster, "two", "--follow"))
    assert again.returncode == 0 and "the run 'two' is complete" in again.stdout


def test_a_search_spreads_its_trials_over_the_machines(cluster: Hosts):
    """The job file as it is for a laptop, but for its length: one trial on each machine at a time."""
    sets = ["name=spread", "search.num_trials=2", "stopping={stop: never}", "winner=null", "train.optim.epochs=4"]
    job = JOB.with_name("tune-digits.yaml")
    done = call(
        cluster, "submit", job, "--address", cluster.dashboard, "--directory", cluster.folder, "--follow",
        *(word for one in sets for word in ("--set", one)),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "2 trials, 2 at a time" in done.stdout
    record = record_of(cluster, "spread")
    assert (record["finished"], record["failed"]) == (2, 0)
    trials = [run for number in (1, 2) for run in mlflow_runs(cluster, f"{number:04} spread")]
    assert len(trials) == 2 and {run.info.status for run in trials} == {"FINISHED"}
    assert {run.data.tags["distrib.nodes"] for run in trials} == {cluster.address(1), cluster.address(2)}


REFUSED = [
    ([], {"RAY_AUTH_TOKEN": "0" * 64}, r"refuses the token that it was given .*set RAY_AUTH_TOKEN"),
    (["--set", "cluster.num_workers=3"], {}, r"num_workers: 3 workers x 1 CPUs = 3 CPUs, but the cluster has 2; ask"),
    (["--set", "cluster.num_workers=1", "--set", "cluster.cpus_per_worker=2"], {},
     r"cluster\.cpus_per_worker: 1 workers of 2 CPUs each, but the nodes \(1 CPUs, 1 CPUs\) hold 0"),
    (["--set", "cluster.device=cuda"], {}, r"cluster\.device: cuda needs 2 GPUs, but the cluster has 0"),
    (["--directory", "runs"], {}, r"name a folder that every node of the cluster sees: --directory /PATH"),
    ([], {"MLFLOW_TRACKING_URI": "http://me:secret@mlflow:5000"}, r"would see its password"),
]  # fmt: skip


@pytest.fixture(scope="module")
def submitted_before(cluster: Hosts) -> str:
    """The cluster's jobs before the first refusal."""
    return call(cluster, "jobs", "--address", cluster.dashboard, "--json").stdout


@pytest.mark.usefixtures("submitted_before")
@pytest.mark.parametrize(("more", "environment", "told"), REFUSED, ids=lambda case: "")
def test_what_cannot_run_is_refused(cluster: Hosts, more: list, environment: dict, told: str):
    done = call(cluster, *submission(cluster, "refused", *more), **environment)
    assert done.returncode == 2 and re.search(told, done.stderr), done.stderr
    assert "Traceback" not in done.stderr and "secret" not in done.stderr and done.stdout == ""


def test_nothing_that_was_refused_was_submitted(cluster: Hosts, submitted_before: str):
    """Ray keeps every job that it was ever given; this one stands right after the refusals."""
    assert call(cluster, "jobs", "--address", cluster.dashboard, "--json").stdout == submitted_before != ""


def test_a_folder_that_one_machine_does_not_see_is_told_before_training(cluster: Hosts):
    """A third machine joins, without the shared folder; every machine is asked, so the run ends before it begins."""
    cluster.add(3)
    hidden = cluster.folder / "runs"
    hidden.mkdir(exist_ok=True)
    cluster.ray(3, cpus=1, hidden=hidden)
    try:
        done = call(cluster, *submission(cluster, "unshared", "--follow"))
        assert done.returncode == 2, done.stdout[-2000:]
        assert re.search(
            rf"storage: .*unshared on node {cluster.address(3)} is not the folder that the driver has", done.stdout
        )
        assert "Traceback" not in done.stdout and "training:" not in done.stdout
        assert epochs(cluster, "unshared") == [] and not list((hidden / "unshared").glob(".probe*"))
    finally:
        cluster.kill(3)
        wait_until_gone(cluster, nodes=2)


def wait_until_gone(cluster: Hosts, nodes: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        done = call(cluster, *submission(cluster, "probe", "--set", "cluster.num_workers=60"))
        if f"but the cluster has {nodes};" in done.stderr:
            return
        time.sleep(1)
    raise AssertionError(done.stderr)


MAILBOXES = """
import ray
from distrib.cluster.messages import listening, post

ray.init(address="auto", log_to_driver=False)
here, heard, where = ray.get_runtime_context().get_node_id(), [], []
for turn in range(6):
    with listening(lambda phase, message: heard.append(message)) as box:
        where.append(ray.get(box.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()), timeout=60))
        post(box, "robust", turn)
assert heard == [0, 1, 2, 3, 4, 5], heard
assert where == [here] * 6, (here, where)
"""


def test_the_mailbox_stays_with_the_driver(cluster: Hosts):
    """Else the loss of another machine takes the mailbox along, and the run with it."""
    done = cluster.run(1, [sys.executable, "-c", MAILBOXES])
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(servers.POSSIBLE, reason="test_team loses a machine too, and asks more of the run")
def test_a_lost_machine_and_its_replacement(cluster: Hosts, finished: dict):
    """The run is as if nothing had been."""
    lose_a_machine(cluster, "lost")
    record = record_of(cluster, "lost")
    for figure in ("weights_sha256", "robust_accuracy", "attacks", "best_epoch"):
        assert record[figure] == finished[figure], figure
    (run,) = mlflow_runs(cluster, "lost")
    assert run.info.status == "FINISHED"
    client = mlflow.MlflowClient(f"sqlite:///{cluster.folder / 'mlflow.db'}")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 7))


def test_machines_that_never_come_are_waited_for_only_so_long(cluster: Hosts):
    sets = [
        "cluster.num_workers=3",
        "cluster.autoscaling=true",
        "cluster.timeout_seconds=10",
        "cluster.wait_seconds=20",
    ]
    done = call(cluster, *submission(cluster, "lonely", *(word for one in sets for word in ("--set", one)), "--follow"))
    assert done.returncode == 1 and "in 20 s there was no room for 3 workers of 1 CPUs each" in done.stdout
    assert "Traceback" not in done.stdout
    (run,) = mlflow_runs(cluster, "lonely")
    assert run.info.status == "FAILED"


class Line:
    """A connection to the cluster that can be lost: a forwarder on the loopback interface."""

    def __init__(self, host: str, port: int):
        self.target, self.sockets = (host, port), []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.broken = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            if self.broken:
                near.close()
                continue
            far = socket.create_connection(self.target, timeout=30)
            self.sockets += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self.pump, args=(a, b), daemon=True).start()

    def pump(self, a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
        except OSError:
            pass
        for one in (a, b):
            one.close()

    def cut(self) -> None:
        self.broken = True
        for one in self.sockets:
            one.close()


@pytest.fixture
def stopped_afterwards(cluster: Hosts) -> Iterator[None]:
    """The run ``long`` holds no CPU when the test is over, however it ended."""
    yield
    call(cluster, "stop", "long", "--address", cluster.dashboard)


@pytest.mark.usefixtures("stopped_afterwards")
def test_followed_lost_followed_again_stopped_and_gone_on_with(cluster: Hosts):
    line = Line(cluster.address(1), DASHBOARD)
    words = [*submission(cluster, "long", "--follow", address=line.address), "--set", "optim.epochs=400"]
    process = subprocess.Popen(
        command(*words), cwd=cluster.folder, env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells have & ignore it
    )  # fmt: skip
    try:
        wait_for(lambda: epochs(cluster, "long"), process, 400)
        second = call(cluster, *submission(cluster, "long", "--set", "optim.epochs=400"))
        assert second.returncode == 2 and "name: 'long' is RUNNING there already, as long-1" in second.stderr
        line.cut()
        time.sleep(4)
        assert process.poll() is None, "it waits"
        line.broken = False
        reached = epochs(cluster, "long")[-1]
        wait_for(lambda: epochs(cluster, "long")[-1] > reached, process)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        line.server.close()
    assert process.returncode == 1 and "does not answer; the job goes on there" in err and "answers again" in err
    assert "long-1 goes on; distrib logs long --follow" in err and "Traceback" not in err
    shown = re.findall(r"robust epoch (\d+)/400", out)
    assert shown and len(shown) == len(set(shown)), "no line twice"

    assert (listed := json.loads(call(cluster, "jobs", "--address", cluster.dashboard, "--json").stdout)[-1])
    assert (listed["id"], listed["status"]) == ("long-1", "RUNNING")
    logs = call(cluster, "logs", "long", "--address", cluster.dashboard)
    assert logs.returncode == 0 and logs.stdout.startswith(out.rsplit("\n", 2)[0]), "and none left out"
    stopped = call(cluster, "stop", "long", "--address", cluster.dashboard)
    assert stopped.returncode == 0 and stopped.stdout == "long-1 is STOPPED\n"
    (run,) = mlflow_runs(cluster, "long")
    assert run.info.status == "KILLED"

    reached = epochs(cluster, "long")[-1]
    again = call(cluster, *submission(cluster, "long", "--set", "optim.epochs=400"))
    assert again.returncode == 0 and "long-2 is submitted" in again.stderr
    end = time.monotonic() + 300
    while epochs(cluster, "long")[-1] == reached and time.monotonic() < end:
        time.sleep(0.5)
    assert epochs(cluster, "long")[-1] > reached
    followed = subprocess.Popen(
        command("logs", "long", "--follow", "--address", cluster.dashboard), cwd=cluster.folder,
        env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(5)
    assert call(cluster, "stop", "long-2", "--address", cluster.dashboard).returncode == 0
    out, err = followed.communicate(timeout=120)
    assert followed.returncode == 1 and "long-2 is STOPPED" in err
    assert len(mlflow_runs(cluster, "long")) == 1, "the same run, opened again"
    unknown = call(cluster, "logs", "lang", "--address", cluster.dashboard)
    assert unknown.returncode == 2 and "knows no such job; it knows" in unknown.stderr


def test_the_code_is_sent_along_and_data_are_staged_once(cluster: Hosts):
    """Another version of distrib than the nodes have, and a folder of each machine's own for the data."""
    code = cluster.folder / "code" / "distrib"
    shutil.copytree(Path(__file__).parents[2] / "distrib", code, ignore=shutil.ignore_patterns("__pycache__"))
    version = code / "__init__.py"
    version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', version.read_text()))
    stage = cluster.folder / "stage"
    sets = ["optim.epochs=3", "evaluation.attacks=[{attack: fgsm}]", "evaluation.n=60", f"cluster.stage={stage}"]
    more = [*(word for one in sets for word in ("--set", one)), "--with-code", "--follow"]
    done = call(cluster, *submission(cluster, "sent", *more), PYTHONPATH=str(code.parent))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    card = json.loads((cluster.folder / "runs" / "sent" / "card" / "card.json").read_text())
    assert card["software"]["distrib"] == "9.9.9"
    (copy,) = stage.glob("digits-*")
    assert sorted(path.name for path in copy.iterdir()) == [
        "test.beton", "test.json", "train.beton", "train.json", "validation.beton", "validation.json"
    ]  # fmt: skip

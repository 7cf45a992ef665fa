"""What is asked of Ray Train for a job's workers, and how it is said that they failed."""

import signal
from pathlib import Path
from typing import Any

import pytest
from documents import TRAIN, changed
from ray.exceptions import OutOfMemoryError
from ray.train import TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchTrainer

from distrib.cluster import train
from distrib.config.file import parse
from distrib.errors import RunError

FULL = (Path(__file__).parent / "out_of_memory.txt").read_text()


@pytest.mark.parametrize(
    ("use_gpu", "sharing", "backend", "resources"),
    [
        (False, 1, "gloo", {"CPU": 2}), (True, 1, "nccl", {"CPU": 2, "GPU": 1.0}),
        (True, 2, "gloo", {"CPU": 2, "GPU": 0.5}), (True, 3, "gloo", {"CPU": 2, "GPU": 0.3333}),
    ],
)  # fmt: skip
def test_workers_that_share_a_gpu_talk_by_gloo(
    use_gpu: bool, sharing: int, backend: str, resources: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: dict[str, Any] = {}

    class Recorder:
        def __init__(self, worker: object, **fields: Any):
            asked.update(fields)

        def fit(self) -> None:
            """Nothing."""

    cluster = {"num_workers": 2, "cpus_per_worker": 2, "workers_per_gpu": sharing}
    fitted(Recorder, cluster, use_gpu, tmp_path, monkeypatch)
    assert asked["torch_config"].backend == backend
    assert asked["scaling_config"].use_gpu is use_gpu
    assert asked["scaling_config"].resources_per_worker == resources


def fitted(trainer: type, cluster: dict, use_gpu: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "PlainTrainer", trainer)
    start(cluster, use_gpu, folder)


def start(cluster: dict, use_gpu: bool, folder: Path) -> None:
    job: Any = parse(changed(TRAIN, {"cluster": cluster}), [], "here").resolved()
    mailbox: Any = None
    train.fit(train.WorkOrder(job, folder, folder, {}), use_gpu, mailbox)


def test_ctrl_c_stays_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ray's own handler would leave by sys.exit, without the line that says how to go on."""
    monkeypatch.setattr(TorchTrainer, "fit", lambda self: self._register_sigint_handler(None))  # as Ray's fit does
    before = signal.getsignal(signal.SIGINT)
    try:
        start({"num_workers": 2}, False, tmp_path)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, as it copies its settings
def test_no_process_is_started_for_data_sets_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found: list[object] = []
    monkeypatch.setattr(TorchTrainer, "fit", lambda self: found.extend(self._create_default_callbacks()))
    start({"num_workers": 2}, False, tmp_path)
    names = {type(one).__name__ for one in found}
    assert {"BackendSetupCallback", "UserCallbackHandler"} < names and "DatasetsCallback" not in names


def worker(pid: int) -> RuntimeError:
    return RuntimeError(f"A worker health check failed.\nWorker info: Worker(\n    pid={pid},\n)\n{FULL}")


SHORT = r"node 10\.0\.0\.7 ran out of memory \(7\.41 of 7\.8 GB in use\), so Ray ended 2 processes there \(the largest "


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (WorkerGroupError("failed", {0: worker(6360), 1: worker(6361)}),
         rf"^training failed: {SHORT}the worker of rank 1, pid 6361, with 3\.25 GB\); lower cluster\.num_workers or "),
        (OutOfMemoryError(FULL), rf"^training failed: {SHORT}judge, pid 6361, with 3\.25 GB\); lower"),
        (TrainingFailedError("Ray says\nno more"), r"^training failed: no more$"),
    ],
    ids=["workers", "the controller", "another cause"],
)  # fmt: skip
def test_memory_that_is_full_is_told_in_a_line(
    error: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It took Ray 85 lines, and a traceback where its own controller was ended."""

    class Failing:
        def __init__(self, worker: object, **fields: Any):
            """Takes anything."""

        def fit(self) -> None:
            raise error

    with pytest.raises(RunError, match=told) as caught:
        fitted(Failing, {"num_workers": 2}, False, tmp_path, monkeypatch)
    assert "\n" not in str(caught.value)

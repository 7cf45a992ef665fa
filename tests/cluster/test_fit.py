"""What is asked of Ray Train for a job's workers, and how it is said that they failed."""

from pathlib import Path
from typing import Any

import pytest
from documents import TRAIN, changed

from distrib.cluster import train
from distrib.jobfile import parse


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

    monkeypatch.setattr(train, "TorchTrainer", Recorder)
    cluster = {"num_workers": 2, "cpus_per_worker": 2, "workers_per_gpu": sharing}
    job: Any = parse(changed(TRAIN, {"cluster": cluster}), [], "here").resolved()
    board: Any = None
    train.fit(train.Order(job, tmp_path, tmp_path, {}), use_gpu, board)
    assert asked["torch_config"].backend == backend
    assert asked["scaling_config"].use_gpu is use_gpu
    assert asked["scaling_config"].resources_per_worker == resources

"""Where the time of one step of the recipe goes, by torch.profiler."""

import time

from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile

from benchmarks.on_gpu import images
from benchmarks.on_gpu.report import Report
from benchmarks.on_gpu.setting import Setting, synchronise
from distrib.data.loader import Batch
from distrib.noise import Noise
from distrib.precision import begin_training
from distrib.state import State
from distrib.step import update


def measure(setting: Setting, report: Report) -> None:
    """The top operators, and how much of the time the device was busy."""
    job, device = setting.recipe, setting.device
    side = images.SIDE if setting.quick else 32
    begin_training(setting.numbers, device)
    model = job.model.build((3, side, side), 10, [0.5] * 3, [0.25] * 3)
    state = State(model, job.optim, 1000, setting.world, setting.numbers)
    batch = Batch(*images.some(job.optim.batch_size, side, device))

    def step() -> None:
        update(state, batch, job.objective, Noise.of(batch.index, 0, "attack", state.step), 1.0)

    count = 1 if setting.quick else 5
    for _ in range(count):
        step()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(count):
        step()
    synchronise(device)
    plain = time.perf_counter() - began
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        for _ in range(count):
            step()
        synchronise(device)
    where = "device" if device.type == "cuda" else "cpu"
    averages = found.key_averages()
    # A kernel's time is also told with the operator that launched it: it counts once
    operators = [one for one in averages if one.device_type == DeviceType.CPU]
    kernels = [one for one in averages if one.device_type == DeviceType.CUDA and not one.is_user_annotation]
    busy = sum(one.self_device_time_total for one in kernels) / 1e6
    report.row(
        "One step",
        network=job.model.arch,
        batch=job.optim.batch_size,
        objective=job.objective.method,
        precision=setting.numbers,
        ms=plain / count * 1e3,
        ms_of_kernels=busy / count * 1e3,
        kernels=sum(one.count for one in kernels) // count,
        operators=sum(one.count for one in operators) // count,
    )
    report.text("Operators by their own time", averages.table(sort_by=f"self_{where}_time_total", row_limit=25))

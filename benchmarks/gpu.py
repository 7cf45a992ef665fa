"""distrib on one GPU, in one call of at most eight minutes, on a machine that has little more than torch.

    python -m benchmarks.gpu --out OUT --images cifar10.tar.xz [--train-seconds 120] [--autoattack 1000]
    python -m benchmarks.gpu --out OUT --device cpu --quick         seconds, noise for images: to see that all works

Parts, in their order; each in a process of its own, ended when its time is over:

    machine     the card and its rates: bf16 and TF32 products and convolutions, copies, launches
    parity      noise, attacks, losses, gradients, states, checkpoints and batches: the device against the CPU
    steps       images per second of a step: textbook, distrib's own, and what distrib might do (compiled, graphs)
    training    a job's recipe for --train-seconds, then PGD-20 on all test images
    profile     where the time of one step goes
    autoattack  on so many test images as time remains for

Each figure is printed, and stands in OUT/results.md and OUT/results.json, as soon as it is known. A part that fails
says why and costs no other; the exit status is then 1.

What it needs: Python 3.11 or later with torch, torchvision, numpy, scipy, pillow, pyyaml, safetensors, pydantic and
pyautoattack (no Ray, FFCV, MLflow or network), this repository, and the images as one archive, ``train/CLASS/*`` and
``test/CLASS/*`` (``tar -cJf cifar10.tar.xz -C FOLDER train test``; CIFAR-10 as JPEG files is 18 MB). What a lent
machine lacks goes beside the archive into a folder that git ignores, here for Python 3.12; the example networks of
pyautoattack, 42 MB, stay behind:

    mkdir -p .gpu && echo /.gpu/ >> .git/info/exclude && cp ARCHIVE .gpu/cifar10.tar.xz
    python -m pip install --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --target .gpu/site \
        pydantic pydantic-core==VERSION annotated-types typing-inspection typing-extensions pyautoattack
    rm -r .gpu/site/pyautoattack/examples

VERSION is the one that pydantic asks for (``pip show pydantic-core`` in distrib's own environment, with pydantic pinned
as there). Then carry ``.gpu`` and run this, with a limit of 540 seconds:

    PYTHONPATH=.gpu/site python3 -m benchmarks.gpu --out $OUT --images .gpu/cifar10.tar.xz

It imports distrib's attack, checkpoints, config, data, evaluation, models, noise, objective, optim, precision, state,
step, threat, trainer and world; none of them imports Ray, FFCV or MLflow.
"""

import argparse
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from benchmarks.on_gpu import images, machine, parity, profiling, steps, training
from benchmarks.on_gpu.report import Report
from benchmarks.on_gpu.setting import Setting

GRACE = 10.0
"""Seconds past its time after which a part is ended."""


@dataclass(frozen=True)
class Part:
    """A part of the run."""

    work: Callable[[Setting, Report], None]
    seconds: float
    """How long it may take: the parts after it have room then."""


PARTS = {
    "machine": Part(machine.measure, 30),
    "parity": Part(parity.measure, 45),
    "steps": Part(steps.measure, 150),
    "training": Part(training.measure, 110),  # beside --train-seconds: loading, validation, the attack at the end
    "profile": Part(profiling.measure, 25),
    "autoattack": Part(training.autoattack, 600),
}


def started(work: Callable[[], None]) -> BaseProcess:
    """``work`` in a process of its own, which has not touched the device: a fault there ends with it."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(work,))
    process.start()
    return process


def _alone(work: Callable[[], None]) -> None:
    os.setsid()  # so that what it starts, such as compilers, is ended with it
    work()


def ended(process: BaseProcess, seconds: float) -> str | None:
    """What was wrong with the process, None if nothing; it is over when this returns."""
    process.join(max(0.0, seconds))
    if process.exitcode is None:
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return f"not done after {seconds:.0f} s, so it is ended"
    return f"its process ended with status {process.exitcode}" if process.exitcode else None


def carried_out(part: Part, setting: Setting, report: Report) -> None:
    """One part, in this process; what it raises is reported, and ends the process with status 1."""
    report.start()
    faulthandler.dump_traceback_later(max(0.0, setting.left) + GRACE - 2)  # where it hangs, if it does
    if setting.quick:
        torch.set_num_threads(1)
    try:
        part.work(setting, report)
    except Exception as error:
        traceback.print_exc()
        report.error(f"{type(error).__name__}: {str(error)[:1000]}")
        sys.exit(1)
    finally:
        report.end()


def packed(setting: Setting, archive: Path | None) -> None:
    """Packs the images that are trained on."""
    if setting.quick:
        images.noise(setting.room / "data")
    elif archive is not None:
        images.unpack(archive, setting.room / "data", setting.recipe.data.validation)


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts; the exit status is 1 if one failed."""
    words = argparse.ArgumentParser("python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    words.add_argument("--out", type=Path, required=True, help="folder of the results")
    words.add_argument("--images", type=Path, help="tar archive of train/CLASS/* and test/CLASS/*")
    words.add_argument("--device", default="cuda", help="cuda or cpu")
    words.add_argument("--quick", action="store_true", help="toy sizes and noise for images")
    words.add_argument("--parts", default=",".join(PARTS), help="some of them")
    words.add_argument("--seconds", type=float, default=460, help="of the whole run")
    words.add_argument("--train-seconds", type=float, default=120, help="for as many epochs as fit, up to the job's")
    words.add_argument("--autoattack", type=int, default=1000, help="test images that AutoAttack is given")
    words.add_argument("--job", default=str(Path(__file__).parents[1] / "jobs" / "cifar10-fast.yaml"))
    words.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of the job")
    given = words.parse_args(arguments)
    names = given.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        words.error(f"--parts: there is no {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if given.images is None and not given.quick and {"training", "autoattack"} & set(names):
        words.error("--images: is missing; name the archive, or leave training and autoattack out of --parts")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.json").unlink(missing_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as room:
        setting = Setting(
            torch.device(given.device), given.quick, Path(room), given.job, given.set, given.train_seconds,
            given.autoattack,
        )  # fmt: skip
        packing = started(partial(packed, setting, given.images))  # while the first parts keep the device busy
        for name in names:
            part, report = PARTS[name], Report(given.out, name, began)
            if name == "training" and (wrong := ended(packing, began + given.seconds - time.monotonic())):
                report.error(f"the images cannot be packed: {wrong}")
                continue
            seconds = part.seconds + (given.train_seconds if name == "training" else 0.0)
            until = began + given.seconds
            if not given.quick:  # a quick run may be one of many on a busy machine
                until = min(time.monotonic() + seconds, until)
            if until - time.monotonic() < 1:
                report.error("no time was left for it")
                continue
            process = started(partial(carried_out, part, replace(setting, until=until), report))
            wrong = ended(process, until - time.monotonic() + GRACE)
            report = Report(given.out, name, began)
            if wrong and "error" not in report.own:
                report.error(wrong)
                report.end()
        ended(packing, 0.0)
    failed = Report(given.out, names[-1], began).failed
    print(
        f"{given.out / 'results.md'}: {f'failed: {chr(44).join(failed)}' if failed else 'all parts done'}", flush=True
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

"""Packing ends, whatever becomes of the processes that write and of the disk; and there are no more than allowed."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distrib.data import packing as packing_module
from distrib.data.beton import open_split
from distrib.data.loader import FfcvReader
from distrib.data.packing import folder_of, prepare
from distrib.data.samples import Samples
from distrib.data.source import Digits, Part
from distrib.data.writer import ffcv_usable, write_beton


class Spoilt(Digits):
    """Digits whose last image of a part does harm to the process that writes it."""

    def open(self, part: Part) -> Samples:
        """The images of one part."""
        samples, here = super().open(part), os.getpid()

        def image(i: int) -> np.ndarray:
            if os.getpid() != here and i == len(samples) - 1:
                self.harm()
            return samples.image(i)

        return Samples(samples.name, samples.classes, samples.labels, image, samples.shape)

    def harm(self) -> None:
        """As where memory is short."""
        os.kill(os.getpid(), signal.SIGKILL)


class Raising(Spoilt):
    """The same, with an error that reading did not have before."""

    def harm(self) -> None:
        """As of a file that is taken away meanwhile."""
        raise ZeroDivisionError("gone")


def outcome(work: Callable[[], object]) -> str:
    """What ``work`` raises, in a process of its own that may hang; it fails the test then."""
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)

    def body() -> None:
        os.setsid()
        try:
            tell.send(f"returned {work()}")
        except BaseException as error:
            tell.send(f"{type(error).__name__}: {error}")

    process = context.Process(target=body)
    process.start()
    try:
        assert told.poll(60), "no end in 60 s"
        return told.recv()
    finally:
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


def packed(data: Digits, packing: packing_module.Packing = "ffcv") -> Path:
    return prepare(data, packing, {}, "", lambda _: None)


@pytest.fixture(autouse=True)
def with_ffcv() -> None:
    if not ffcv_usable():
        pytest.skip("ffcv cannot be imported here")


@pytest.mark.parametrize(
    ("kind", "reason"), [(Spoilt, "died of SIGKILL, as where memory is short"), (Raising, "ZeroDivisionError: gone")]
)
def test_a_writing_process_that_dies_or_fails_ends_the_packing(tmp_path: Path, kind: type[Digits], reason: str):
    told = outcome(lambda: packed(kind(source="digits", store=str(tmp_path / "store"))))
    assert told.startswith("DataError: data.store: ") and reason in told
    assert ".beton could not be written" in told and "run the job again" in told
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("packing", ["ffcv", "memory"])
def test_a_disk_that_fills_while_packing_ends_it(tmp_path: Path, packing: packing_module.Packing):
    """FFCV's one page of 2 MiB is cut short, which its writer does not see."""

    def work() -> Path:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        return packed(Digits(source="digits", store=str(tmp_path / "store")), packing)

    told = outcome(work)
    assert told.startswith(f"DataError: data.store: {tmp_path}/store/.digits-") and "could not be written (" in told
    assert list((tmp_path / "store").iterdir()) == []


def test_what_a_killed_packing_left_is_swept(tmp_path: Path, digits_source: Callable[..., Digits]):
    data = digits_source(tmp_path)
    mine, other = (tmp_path / f".{name}-abcd1234" for name in (folder_of(data).name, "digits-000000000000"))
    for left in (mine, other):
        left.mkdir()
        (left / "train.beton").write_bytes(b"half")
    packed(data, "memory")
    assert not mine.exists() and other.exists()


def test_several_processes_write_what_one_does(
    tmp_path: Path, digits_source: Callable[..., Digits], monkeypatch: pytest.MonkeyPatch
):
    from distrib.data import writer

    alone = packed(digits_source(tmp_path / "alone"))
    monkeypatch.setattr(writer, "ONE_PROCESS", 1)
    monkeypatch.setattr(writer, "usable_cpus", lambda: 3)
    shared = packed(digits_source(tmp_path / "shared"))
    one, other = (open_split(folder, "train", "evaluation") for folder in (alone, shared))
    order = np.arange(one.card.count)
    assert one.card.content_sha256 == other.card.content_sha256
    for a, b in zip(FfcvReader(one).read(order, 64), FfcvReader(other).read(order, 64), strict=True):
        assert all(x.equal(y) for x, y in zip(a, b, strict=True))


def test_as_many_processes_write_as_the_machine_lets_this_one_have(
    tmp_path: Path, digits_source: Callable[..., Digits], monkeypatch: pytest.MonkeyPatch
):
    """Not one a core of the host: a pod of two on 128 cores would start 128."""
    import ffcv.writer

    started = []
    process = multiprocessing.get_context("fork").Process
    start = process.start
    monkeypatch.setattr(process, "start", lambda self: (started.append(self), start(self))[1])
    monkeypatch.setattr(ffcv.writer, "Process", process)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    images = np.zeros((10_000, 4, 4, 1), np.uint8)
    path = tmp_path / "x.beton"
    samples = Samples("x", ("a", "b"), np.arange(10_000) % 2, images.__getitem__, (4, 4, 1))
    write_beton(path, samples, "array", 90)
    assert 1 <= len(started) <= 2

"""Packed files, written: a ``.beton`` by FFCV, in processes that are watched, or a ``.safetensors``.

FFCV's own ``DatasetWriter`` starts the host's number of processes and waits for them without looking: where one is
killed, or a disk fills, it waits for ever. Here its parts are used (``prepare``, the work of one process, ``finalize``)
and the processes are our own.
"""

import ctypes
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from distrib.data.samples import Samples
from distrib.errors import DataError
from distrib.processor import usable_cpus

Encoding = Literal["array", "rgb-raw", "rgb-jpeg"]

ONE_PROCESS = 10_000
"""Images below which one process writes them all."""


def write_beton(path: Path, samples: Samples, encoding: Encoding, jpeg_quality: int) -> None:
    """Writes ``samples`` as FFCV reads them. Raises :class:`DataError` where that fails."""
    from ffcv.fields import IntField, NDArrayField, RGBImageField
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter

    if encoding == "array":
        field = NDArrayField(np.dtype(np.uint8), samples.shape)
    else:
        field = RGBImageField(write_mode="jpg" if encoding == "rgb-jpeg" else "raw", jpeg_quality=jpeg_quality)
    page = 1 << max(21, (2 * int(np.prod(samples.shape))).bit_length())  # 2 MiB, the smallest; every image must fit
    fields = {"image": field, "label": IntField(), "index": IntField()}
    count = 1 if len(samples) < ONE_PROCESS else usable_cpus()
    parts = [part.tolist() for part in np.array_split(np.arange(len(samples)), count)]
    writer = DatasetWriter(str(path), fields, page_size=page, num_workers=count)
    writer.num_samples = len(samples)
    with _written(path):
        writer.prepare()
        try:
            allocator = MemoryAllocator(str(path), writer.data_region_start, page)
            places = _watched([partial(_write_part, writer, allocator, samples, part) for part in parts])
            if path.stat().st_size != allocator.offset + allocator.next_page_allocated.value * page:
                raise OSError(None, "the disk is full")  # FFCV does not see that only half of a page was written
            writer.finalize([place for part in places for place in part])
        finally:
            shared: Any = writer.metadata_sm
            shared.close()
            shared.unlink()


def _write_part(writer: Any, allocator: Any, samples: Samples, part: list[int]) -> list:
    """Writes these samples, in a process of its own; returns what FFCV calls the allocations."""
    from ffcv.writer import worker_job_indexed_dataset

    work, places = queue.SimpleQueue(), queue.SimpleQueue()
    work.put([(i, i) for i in part])
    work.put(None)
    worker_job_indexed_dataset(
        work, writer.metadata_sm, writer.metadata_type, writer.fields, allocator,
        multiprocessing.Value(ctypes.c_uint64, 0), places, _Indexed(samples, os.getppid()),
    )  # fmt: skip
    return places.get()


class _Indexed:
    """Samples with their index, as FFCV's writer takes them."""

    def __init__(self, samples: Samples, parent: int):
        self.samples = samples
        self.parent = parent

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, int]:
        if os.getppid() != self.parent:
            os._exit(1)  # nobody waits for the file any more
        return (*self.samples[i], i)


def _watched(works: list[Callable[[], list]]) -> list[list]:
    """What each of ``works`` returns, each done in a process of its own.

    Raises what one of them raises, or :class:`ChildProcessError` where one dies; none of them is left behind.
    """
    context = multiprocessing.get_context("fork")  # samples are functions, which cannot be sent
    children: dict[Connection, BaseProcess] = {}
    found: dict[Connection, list] = {}
    try:
        for work in works:
            answers, mine = context.Pipe(duplex=False)
            children[answers] = context.Process(target=_answer, args=(work, mine), daemon=True)
            children[answers].start()
            mine.close()  # now the child alone holds it, and its death ends the pipe
        while len(found) < len(children):
            for answers in wait([one for one in children if one not in found]):
                assert isinstance(answers, Connection)
                try:
                    answer = answers.recv()
                except EOFError:
                    children[answers].join()
                    raise ChildProcessError(_death(children[answers].exitcode or 0)) from None
                if isinstance(answer, Exception):
                    raise answer
                found[answers] = answer
        return [found[answers] for answers in children]
    finally:
        for answers, child in children.items():
            child.kill()
            child.join()
            child.close()
            answers.close()


def _answer(work: Callable[[], list], mine: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    try:
        answer = work()
    except OSError as error:
        answer = error
    except Exception as error:  # an error of FFCV's may be one that cannot be sent
        answer = error if isinstance(error, DataError) else RuntimeError(f"{type(error).__name__}: {error}")
    mine.send(answer)


def _death(status: int) -> str:
    reason = f"status {status}" if status >= 0 else signal.Signals(-status).name
    known = {"SIGKILL": ", as where memory is short", "SIGBUS": ", as where /dev/shm is full"}
    return f"a process that writes it died of {reason}{known.get(reason, '')}"


def write_tensors(path: Path, samples: Samples) -> None:
    """Writes ``samples`` for the in-memory loader. Raises :class:`DataError` where that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    images = torch.from_numpy(np.stack([samples[i][0] for i in range(len(samples))]))
    with _written(path):
        try:
            save_file({"image": images, "label": torch.from_numpy(samples.labels)}, path)
        except SafetensorError as error:
            raise OSError(None, str(error)) from None


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Whatever fails meanwhile is told with the file's name and the cure."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        if isinstance(error, DataError):
            raise
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"data.store: {path} could not be written ({reason}); make room there, or choose another folder, and run "
            "the job again"
        ) from None


@contextmanager
def threads_kept() -> Iterator[None]:
    """Afterwards torch has as many threads as before: importing ffcv 1.0.2 sets one, each Loader its own number."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def compiled(yes: bool) -> Iterator[None]:
    """Whether numba compiles the work of those of ffcv's Loaders that are made in this block, or Python does it."""
    from ffcv.pipeline.compiler import Compiler

    before = Compiler.is_enabled
    Compiler.set_enabled(yes)
    try:
        yield
    finally:
        Compiler.set_enabled(before)


@contextmanager
def _plain_dictionary() -> Iterator[None]:
    """Importing ffcv (1.0.2) makes a typed dictionary of two entries, for which numba compiles 4 s in every process;
    only Python reads it, and a plain one serves."""
    import numba.typed

    room: Any = numba.typed
    typed, room.Dict = room.Dict, dict
    try:
        yield
    finally:
        room.Dict = typed


@cache
def ffcv_usable() -> bool:
    """Whether ffcv can be imported here."""
    try:
        with threads_kept(), _plain_dictionary():
            import ffcv.fields
            import ffcv.loader  # noqa: F401
    except Exception:  # a broken build raises anything: ImportError, OSError, AttributeError, a bare Exception
        return False
    return True

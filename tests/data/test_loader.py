"""distrib.data.loader: every reader gives the same batches, every rank its own part, and no thread stays behind."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import distrib
from distrib.data import loader as loader_module
from distrib.data import packing as packing_module
from distrib.data.augment import Augment
from distrib.data.beton import open_split
from distrib.data.loader import FfcvReader, MemoryReader, Raw, Reader, TrainLoader, open_reader, resolve, shard
from distrib.data.order import epoch_order
from distrib.data.packing import prepare
from distrib.data.source import Folder
from distrib.errors import DataError
from distrib.world import World

COUNT = 270
"""Training images of the fixtures ``digits`` and ``digits_beton``."""


def kept(raws: Iterable[Raw]) -> list[Raw]:
    """Copies, for the next read may overwrite what it gave."""
    return [Raw(*(part.clone() for part in raw)) for raw in raws]


def same(first: list, second: list) -> bool:
    pairs = [(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module", params=[0, COUNT], ids=["compiled", "by Python"])
def ffcv_reader(digits_beton: Path, request: pytest.FixtureRequest) -> FfcvReader:
    """One for all tests: a new (length, batch size) costs it a second of compiling."""
    return FfcvReader(open_split(digits_beton, "train", "training"), few=request.param)


@pytest.fixture(scope="module")
def memory_reader(digits: Path) -> MemoryReader:
    return MemoryReader(open_split(digits, "train", "training"))


# The same batches


def test_every_reader_gives_the_same_batches_in_the_order_that_is_asked(
    digits_beton: Path, ffcv_reader: FfcvReader, memory_reader: MemoryReader
):
    from_beton = MemoryReader(open_split(digits_beton, "train", "training"))
    draw = np.random.default_rng(0)
    for order, batch_size in (
        (np.arange(COUNT), 32),
        (epoch_order(COUNT, 5, 0), 32),
        (epoch_order(COUNT, 5, 1), 32),  # the same lengths again, in another order
        (np.arange(COUNT)[::-1].copy(), 32),
        (draw.integers(0, COUNT, 33), 16),  # some twice; a last batch of one
        (np.array([269, 0, 269]), 1),
        (np.array([7]), 100),
    ):
        expected = kept(memory_reader.read(order, batch_size))
        assert [len(raw.label) for raw in expected] == [
            min(batch_size, len(order) - start) for start in range(0, len(order), batch_size)
        ]
        assert torch.equal(torch.cat([raw.index for raw in expected]), torch.from_numpy(order))
        assert expected[0].image.dtype == torch.uint8 and expected[0].image.shape[1:] == (8, 8, 1)
        assert same(kept(ffcv_reader.read(order, batch_size)), expected)
        assert same(kept(from_beton.read(order, batch_size)), expected)


@pytest.mark.parametrize("batch_size", [32, 100])
def test_training_batches_are_the_same_epoch_by_epoch(
    ffcv_reader: FfcvReader, memory_reader: MemoryReader, batch_size: int
):
    augment = Augment(crop_padding=1, flip=True)
    one, other = (TrainLoader(reader, COUNT, 3, batch_size, augment) for reader in (ffcv_reader, memory_reader))
    epochs = [list(one.epoch(epoch)) for epoch in range(3)]  # all held at once, none overwritten
    for epoch, batches in enumerate(epochs):
        assert len(batches) == one.steps == COUNT // batch_size
        assert same(batches, list(other.epoch(epoch)))
        for x, y, index in batches:
            assert x.dtype == torch.float32 and x.shape == (batch_size, 1, 8, 8)
            assert x.min() >= 0 and x.max() <= 1 and y.dtype == index.dtype == torch.int64
    assert not same(epochs[0], epochs[1])
    assert same(list(one.epoch(1)), epochs[1])  # an epoch is a function of its number


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [Augment(), Augment(crop_padding=1, flip=True)], ids=["plain", "augmented"])
def test_a_batch_lies_in_memory_as_a_new_tensor_does(channels: int, augment: Augment):
    """contiguous() leaves the strides of a permuted image of one channel as they are: then view(len(x), -1) fails."""
    reader = Held(torch.randint(0, 256, (24, 6, 5, channels), dtype=torch.uint8))
    (trained,) = TrainLoader(reader, 24, 0, 24, augment).epoch(0)
    (whole,) = shard(reader, np.arange(24), 24, World())
    (alone,) = shard(reader, np.arange(1), 24, World())
    for batch in (trained, whole, alone):
        assert batch.x.stride() == torch.empty(batch.x.shape).stride()


def test_windows_of_larger_images_are_what_is_trained_on():
    reader = Held(torch.randint(0, 256, (24, 8, 9, 3), dtype=torch.uint8))
    (batch,) = TrainLoader(reader, 24, 0, 24, size=(6, 5)).epoch(0)
    assert batch.x.shape == (24, 3, 6, 5) and batch.x.stride() == torch.empty(batch.x.shape).stride()
    for x, index in zip(batch.x * 255, batch.index.tolist(), strict=True):
        places = reader.image[index].permute(2, 0, 1).unfold(1, 6, 1).unfold(2, 5, 1)
        assert (x.round()[:, None, None] == places).all(0).flatten(2).all(2).any()


class Held:
    """Images that are held, as a reader."""

    def __init__(self, image: torch.Tensor):
        self.image = image

    def read(self, order: np.ndarray, batch_size: int) -> Iterator[Raw]:
        for rows in torch.from_numpy(order).split(batch_size):
            yield Raw(self.image[rows], torch.zeros_like(rows), rows)


def test_without_augmentation_a_batch_holds_the_pixels_over_255(memory_reader: MemoryReader):
    loader = TrainLoader(memory_reader, COUNT, 3, 30)
    for x, y, index in loader.epoch(0):
        (raw,) = memory_reader.read(index.numpy(), 30)
        assert torch.equal(x, raw.image.permute(0, 3, 1, 2).float() / 255) and torch.equal(y, raw.label)


def test_jpeg_and_raw_pictures_are_the_same_in_both_readers(
    tmp_path: Path, pictures: Callable[..., Path], digits_beton: Path
):
    root = pictures(tmp_path / "images", [(20, 24), (24, 20), (20, 20)])
    data = Folder(
        source="folder", root=str(root), store=str(tmp_path), size=16, encoding="jpeg", validation=0.34
    )  # fmt: skip
    folder = prepare(data, "ffcv", {}, "digest", print)
    beton = open_split(folder, "train", "training")
    assert beton.card.encoding == "rgb-jpeg"
    order = np.array([3, 0, 2, 1])
    batches = kept(FfcvReader(beton, few=0).read(order, 3))  # compiled; the other is filled by Python
    assert same(batches, kept(MemoryReader(beton).read(order, 3)))
    assert [raw.image.shape for raw in batches] == [(3, 16, 16, 3), (1, 16, 16, 3)]


@pytest.mark.usefixtures("with_ffcv")
@pytest.mark.parametrize(("few", "compiles"), [(29, True), (30, False)])
def test_a_few_images_are_read_without_compiling(digits_beton: Path, few: int, compiles: bool):
    from numba.core import event

    with event.install_recorder("numba:compile") as recorder:
        list(FfcvReader(open_split(digits_beton, "train", "training"), few=few).read(np.arange(30), 30))
    assert bool(recorder.buffer) is compiles


def test_epochs_of_one_reader_may_overlap(ffcv_reader: FfcvReader, memory_reader: MemoryReader):
    orders = [epoch_order(COUNT, 1, epoch) for epoch in (0, 1)]
    both = [
        kept_one for pair in zip(*(ffcv_reader.read(o, 32) for o in orders), strict=True) for kept_one in kept(pair)
    ]
    for place, order in enumerate(orders):
        assert same(both[place::2], kept(memory_reader.read(order, 32)))


def test_reading_leaves_the_number_of_threads_of_torch_alone(digits_beton: Path):
    before = torch.get_num_threads()
    reader = FfcvReader(open_split(digits_beton, "validation", "training"), threads=before + 1, few=0)
    for _ in reader.read(np.arange(30), 32):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


# Leaving early


class NoThreadLeft:
    """Fails if the block leaves a thread behind, or waits long to end it."""

    def __enter__(self) -> None:
        self.before, self.began = set(threading.enumerate()), time.monotonic()

    def __exit__(self, *exception: object) -> None:
        left = set(threading.enumerate()) - self.before
        assert not left, f"left behind after {time.monotonic() - self.began:.1f} s: {left}"


@pytest.mark.parametrize("taken", range(10))
def test_an_epoch_left_early_leaves_no_thread(ffcv_reader: FfcvReader, memory_reader: MemoryReader, taken: int):
    """Nine batches; FFCV's thread may be reading, waiting for room for a batch, or waiting for room for its end."""
    order = np.arange(COUNT)
    with NoThreadLeft():
        batches = ffcv_reader.read(order, 32)
        for _ in range(taken):
            next(batches)
        time.sleep(0.05)  # the thread reads ahead as far as it can
        batches.close()
    assert same(kept(ffcv_reader.read(order, 32)), kept(memory_reader.read(order, 32)))  # and it can be read again


def test_a_long_epoch_left_early_is_not_read_to_its_end(ffcv_reader: FfcvReader):
    """ImageNet has thousands of batches: who makes room for the thread to end must not make it read them all."""
    order = np.tile(np.arange(COUNT), 200)
    with NoThreadLeft():
        batches = ffcv_reader.read(order, 32)
        next(batches)
        began = time.monotonic()
        batches.close()
        seconds = time.monotonic() - began
    assert seconds < 5


def test_training_and_evaluation_left_early_leave_no_thread(ffcv_reader: FfcvReader):
    def fail(batches: Iterator) -> None:
        for _ in batches:
            raise RuntimeError("in the middle")

    with NoThreadLeft():
        loader = TrainLoader(ffcv_reader, COUNT, 3, 32)
        for batches in (loader.epoch(0), shard(ffcv_reader, np.arange(COUNT), 32, World())):
            with pytest.raises(RuntimeError, match="in the middle"):
                fail(batches)
            batches.close()


# Ranks


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [32, 33])
def test_the_ranks_share_the_global_batches_of_one_process(memory_reader: MemoryReader, size: int, batch_size: int):
    augment = Augment(crop_padding=2, flip=True)

    def loader(rank: int, size: int) -> TrainLoader:
        return TrainLoader(memory_reader, COUNT, 3, batch_size, augment, World(rank, size))

    for epoch in (0, 4):
        whole = list(loader(0, 1).epoch(epoch))
        parts = [list(loader(rank, size).epoch(epoch)) for rank in range(size)]
        assert {len(part) for part in parts} == {len(whole)} == {COUNT // batch_size}
        for batch, slices in zip(whole, zip(*parts, strict=True), strict=True):
            lengths = [len(one.y) for one in slices]
            assert max(lengths) - min(lengths) <= 1 and min(lengths) > 0
            for field in ("x", "y", "index"):  # order, labels, pixels and augmentation
                assert torch.equal(getattr(batch, field), torch.cat([getattr(one, field) for one in slices]))
        seen = torch.cat([batch.index for batch in whole])
        assert len(seen.unique()) == len(seen) == COUNT // batch_size * batch_size


@pytest.mark.parametrize("size", [2, 3])
def test_blended_batches_are_the_same_for_any_number_of_ranks(memory_reader: MemoryReader, size: int):
    """The first image of a part has its neighbour in another one, that of a batch its last."""
    augment = Augment(crop_padding=2, flip=True, mixup=0.5, cutmix=1.0)

    def batches(rank: int, size: int) -> list:
        world = World(rank, size)
        return list(TrainLoader(memory_reader, COUNT, 3, 33, augment, world, num_classes=10).epoch(4))

    whole, parts = batches(0, 1), [batches(rank, size) for rank in range(size)]
    plain = list(TrainLoader(memory_reader, COUNT, 3, 33, Augment(crop_padding=2, flip=True)).epoch(4))
    for batch, slices, own in zip(whole, zip(*parts, strict=True), plain, strict=True):
        for field in ("x", "y", "index"):
            assert torch.equal(getattr(batch, field), torch.cat([getattr(one, field) for one in slices]))
        assert torch.equal(batch.index, own.index) and batch.y.shape == (33, 10)
        pairs = torch.nn.functional.one_hot(own.y, 10) + torch.nn.functional.one_hot(own.y.roll(1), 10)
        assert ((batch.y > 0) <= (pairs > 0)).all(), "of its own class and that of the image before it"
        assert not torch.equal(batch.x, own.x)


def test_ffcv_gives_the_same_blended_batches(ffcv_reader: FfcvReader, memory_reader: MemoryReader):
    one, other = (
        list(TrainLoader(reader, COUNT, 3, 31, Augment(cutmix=1.0), num_classes=10).epoch(0))
        for reader in (ffcv_reader, memory_reader)
    )
    assert same(one, other)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [COUNT, 30, 5, 1])
def test_evaluation_meets_each_image_once_and_never_an_empty_batch(memory_reader: MemoryReader, count: int, size: int):
    indices = epoch_order(COUNT, 9, 0)[:count]
    batches = [list(shard(memory_reader, indices, 7, World(rank, size))) for rank in range(size)]
    assert torch.cat([batch.index for rank in batches for batch in rank]).tolist() == indices.tolist()
    assert all(0 < len(batch.y) == len(batch.x) <= 7 for rank in batches for batch in rank)
    lengths = [sum(len(batch.y) for batch in rank) for rank in batches]
    assert max(lengths) - min(lengths) <= 1


def test_evaluation_over_ranks_is_the_same_with_ffcv(ffcv_reader: FfcvReader, memory_reader: MemoryReader):
    order, size = epoch_order(COUNT, 9, 0), 3
    for indices in (order[:99], order[:2]):  # of two images over three ranks, one rank has none
        for rank in range(size):
            one, other = (list(shard(r, indices, 16, World(rank, size))) for r in (ffcv_reader, memory_reader))
            assert same(one, other)


def test_fewer_images_than_a_batch_are_refused(memory_reader: MemoryReader):
    assert TrainLoader(memory_reader, COUNT, 0, COUNT).steps == 1
    with pytest.raises(DataError, match=r"optim\.batch_size: 271 is more than the 270"):
        TrainLoader(memory_reader, COUNT, 0, COUNT + 1)


# With and without ffcv


def test_auto_means_ffcv_where_it_can_be_imported(digits_beton: Path, digits: Path):
    assert resolve("auto") == resolve("ffcv") == "ffcv" and resolve("memory") == "memory"
    beton, tensors = (open_split(folder, "train", "training") for folder in (digits_beton, digits))
    kinds: list[tuple[object, str, type[Reader]]] = [
        (beton, "auto", FfcvReader), (beton, "ffcv", FfcvReader), (beton, "memory", MemoryReader),
        (tensors, "auto", MemoryReader), (tensors, "memory", MemoryReader),
    ]  # fmt: skip
    for packed, name, kind in kinds:
        assert type(open_reader(packed, name)) is kind


def test_without_ffcv_what_needs_it_is_refused(digits_beton: Path, digits: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (packing_module, loader_module):
        monkeypatch.setattr(module, "ffcv_usable", lambda: False)
    assert resolve("auto") == resolve("memory") == "memory"
    with pytest.raises(DataError, match=r"loader: ffcv cannot be imported here.*distrib doctor"):
        resolve("ffcv")
    beton, tensors = (open_split(folder, "train", "training") for folder in (digits_beton, digits))
    for name in ("auto", "memory", "ffcv"):
        with pytest.raises(DataError, match=r"train\.beton: FFCV cannot be imported"):
            open_reader(beton, name)
    assert isinstance(open_reader(tensors, "auto"), MemoryReader)


THREADS = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(3)
from distrib.data.beton import open_split
from distrib.data.loader import FfcvReader, TrainLoader, open_reader
reader = open_reader(open_split(Path(sys.argv[1]), "train", "training"), "auto", 2)
assert isinstance(reader, FfcvReader) and torch.get_num_threads() == 3, torch.get_num_threads()
for batch in TrainLoader(reader, 100, 3, 32).epoch(0):
    assert torch.get_num_threads() == 3, torch.get_num_threads()
assert torch.get_num_threads() == 3, torch.get_num_threads()
import numba.typed
from ffcv.fields.rgb_image import IMAGE_MODES
assert type(IMAGE_MODES) is dict and numba.typed.Dict is not dict, "else numba compiles for seconds"
"""


def test_ffcv_leaves_the_number_of_torch_threads_and_numba_alone(digits_beton: Path):
    """In a new process: the first import of ffcv sets it to one, so a worker of many cores would use only one."""
    subprocess.run([sys.executable, "-c", THREADS, str(digits_beton)], check=True, timeout=120)


WITHOUT = """
import json, sys
from pathlib import Path
from distrib.data.writer import ffcv_usable
from distrib.data.beton import open_split
from distrib.data.packing import prepare
from distrib.data.loader import TrainLoader, open_reader, resolve
from distrib.data.source import Digits
sys.path.insert(0, sys.argv[2])
from test_loader import digest_of
data = Digits(source="digits", store=sys.argv[1], limit=300)
folder = prepare(data, resolve("auto"), {}, "digest", lambda text: None)
beton = open_split(folder, "train", "training")
reader = open_reader(beton, "auto")
print(json.dumps([ffcv_usable(), beton.card.file, type(reader).__name__, digest_of(reader, beton.card.count)]))
"""


def digest_of(reader: Reader, count: int) -> str:
    """Of all batches of two epochs."""
    seen = hashlib.sha256()
    for epoch in (0, 1):
        for batch in TrainLoader(reader, count, 3, 32).epoch(epoch):
            for tensor in batch:
                seen.update(tensor.numpy().tobytes())
    return seen.hexdigest()


@pytest.mark.parametrize("fault", ["raise OSError('libopencv_core.so.406: cannot open')"])
def test_where_ffcv_is_broken_the_batches_are_the_same(tmp_path: Path, ffcv_reader: FfcvReader, fault: str):
    """A package that breaks as it is imported, in a process of its own: data are packed and read without it."""
    (tmp_path / "fakes" / "ffcv").mkdir(parents=True)
    (tmp_path / "fakes" / "ffcv" / "__init__.py").write_text(fault)
    paths = [str(tmp_path / "fakes"), str(Path(distrib.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "store"), str(Path(__file__).parent)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    usable, file, reader, digest = json.loads(done.stdout)
    assert (usable, file, reader) == (False, "train.safetensors", "MemoryReader")
    assert digest == digest_of(ffcv_reader, COUNT)

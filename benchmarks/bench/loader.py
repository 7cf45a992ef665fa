"""Images a second of the training loader alone, and the share of training that waits for it.

The images are of CIFAR-10's size and of noise, which packs and reads like any other: they are stored as they are. The
share is the trainer's own figure, of steps of small_cnn: the fastest network there is, so the loader's hardest case.
"""

import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.bench.cases import CASES, DEVICE, STEP
from benchmarks.bench.report import Options, Table, spread
from distrib import trainer
from distrib.attack import PGD, Adversary, OfEpsilon
from distrib.data.augment import Augment
from distrib.data.beton import Beton, open_split
from distrib.data.loader import LoaderName, TrainLoader, open_reader, resolve
from distrib.data.packing import Packing, prepare
from distrib.data.source import Folder
from distrib.objective import Madry
from distrib.optim import SGD
from distrib.state import State
from distrib.threat import Linf
from distrib.world import World

BATCH = 128


def measure(options: Options) -> list[Table]:
    """One table: the rate of every reader, with and without augmentation, and the share of waiting."""
    images, trained, rounds = (300, BATCH, 1) if options.quick else (20_000, 50 * BATCH, options.rounds or 5)
    packing = "memory" if options.quick else resolve("auto")
    names: list[LoaderName] = ["ffcv", "memory"] if packing == "ffcv" else ["memory"]
    augments = {"none": Augment(), "crop and flip": Augment(crop_padding=4, flip=True)}
    rows = []
    with tempfile.TemporaryDirectory(prefix="distrib-bench-") as room:
        train = _packed(Path(room), images, packing)
        for name, (how, augment) in product(names, augments.items()):
            loader = TrainLoader(open_reader(train, name), images, 0, BATCH, augment, World(device=DEVICE))
            rates = [_rate(loader, epoch) for epoch in range(rounds + 1)][1:]
            share = _waiting(TrainLoader(loader.reader, trained, 0, BATCH, augment, loader.world), train)
            rows.append((name, how, spread(rates, "{:,.0f}"), f"{100 * share:.2f} %"))
    how = (
        f"{images:,} images of 3x32x32, batch {BATCH}, one thread of reading; over {rounds} epochs: the median "
        "(smallest to largest)."
    )
    header = ("reader", "augmentation", "images/s alone", "waiting in training")
    return [Table("The loader.", how, header, rows)]


def _packed(folder: Path, count: int, packing: Packing) -> Beton:
    """The train split of images of noise."""
    draw = np.random.default_rng(0)
    for part, number in (("train", count + 20), ("test", 20)):
        for label in range(2):
            (folder / part / str(label)).mkdir(parents=True)
        for index in range(number):
            image = Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            image.save(folder / part / str(index % 2) / f"{index}.bmp")
    source = Folder(source="folder", root=str(folder), store=str(folder / "betons"), validation=20 / (count + 20))
    prepared = prepare(source, packing, {"kind": "prepare"}, "none", lambda said: None)
    return open_split(prepared, "train", "training")


def _rate(loader: TrainLoader, epoch: int) -> float:
    """Images a second of a whole epoch that nobody waits in."""
    began = time.perf_counter()
    seen = sum(len(batch.y) for batch in loader.epoch(epoch))
    return seen / (time.perf_counter() - began)


def _waiting(loader: TrainLoader, train: Beton) -> float:
    """The share of an epoch of training that waits for the loader."""
    case = CASES[0]
    model = case.network.build((3, 32, 32), 2, train.card.mean, train.card.std)
    optim = SGD(name="sgd", lr=0.01, epochs=2, batch_size=BATCH)
    state = State(model, optim, loader.steps, loader.world)
    attack = PGD(num_steps=case.num_steps, step_size=OfEpsilon(of_epsilon=STEP))
    objective = Madry(method="madry", threat=Linf(epsilon=8 / 255), attack=attack)
    validation = trainer.ValidationSet(loader.reader, np.arange(2), Adversary(objective.threat, PGD(num_steps=1)), 0)
    ends = [one for one in trainer.epochs(state, loader, objective, 0, validation) if isinstance(one, trainer.EpochEnd)]
    return ends[-1].metrics["data_wait_share"]

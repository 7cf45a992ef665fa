"""A train job's loop in this process, as its worker builds it: without Ray, MLflow and checkpoints."""

from pathlib import Path

import torch

from benchmarks.bench.cases import DEVICE
from distrib import trainer
from distrib.config.job import Train
from distrib.data.beton import open_split
from distrib.data.loader import TrainLoader, open_reader
from distrib.data.order import chosen
from distrib.precision import format_of
from distrib.state import State
from distrib.world import World


def built(job: Train, data: Path) -> tuple[State, TrainLoader, trainer.ValidationSet]:
    """What the trainer is given, for the betons in ``data``; ``job`` is resolved."""
    world = World(device=DEVICE)
    train, held_out = (open_split(data, split, "training") for split in ("train", "validation"))
    readers = [open_reader(split, job.loader, job.cluster.cpus_per_worker) for split in (train, held_out)]
    few = chosen(held_out.card.count, job.validation.max_examples, job.seed)
    validation = trainer.ValidationSet(readers[1], few, job.examiner, job.seed, every=job.validation.every)
    loader = TrainLoader(readers[0], train.card.count, job.seed, job.optim.batch_size, job.augment, world)
    height, width, channels = train.card.image
    torch.manual_seed(job.seed)
    model = job.model.build((channels, height, width), len(train.card.classes), train.card.mean, train.card.std)
    state = State(model, job.optim, loader.steps, world, format_of(job.precision, world))
    return state, loader, validation

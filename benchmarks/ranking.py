"""Which held-out accuracy ranks checkpoints as AutoAttack does: PGD-10 on the cross-entropy, or on the margin.

    python benchmarks/ranking.py --root DATA [--images 500] [--epochs 8] [--width 0.5]

Several recipes train the network of ``jobs/cifar10-cpu.yaml``, narrower, on half of CIFAR-10's training images (DATA
holds a folder a class), in this process. What they are after half, three quarters and all of their epochs is attacked
on the same held-out images by both, and by AutoAttack's two APGD parts, which leave little for the others to break.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from distrib.attack import PGD, Adversary, predicted, undisturbed
from distrib.commands.prepare import prepared
from distrib.config.file import read
from distrib.config.job import Train
from distrib.data.beton import open_split
from distrib.data.loader import Batch, TrainLoader, open_reader, shard
from distrib.data.order import chosen
from distrib.evaluation.autoattack import STANDARD, autoattack
from distrib.noise import Noise
from distrib.precision import format_of
from distrib.processor import compute_with
from distrib.state import State
from distrib.threat import Linf
from distrib.tracking.display import Display
from distrib.trainer import EpochEnd, ValidationSet, epochs
from distrib.world import World

THREAT = Linf(norm="linf", epsilon=8 / 255)
RIVALS = {loss: PGD(num_steps=10, step_size=2 / 255, loss=loss) for loss in ("cross_entropy", "cw_margin")}
NATURAL_FIRST = "natural_epochs: 2, threat: {norm: linf, epsilon: 10/255}"
RECIPES = {
    "N-FGSM": f"{{method: n_fgsm, {NATURAL_FIRST}}}",
    "N-FGSM, labels smoothed by 0.3": f"{{method: n_fgsm, {NATURAL_FIRST}, label_smoothing: 0.3}}",
    "PGD-3": f"{{method: madry, {NATURAL_FIRST}, attack: {{num_steps: 3, step_size: {{of_epsilon: 0.5}}}}}}",
    "TRADES, PGD-3": f"{{method: trades, {NATURAL_FIRST}, attack: {{num_steps: 3, step_size: {{of_epsilon: 0.5}}}}}}",
}


def trained(job: Train, data: Path) -> list[tuple[int, nn.Module]]:
    """(epochs done, the network) after half, three quarters and all of the epochs."""
    last = job.optim.epochs
    train = open_split(data, "train", "training")
    loader = TrainLoader(open_reader(train, "memory"), train.card.count, job.seed, job.optim.batch_size, job.augment)
    height, width, channels = train.card.image
    torch.manual_seed(job.seed)
    net = job.model.build((channels, height, width), len(train.card.classes), train.card.mean, train.card.std)
    state = State(net, job.optim, loader.steps, World(), format_of(job.precision, World()))
    held_out = open_reader(open_split(data, "validation", "training"), "memory")
    nothing = ValidationSet(held_out, np.arange(1), job.examiner, job.seed, every=last)
    kept = []
    for told in epochs(state, loader, job.objective, job.seed, nothing):
        if isinstance(told, EpochEnd) and told.epoch in {last // 2, last * 3 // 4, last}:
            kept.append((told.epoch, copy.deepcopy(state.judged).eval()))
    return kept


def job_of(recipe: str, options: argparse.Namespace) -> Train:
    """The job of a recipe."""
    sets = [
        f"data={{source: folder, root: {options.root}, validation: 0.5}}", f"objective={recipe}",
        f"model.width={options.width}", f"optim.epochs={options.epochs}",
    ]  # fmt: skip
    job = read(Path("jobs/cifar10-cpu.yaml"), sets)
    assert isinstance(job, Train)
    return job


def robust(model: nn.Module, batch: Batch, attack: PGD) -> int:
    """How many images stay correct."""
    x_adv = Adversary(THREAT, attack).perturb(model, batch.x, batch.y, Noise.of(batch.index, 0, "validation"))
    with undisturbed(model, "eval"), torch.no_grad():
        return int(((predicted(model(batch.x)) == batch.y) & (predicted(model(x_adv)) == batch.y)).sum())


def robust_to_apgd(model: nn.Module, batch: Batch) -> tuple[int, int]:
    """How many images are correct, and how many of them AutoAttack's APGD parts leave so."""
    with torch.no_grad():
        right = predicted(model(batch.x)) == batch.y
    correct = Batch(*(part[right] for part in batch))
    _, broken_by = autoattack(model, correct, THREAT, 0, STANDARD[:2])
    return len(correct.y), broken_by.count("")


def main() -> None:
    """Prints a row for each checkpoint, and how each attack's order agrees with AutoAttack's."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--root", required=True, help="the folder of CIFAR-10's train and test folders")
    words.add_argument("--images", type=int, default=500, help="held-out images")
    words.add_argument("--epochs", type=int, default=8)
    words.add_argument("--width", type=float, default=0.5)
    options = words.parse_args()
    compute_with(torch.get_num_threads())
    print(f"{'recipe':32} {'epoch':>5} {'clean':>6} {'PGD-10':>6} {'margin':>6} {'APGD':>6}, % of {options.images}")
    jobs, found = {name: job_of(recipe, options) for name, recipe in RECIPES.items()}, []
    data = prepared(jobs["N-FGSM"], Display())
    held_out = open_split(data, "validation", "training")
    some = chosen(held_out.card.count, options.images, 0)
    batches = list(shard(open_reader(held_out, "memory"), some, 125, World()))
    for name, job in jobs.items():
        for epoch, model in trained(job, data):
            by_rivals = [sum(robust(model, batch, attack) for batch in batches) for attack in RIVALS.values()]
            clean, left = (sum(counts) for counts in zip(*(robust_to_apgd(model, b) for b in batches), strict=True))
            found.append((*by_rivals, left))
            shares = " ".join(f"{100 * count / options.images:6.1f}" for count in (clean, *found[-1]))
            print(f"{name:32} {epoch:5} {shares}", flush=True)
    *by_rivals, truth = (np.array(column) for column in zip(*found, strict=True))
    for loss, counts in zip(RIVALS, by_rivals, strict=True):
        lost = 100 * (truth.max() - truth[counts.argmax()]) / options.images
        print(
            f"PGD-10 on {loss}: Kendall's tau {kendalltau(counts, truth)[0]:.2f}; {lost:.1f} points lost by its "
            f"choice; it overrates by {100 * (counts - truth).min() / options.images:.1f} to "
            f"{100 * (counts - truth).max() / options.images:.1f}"
        )


if __name__ == "__main__":
    main()

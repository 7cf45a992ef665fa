"""AutoAttack by distrib's evaluation against the package called directly: seconds, and the outcome of every image.

The package is pyautoattack, which distrib's evaluation uses too (Croce's own, auto-attack, is on no package index). A
small network is trained on the digits first, in this process. Then, on the same images with the same seed:

    package      run_standard_evaluation on all images in one batch, with every core
    one shard    distrib run (kind: evaluate), one worker with all cores, one shard of all images: the same batch
    sharded      the same job, a worker a core, a shard a worker

The package draws its random numbers a batch at a time, so the outcomes of one shard must be those of the package
exactly; sharded draws other numbers, and may differ where a random start or a random square decides.
"""

import csv
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.bench.loops import built
from benchmarks.bench.report import Options, Table
from benchmarks.bench.runs import run
from distrib import checkpoints, trainer
from distrib.commands.models import ModelFinder
from distrib.commands.prepare import prepared
from distrib.config.file import parse
from distrib.config.job import Evaluate, Train, digest, dump
from distrib.data.beton import open_split
from distrib.data.order import chosen
from distrib.evaluation import autoattack
from distrib.evaluation.points import points
from distrib.processor import usable_cpus
from distrib.tracking import client
from distrib.tracking.display import Display

THREAT = {"norm": "linf", "epsilon": 0.2}


@dataclass(frozen=True)
class Judged:
    """What one of the three came to."""

    attack: float
    """Seconds of the attack."""
    whole: float
    """Seconds of the whole command."""
    stood: dict[int, int]
    """1 for each image that stands, by its index."""


def measure(options: Options) -> list[Table]:
    """One table: seconds and outcomes of the three."""
    cores, n = usable_cpus(), 20 if options.quick else 200
    with tempfile.TemporaryDirectory(prefix="distrib-bench-") as room:
        folder = Path(room)
        images = {
            "data": {"source": "digits", "store": str(folder / "betons")},
            "loader": "memory" if options.quick else "auto",
        }
        model = _trained(folder, images, 2 if options.quick else 30)
        job = {
            "kind": "evaluate", "name": "package", "model": str(model), "attach": False, **images,
            "storage": str(folder / "runs"),
            "evaluation": {"threat": THREAT, "n": n, "attacks": [{"attack": "autoattack"}]},
        }  # fmt: skip
        found = {"package": _package(job, cores)}
        for name, size, cluster in (
            ("one shard", n, {"num_workers": 1, "cpus_per_worker": cores}),
            ("sharded", -(-n // cores), {"num_workers": cores}),
        ):
            evaluation = job["evaluation"] | {"shard_size": size}
            sharded = job | {"name": name.replace(" ", "-"), "evaluation": evaluation, "cluster": cluster}
            found[name] = _command(sharded, folder)
    package = found["package"]
    rows = [
        (
            name, f"{one.attack:.1f}", f"{one.attack / package.attack:.2f}", f"{one.whole:.1f}",
            f"{sum(one.stood.values())} of {len(one.stood)}",
            str(sum(stood != package.stood[index] for index, stood in one.stood.items())),
        )
        for name, one in found.items()
    ]  # fmt: skip
    header = ("by", "attack, s", "times the package", "whole command, s", "images that stand", "other outcomes")
    return [Table("AutoAttack (standard).", f"small_cnn on digits, {n} test images, {cores} cores.", header, rows)]


def _trained(folder: Path, images: dict, epochs: int) -> Path:
    """The checkpoint of a small robust network."""
    job = {
        "kind": "train", "name": "small", **images, "model": {"arch": "small_cnn"},
        "objective": {"method": "madry", "threat": THREAT, "epsilon_warmup_epochs": epochs / 2},
        "optim": {"name": "adam", "lr": 4e-3, "epochs": epochs, "batch_size": 64},
        "validation": {"max_examples": 20},
    }  # fmt: skip
    train = parse(job, [], "the benchmark's job")
    assert isinstance(train, Train)
    train = train.resolved()
    state, loader, validation = built(train, prepared(train, Display()))
    reports = trainer.epochs(state, loader, train.objective, train.seed, validation)
    history = [report.metrics for report in reports if isinstance(report, trainer.EpochEnd)]
    stored = checkpoints.folder_for(folder / "trained", epochs)
    return checkpoints.save_checkpoint(state, stored, history, dump(train), digest(train)).folder


def _package(job: dict, cores: int) -> Judged:
    """The package itself."""
    from pyautoattack import AutoAttack

    whole = parse(job, [], "the benchmark's job")
    assert isinstance(whole, Evaluate)
    plan, display, cpu = whole.resolved().plan, Display(), torch.device("cpu")
    test = open_split(prepared(whole, display), "test", "evaluation")
    order = chosen(test.card.count, job["evaluation"]["n"], plan.seed)
    x, y, index = points(test.folder, whole.loader, cores, order, cpu)
    found = ModelFinder(test, whole.loader, client.address(None), False, display.say).at(job["model"])
    model = found.load(cpu).requires_grad_(False)
    norm, epsilon, threads = autoattack.package_norm(plan.threat), plan.threat.epsilon, torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        began = time.perf_counter()
        attack = AutoAttack(model, norm=norm, eps=epsilon, seed=plan.seed, device=cpu, version="standard")
        assert tuple(attack.attacks_to_run or ()) == autoattack.STANDARD
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
        seconds = time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)
    with torch.no_grad():
        stood = model(x_adv).argmax(dim=1) == y
    return Judged(seconds, seconds, dict(zip(index.tolist(), stood.int().tolist(), strict=True)))


def _command(job: dict, folder: Path) -> Judged:
    """``distrib run``. The attack's seconds are the shards' own by the number of workers: wall time, evenly loaded."""
    ran = run(job, folder)
    with (Path(ran.result["card"]).parent / "examples.csv").open() as table:
        stood = {int(row["index"]): int(row["worst"]) for row in csv.DictReader(table)}
    seconds = ran.result["attack_seconds"]["autoattack"] / job["cluster"]["num_workers"]
    return Judged(seconds, ran.seconds, stood)

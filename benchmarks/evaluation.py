"""The evaluator's AutoAttack against the package called directly: the same fates, and how long each takes.

    python benchmarks/evaluation.py --model models:/mnist@champion --data mnist --root DEST --epsilon 0.3 --n 500

Three runs on the same images and seed, one after the other, each with every core of this machine:

    direct      pyautoattack's run_standard_evaluation on all images in one batch
    one shard   distrib run (kind: evaluate), one worker with all cores, one shard of all images: the same batch
    sharded     distrib run, a worker a core, --shard-size images a shard

pyautoattack draws its random numbers a batch at a time, so the fates of "one shard" must equal those of "direct"
exactly; "sharded" draws other numbers, and may differ where a random start or a random square decides.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

from distrib.commands.models import ModelFinder
from distrib.commands.prepare import prepared
from distrib.config.file import parse
from distrib.data.beton import open_split
from distrib.data.order import chosen
from distrib.evaluation import autoattack
from distrib.evaluation.points import points
from distrib.tracking import client
from distrib.tracking.display import Display


def main() -> None:
    """Runs the three and prints them side by side."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", required=True)
    words.add_argument("--data", default="mnist")
    words.add_argument("--root", default="data")
    words.add_argument("--norm", default="linf")
    words.add_argument("--epsilon", default="0.3")
    words.add_argument("--n", type=int, default=500)
    words.add_argument("--shard-size", type=int, default=250)
    words.add_argument("--seed", type=int, default=0)
    options = words.parse_args()
    cores = len(os.sched_getaffinity(0))
    uri = client.address(None)
    data = {"source": options.data, **({"root": options.root} if options.data != "digits" else {})}
    job = {
        "kind": "evaluate", "name": "benchmark", "model": options.model, "data": data, "attach": False,
        "evaluation": {
            "threat": {"norm": options.norm, "epsilon": options.epsilon}, "n": options.n, "seed": options.seed,
            "attacks": [{"attack": "autoattack"}],
        },
    }  # fmt: skip
    seconds, whole, fates = {}, {}, {}
    seconds["direct"], fates["direct"] = direct(job, uri, cores)
    whole["direct"] = seconds["direct"]
    for name, size, cluster in (
        ("one shard", options.n, {"num_workers": 1, "cpus_per_worker": cores}),
        ("sharded", options.shard_size, {"num_workers": cores}),
    ):
        job["evaluation"]["shard_size"] = size
        seconds[name], whole[name], fates[name] = by_distrib(job | {"cluster": cluster})
    print(
        f"{options.model}, {options.norm} epsilon {options.epsilon}, n {options.n}, seed {options.seed}, {cores} cores"
    )
    for name, found in fates.items():
        other = [index for index, stood in found.items() if stood != fates["direct"][index]]
        print(
            f"{name:10} attack {seconds[name]:7.1f} s  {seconds[name] / seconds['direct']:.2f} of direct, "
            f"whole command {whole[name]:7.1f} s  robust "
            f"{sum(found.values()) / len(found):.2%}  fates other than direct: {len(other)} {other[:10]}"
        )


def direct(job: dict, uri: str, cores: int) -> tuple[float, dict[int, int]]:
    """(seconds, 1 for each image that stands) of the package itself."""
    from pyautoattack import AutoAttack

    torch.set_num_threads(cores)
    whole = parse(job, [], "benchmark")
    suite, display = whole.evaluation, Display()
    folder = prepared(whole, display)
    test = open_split(folder, "test", "evaluation")
    order = chosen(test.card.count, suite.n, suite.seed)
    cpu = torch.device("cpu")
    x, y, index = points(folder, "auto", cores, order, cpu)
    model = ModelFinder(test, whole.loader, uri, False, display.say).at(job["model"]).load(cpu)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    norm = autoattack.package_norm(suite.threat)
    began = time.perf_counter()
    attack = AutoAttack(model, norm=norm, eps=suite.threat.epsilon, seed=suite.seed, device=cpu, version="standard")
    assert tuple(attack.attacks_to_run) == autoattack.STANDARD
    x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
    seconds = time.perf_counter() - began
    with torch.no_grad():
        stood = model(x_adv).argmax(dim=1) == y
    return seconds, dict(zip(index.tolist(), stood.int().tolist(), strict=True))


def by_distrib(job: dict) -> tuple[float, float, dict[int, int]]:
    """(seconds of the attack, of the whole command, 1 for each image that stands) of ``distrib run``.

    The attack's are the sum over shards by the number of workers: wall time, if they are evenly loaded. The command's
    hold Ray's start, the probes of the model, the second look at the stored images, the card.
    """
    with tempfile.TemporaryDirectory() as room:
        file = Path(room) / "job.yaml"
        file.write_text(yaml.safe_dump(job | {"storage": room}))
        words = [sys.executable, "-m", "distrib.cli", "run", str(file), "--json"]
        began = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, timeout=4 * 3600, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        whole = time.perf_counter() - began
        result = json.loads(done.stdout.splitlines()[-1])
        with (Path(result["card"]).parent / "examples.csv").open() as table:
            fates = {int(row["index"]): int(row["worst"]) for row in csv.DictReader(table)}
    return result["attack_seconds"]["autoattack"] / job["cluster"]["num_workers"], whole, fates


if __name__ == "__main__":
    main()

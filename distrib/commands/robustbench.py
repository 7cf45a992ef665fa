"""A judged run as RobustBench takes a model in: claim, weights under its names, network, AutoAttack's log."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distrib.checkpoints import verify
from distrib.commands.export import finished
from distrib.commands.prepare import must_be_the_same, prepared
from distrib.config.job import Train
from distrib.data.beton import open_split
from distrib.errors import InputError
from distrib.evaluation.models import MODEL_TYPE
from distrib.models.zoo import ZooNet, in_zoo
from distrib.threat import threat_of
from distrib.tracking.display import Display
from distrib.values import write_fraction

DEFINITION = """import torch
from robustbench.model_zoo.architectures.{zoo.module} import {zoo.classes}


class {name}Net({base}):
    def __init__(self):
        super().__init__({zoo.arguments}, num_classes={num_classes})
        self.register_buffer("mu", torch.tensor({mean}).view(-1, 1, 1), persistent=False)
        self.register_buffer("sigma", torch.tensor({std}).view(-1, 1, 1), persistent=False)

    def forward(self, x):
        return super().forward((x - self.mu) / self.sigma)
"""


def robustbench(run: Path, folder: Path, display: Display) -> dict[str, Any]:
    """Writes the model of the finished run in ``run`` to the new or empty ``folder``; what is claimed of it.

    Raises :class:`InputError` where AutoAttack did not judge it, or RobustBench has no such network or threat.
    """
    job, record, result = finished(run, folder)
    if "autoattack" not in result["attacks"] or result["norm"] == "l1":
        raise InputError(f"{run}: RobustBench takes what AutoAttack judged under Linf or L2; judge with tier: standard")
    states = Path(result["checkpoint"] if isinstance(job, Train) else job.model)
    if not (states / "state.json").exists():
        raise InputError(f"{run}: judged {states}, no checkpoint folder; judge the one that it was registered from")
    trained = verify(states)
    data = prepared(job, display)
    must_be_the_same(data, run)
    card = open_split(data, "test", "evaluation").card
    height, width, channels = card.image
    zoo = in_zoo(MODEL_TYPE.validate_python(trained.job["model"], strict=False), (channels, height, width))
    tensors = load_file(trained.judged)
    normalise = {part: tensors.pop(f"normalise.{part}").flatten().tolist() for part in ("mean", "std")}
    source = record["job"]["data"]
    dataset = source["source"] if "cifar" in source["source"] else Path(source.get("root", source["source"])).name
    threat = threat_of(result["norm"], result["epsilon"])
    claim = _claim(zoo, dataset, trained.job, result)
    name = re.sub(r"\W", "_", job.name).capitalize()
    place = folder / "model_info" / dataset / threat.title
    place.mkdir(parents=True)
    (place / f"{name}.json").write_text(json.dumps(claim, indent=2) + "\n")
    torch.save({zoo.theirs(one): tensor for one, tensor in tensors.items()}, folder / f"{name}.pt")
    base, *_ = zoo.classes.split(",")
    definition = DEFINITION.format(zoo=zoo, name=name, base=base, num_classes=len(card.classes), **normalise)
    (folder / "model.py").write_text(definition)
    (folder / "autoattack.log").write_text(_log(result, threat.title))
    text = files("distrib.commands").joinpath("robustbench.md").read_text()
    (folder / "README.md").write_text(text.format(model=name, norm=threat.title, **claim))
    return claim


def _claim(zoo: ZooNet, dataset: str, trained: dict, result: dict) -> dict[str, Any]:
    """A file of RobustBench's model_info; what no run knows is left empty."""
    n, before = result["attacks_n"]["autoattack"], _before(result)
    footnote = f"AutoAttack on {n} test images (seed {result['seed']})"
    footnote += f", of which it met what {', '.join(before)} had left." if before else "."
    return {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": bool(trained["data"].get("mix") or trained.get("init")),
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": "",
        "architecture": zoo.title,
        "eps": str(write_fraction(result["epsilon"])),
        "clean_acc": f"{result['clean_accuracy']:.2%}"[:-1],
        "reported": f"{result['attacks']['autoattack']:.2%}"[:-1],
        "autoattack_acc": f"{result['attacks']['autoattack']:.2%}"[:-1],
        "footnote": footnote,
        "unreliable": any(flag["blocking"] for flag in result["flags"]),
    }


def _before(result: dict) -> list[str]:
    """The attacks whose broken images AutoAttack did not meet."""
    names = list(result["attacks"])
    return names[: names.index("autoattack")] if "autoattack" in result["cumulative"] else []


def _log(result: dict, norm: str) -> str:
    """What AutoAttack's own logger would have written, as far as the run knows it."""
    lines = [f"using standard version including {', '.join(result['stages'])}"]
    lines += [f"initial accuracy: {result['clean_accuracy']:.2%} ({result['n_clean']} images)"]
    lines += [f"only images that {', '.join(before)} had left were attacked" for before in [_before(result)] if before]
    lines += [f"robust accuracy after {part.upper()}: {share:.2%}" for part, share in result["stages"].items()]
    lines += [f"max {norm} perturbation: {result['largest_change']['autoattack']:.5f}"]
    lines += [f"robust accuracy: {result['attacks']['autoattack']:.2%} ({result['attacks_n']['autoattack']} images)"]
    lines += [f"total time {result['attack_seconds']['autoattack']:.1f} s, on all workers together"]
    return "\n".join(lines) + "\n"

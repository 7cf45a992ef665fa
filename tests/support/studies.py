"""Models whose studies' outcomes are known, and studies from plain fields."""

import dataclasses
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from distrib.config.study import StudyOf
from distrib.studies.run import paper_study
from distrib.studies.task import PaperStudy, StudyFacts, StudyTask

STUDY = TypeAdapter(StudyOf)
THREAT = {"norm": "linf", "epsilon": 0.1}
FACTS = StudyFacts(num_classes=10, source="digits", fingerprints={}, training_losses={})
CAPACITY = {
    "kind": "study", "name": "c", "data": {"source": "digits"},
    "study": {
        "of": "capacity", "model": {"arch": "small_cnn"}, "widths": [1, 0.25], "epsilon_warmup_epochs": 1,
        "threat": THREAT, "attack": {"num_steps": 3}, "optim": {"name": "sgd", "lr": 1, "epochs": 2, "batch_size": 64},
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Given:
    """A module as a subject."""

    module: nn.Module

    def load(self, device: torch.device) -> nn.Module:
        return self.module.eval()

    def content(self) -> bytes:
        return b"".join(one.numpy().tobytes() for one in self.module.state_dict().values())


class Linear(nn.Module):
    """Ten classes by fixed random weights, on 64 pixels."""

    def __init__(self, seed: int = 0, hide: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64, generator=torch.Generator().manual_seed(seed)))
        self.hide = hide

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 64).round() / 64 if self.hide else x  # no gradient
        return x.flatten(1) @ self.weight.T


def labelled(**models: str) -> list[dict]:
    return [{"label": label, "model": model} for label, model in models.items()]


def fields(**given: object) -> StudyOf:
    """The fields of a study, as a job file gives them."""
    return STUDY.validate_python(given, strict=False)


def read(**given: object) -> PaperStudy:
    """The study of these fields."""
    return paper_study(fields(**given))


def task(folder: Path, **modules: nn.Module) -> StudyTask:
    return StudyTask({name: Given(module) for name, module in modules.items()}, folder, "memory", 1, False)


def carried_out(study: PaperStudy, found: StudyTask, parts: list[tuple]) -> dict[tuple, dict]:
    return {one: study.part(found, one) for one in parts}


def clean_accuracy(model: nn.Module, folder: Path, count: int) -> float:
    """The model's accuracy on the first of the chosen images."""
    one = task(folder, m=model).batch(count, 0, 0, count)
    with torch.no_grad():
        return (model(one.x).argmax(1) == one.y).float().mean().item()

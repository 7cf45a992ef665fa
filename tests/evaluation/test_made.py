"""distrib.evaluation.made: how a model came to be, in words."""

import pytest
import torch
from pydantic import TypeAdapter

from distrib.evaluation.made import num_parameters, training_of
from distrib.objective import Objective

LINF = {"norm": "linf", "epsilon": "8/255"}


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"method": "natural"}, "natural (no adversary), epoch 3 of 10"),
        (
            {"method": "madry", "threat": LINF, "attack": {"num_steps": 7}},
            "madry against pgd-7 in linf 8/255, epoch 3 of 10",
        ),
        ({"method": "n_fgsm", "threat": LINF}, "n_fgsm against fgsm-rs in linf 8/255, epoch 3 of 10"),
    ],
)
def test_method_adversary_and_epoch(objective: dict, words: str):
    assert training_of(TypeAdapter(Objective).validate_python(objective, strict=False), 10, 3) == words


def test_parameters_are_what_is_learnt():
    assert num_parameters(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))) == 12

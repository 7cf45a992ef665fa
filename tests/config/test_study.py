"""What a study is told, and what is refused."""

import numpy as np
import pytest
from adversaries import lengths
from pydantic import ValidationError
from studies import CAPACITY, THREAT, fields, labelled

from distrib.attack import OfEpsilon


@pytest.mark.parametrize(
    ("attacks", "words"),
    [
        ([{"attack": "fgsm"}, {"attack": "fgsm"}], "the attack fgsm is listed twice"),
        ([{"attack": "fgsm", "n": 5}], "leave out their n and meets"),
        ([{"attack": "fgsm", "meets": "standing"}], "leave out their n and meets"),
    ],
)
def test_a_transfer_study_refuses_what_it_would_not_do(attacks: list[dict], words: str):
    with pytest.raises(ValidationError, match=words):
        fields(of="transfer", sources=labelled(a="x"), targets=labelled(b="y"), threat=THREAT, attacks=attacks)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"of": "landscape", "models": [], "threat": THREAT}, "at least 1 item"),
        (
            {"of": "landscape", "models": [{"label": "a", "model": "b"}], "threat": THREAT, "maxima": 900},
            "neither may be above",
        ),
        (
            {"of": "landscape", "models": [{"label": "a", "model": "b"}], "threat": THREAT, "attack": {"restarts": 2}},
            "a landscape is told num_steps, step_size and step_schedule",
        ),
        ({"of": "curves", "models": [{"label": "a", "model": "b"}]}, "linf, l2 or l1"),
        ({"of": "curves", "models": [{"label": "a", "model": "b"}], "linf": [0, 8]}, "did you mean 8/255"),
        ({"of": "curves", "models": [{"label": "a", "model": "b"}], "l2": [1, 2, 1]}, "listed twice"),
        ({"of": "curve", "models": [{"label": "a", "model": "b"}]}, "does not match any"),
        (
            {
                "of": "transfer",
                "sources": [{"label": "a", "model": "b"}],
                "targets": [{"label": "a", "model": "b"}],
                "threat": THREAT,
                "attacks": [],
            },
            "at least 1",
        ),
        (CAPACITY["study"] | {"widths": [1, 1.0]}, "listed twice"),
        (CAPACITY["study"] | {"epsilon_warmup_epochs": 2}, "never be full"),
    ],
)
def test_bad_studies_are_refused(given: dict, words: str):
    with pytest.raises(ValidationError, match=words):
        fields(**given)


def test_step_sizes_of_a_landscape_are_the_papers():
    study = fields(of="landscape", models=[{"label": "a", "model": "b"}], threat={"norm": "linf", "epsilon": 0.3})
    assert study.attack.step_size == OfEpsilon(of_epsilon=1 / 30)
    assert lengths(study.attack, study.threat) == pytest.approx([0.01] * study.attack.num_steps)
    assert np.isclose(study.threat.epsilon, 0.3)

"""distrib.evaluation.outcomes: what a shard keeps of its images."""

import json

import torch
from attacked import Build, attacked, batch, pixels, two_classes
from shards import FGSM, PGD_20, evaluation_of, shard

from distrib.evaluation.outcomes import ShardResult


def test_a_second_look_knows_what_nobody_attacked():
    """Of images that no attack was asked for, those misclassified as they are score below 0 and agree."""
    found = shard("1101", fgsm="10..")
    assert found.broken == [False, True, True, False]
    assert found.disagreeing([1.0, -1.0, -1.0, 1.0]) == []
    assert found.disagreeing([-1.0, 1.0, 1.0, -1.0]) == [0, 1, 2, 3]
    assert found.disagreeing([-1e-5, 1e-5, 1e-5, -1e-5]) == [], "float rounding"


def test_a_shard_survives_json(linear: Build):

    (model, _), x = two_classes(linear), pixels(6)
    result = attacked(model, batch(x, torch.zeros(6, dtype=torch.long)), evaluation_of(FGSM, PGD_20))
    again = ShardResult.of_json(json.loads(json.dumps(result.as_json())))
    assert again.as_json() == json.loads(json.dumps(result.as_json())) and again.clean == result.clean


def test_a_shard_of_before_the_attacked_classes_were_kept_is_read(linear: Build):
    plain = shard("101", fgsm="101", pgd_20="100").as_json()
    del plain["attacked"]
    found = ShardResult.of_json(plain)
    assert found.attacked == found.predicted and found.label == plain["label"]

"""distrib.evaluation.evidence: every image counts exactly once, however the shards come."""

from itertools import permutations

import pytest
from shards import concluded, evaluation_of, result_of, shard

from distrib.errors import RunError
from distrib.evaluation.outcomes import ShardResult


def test_the_result_does_not_depend_on_how_and_when_shards_come():
    parts = [shard("110", [0, 1, 2], fgsm="100", pgd_20="110"), shard("11", [3, 4], fgsm="11", pgd_20="01"),
             shard("1", [5], fgsm="1", pgd_20="1")]  # fmt: skip
    one = shard("110111", fgsm="100111", pgd_20="110011")
    figures = [result_of(*order).model_dump(exclude={"attack_seconds"}) for order in permutations(parts)]
    assert all(found == result_of(one).model_dump(exclude={"attack_seconds"}) for found in figures)


BAD = {
    "one missing": ([shard("11", [0, 1], fgsm="11", pgd_20="11")], 3),
    "one too many": ([shard("11", [0, 1], fgsm="11", pgd_20="11")], 1),
    "a shard twice": ([shard("11", fgsm="11", pgd_20="11")] * 2, 2),
    "a shard twice, by count": ([shard("11", fgsm="11", pgd_20="11")] * 2, 4),
    "overlap": ([shard("11", [0, 1], fgsm="11", pgd_20="11"), shard("11", [1, 2], fgsm="11", pgd_20="11")], 4),
    "a gap": ([shard("11", [0, 2], fgsm="11", pgd_20="11")], 2),
    "one image at two places": ([shard("11", index=[5, 5], fgsm="11", pgd_20="11")], 2),
    "nothing": ([], 2),
}


@pytest.mark.parametrize(("shards", "count"), BAD.values(), ids=BAD.keys())
def test_every_image_counts_exactly_once_or_there_is_no_result(shards: list[ShardResult], count: int):
    with pytest.raises(RunError, match=f"each of the {count} images exactly once; no result"):
        concluded(shards, evaluation_of(), count, 10)

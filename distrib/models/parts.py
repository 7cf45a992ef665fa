"""The part of a batch that a worker gets: how small it may be."""

from distrib.models import Model
from distrib.models.batch_norm import Statistics

LEAST_IMAGES = 16
"""Of a network with BatchNorm, for each of several workers that go by their own images. PreActResNet of width 1/8 on
digits, batches of 64: 85.6 % robust with one worker, 84.9 % with eight (8 images each), 10.0 %, which is chance, with
32 (2 images each)."""


def check_parts(
    model: Model, batch_size: int, workers: int, statistics: Statistics = "synchronised", accumulate: int = 1
) -> None:
    """Raises ValueError unless ``workers`` can train ``model`` on their parts of global batches of ``batch_size``, each
    computed in ``accumulate`` parts again.
    """
    images = batch_size // workers // accumulate
    if images < 1 and accumulate == 1:
        raise ValueError(f"cluster.num_workers: {workers} workers cannot share batches of {batch_size}")
    if images < 1:
        raise ValueError(
            f"optim.accumulate: {workers} workers cannot compute batches of {batch_size} in {accumulate} parts each; "
            "take fewer"
        )
    local = workers > 1 and statistics == "local"  # alone, a worker sees the batch that the job names
    seen = images if local else batch_size // accumulate
    if not model.batch_norm or seen >= (LEAST_IMAGES if local or accumulate > 1 else 2):
        return
    if accumulate > 1:
        raise ValueError(
            f"optim.accumulate: {accumulate} parts of {seen} images each, and {model.arch} has BatchNorm, which "
            f"normalises by the statistics of a part: fewer than {LEAST_IMAGES} give another network, or none; take at "
            f"most {max(1, accumulate * seen // LEAST_IMAGES)}, or raise optim.batch_size"
        )
    if not local:
        raise ValueError(
            f"optim.batch_size: {model.arch} has BatchNorm, which cannot be trained on one image at a time; "
            f"raise it to {LEAST_IMAGES} or more"
        )
    raise ValueError(
        f"cluster.num_workers: {workers} workers have {images} of {batch_size} images each, and {model.arch} has "
        f"BatchNorm: each worker normalises by the statistics of its own images, and fewer than {LEAST_IMAGES} give "
        f"another network, or none; set batch_norm: synchronised, or take at most "
        f"{max(1, batch_size // LEAST_IMAGES)}, or raise optim.batch_size to {LEAST_IMAGES * workers}"
    )

"""The part of a batch that a worker gets: how small it may be."""

from distrib.models import Model

LEAST_IMAGES = 16
"""Of a network with BatchNorm, for each of several workers. PreActResNet of width 1/8 on digits, batches of 64: 85.6 %
robust with one worker, 84.9 % with eight (8 images each), 10.0 %, which is chance, with 32 (2 images each)."""


def check_parts(model: Model, batch_size: int, workers: int) -> None:
    """Raises ValueError unless ``workers`` can train ``model`` on their parts of global batches of ``batch_size``."""
    images = batch_size // workers
    if images < 1:
        raise ValueError(f"cluster.num_workers: {workers} workers cannot share batches of {batch_size}")
    least = 2 if workers == 1 else LEAST_IMAGES  # alone, a worker sees the batch that the job names
    if images >= least or not model.batch_norm:
        return
    if workers == 1:
        raise ValueError(
            f"optim.batch_size: {model.arch} has BatchNorm, which cannot be trained on one image at a time; "
            f"raise it to {LEAST_IMAGES} or more"
        )
    raise ValueError(
        f"cluster.num_workers: {workers} workers have {images} of {batch_size} images each, and {model.arch} has "
        f"BatchNorm: each worker normalises by the statistics of its own images, and fewer than {LEAST_IMAGES} give "
        f"another network, or none; take at most {max(1, batch_size // LEAST_IMAGES)}, or raise optim.batch_size to "
        f"{LEAST_IMAGES * workers}"
    )

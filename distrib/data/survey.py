"""The three splits of a source, cut, and read once before anything is written: what they hold, and that they differ."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from distrib.data.samples import Samples, centre_of, centred, combined
from distrib.data.source import DataSource
from distrib.data.split import Split, limited, stratified
from distrib.errors import DataError

MOST_EQUAL = 0.1
"""The share of test images that may also be trained on: known sets hold a few twice."""


@dataclass(frozen=True)
class Survey:
    """What reading every sample of one split told."""

    content_sha256: str
    """Of pixels and labels in order."""
    mean: tuple[float, ...]
    """Per channel, pixels in [0, 1], of the set's own images."""
    std: tuple[float, ...]
    images: list[bytes]
    """A hash of each image's pixels, as networks see them when they are judged."""


def split_samples(data: DataSource) -> dict[Split, Samples]:
    """The three splits of a source: those that are judged on are cut to what networks see, where more is stored.

    Raises :class:`DataError` where they do not fit together.
    """
    whole, test = data.open("train"), data.open("test")
    if test.classes != whole.classes:
        other = ", ".join(sorted(set(test.classes) ^ set(whole.classes))) or "their order"
        raise DataError(f"{test.name}: other classes than {whole.name} ({other}); mend the folders")
    if test.shape != whole.shape:
        raise DataError(
            f"{test.name}: images {list(test.shape)}, but {whole.name} has {list(whole.shape)}; set data.size"
        )
    chosen = np.arange(len(whole)) if data.limit is None else limited(whole.labels, data.limit, data.split_seed)
    train, validation = stratified(whole.labels[chosen], data.validation, data.split_seed)
    extras = [one.open(whole.classes, whole.shape) for one in data.mix]
    return {
        "train": combined(_subset(whole, chosen[train], "train"), extras),
        "validation": centred(replace(_subset(whole, chosen[validation], "validation"), remark=whole.remark), data.cut),
        "test": centred(test, data.cut),
    }


def _subset(samples: Samples, chosen: np.ndarray, name: str) -> Samples:
    return Samples(
        f"{samples.name} ({name})", samples.classes, samples.labels[chosen],
        partial(_indirect, samples.image, chosen), samples.shape,
    )  # fmt: skip


def _indirect(image: Callable[[int], np.ndarray], chosen: np.ndarray, i: int) -> np.ndarray:
    return image(int(chosen[i]))


def surveyed(samples: dict[Split, Samples], say: Callable[[str], None]) -> dict[Split, Survey]:
    """Reads every split once, and says what was done with the source's files.

    Raises :class:`DataError` where an image cannot be read, or too many are in the test split and in another one.
    """
    found: dict[Split, Survey] = {}
    for split, part in samples.items():
        found[split] = _survey(part, samples["test"].shape[:2])
        if remark := part.remark():
            say(f"data: {remark}")
    known = {*found["train"].images, *found["validation"].images}
    count, equal = len(samples["test"]), sum(image in known for image in found["test"].images)
    told = f"{equal} of {count} test images are equal, pixel for pixel, to images of the train part"
    if equal > MOST_EQUAL * count:
        raise DataError(
            f"{samples['test'].name}: {told}; a test on what was trained on says nothing: at most {MOST_EQUAL:.0%} are "
            "allowed; take them out of one of the two"
        )
    if equal:
        say(f"data: {told}")
    return found


def _survey(samples: Samples, seen_size: tuple[int, int]) -> Survey:
    seen = hashlib.sha256()
    images = []
    total = np.zeros(samples.shape[2])
    squares = np.zeros(samples.shape[2])
    for i in range(len(samples)):
        image, label = samples[i]
        content = image.tobytes()
        images.append(hashlib.blake2b(centre_of(image, seen_size).tobytes(), digest_size=16).digest())
        seen.update(content + label.to_bytes(8, "little"))
        if i < samples.own:
            pixels = image.reshape(-1, samples.shape[2]) / 255.0
            total += pixels.mean(axis=0)
            squares += (pixels**2).mean(axis=0)
    mean = total / samples.own
    std = np.sqrt(np.maximum(squares / samples.own - mean**2, 0))
    return Survey(seen.hexdigest(), tuple(mean.tolist()), tuple(std.tolist()), images)

"""The data of a job, packed where it is not packed yet."""

from pathlib import Path

from distrib.config.job import Evaluate, Prepare, Study, Train, Training, digest, dump
from distrib.config.study import CapacityStudy, LandscapeStudy
from distrib.data.beton import open_split
from distrib.data.loader import resolve
from distrib.data.order import sizes_of
from distrib.data.packing import folder_of, prepare
from distrib.data.source import DataSource, TorchvisionData
from distrib.data.split import SPLITS
from distrib.errors import DataError, JobError
from distrib.models import CustomNet
from distrib.tracking.display import Display
from distrib.tracking.folder import nothing_done, read_data, read_record, write_data


def run_prepare(job: Prepare, display: Display) -> dict:
    """Packs the data; the result lists the splits."""
    folder = prepared(job, display)
    cards = [open_split(folder, split, "evaluation").card for split in SPLITS]
    return {
        "kind": "prepare",
        "folder": str(folder),
        "splits": {
            card.split: {"count": card.count, "encoding": card.encoding, "sha256": card.sha256} for card in cards
        },
        "classes": len(cards[0].classes),
        "image": list(cards[0].image),
        "mean": list(cards[0].mean),
        "std": list(cards[0].std),
    }


def prepared(job: Prepare | Training | Evaluate | Study, display: Display) -> Path:
    """The folder of the job's betons, made now if it is not there."""
    must_be_there(job.data)
    packing = resolve(job.loader)
    if packing == "memory" and job.loader == "auto":
        display.say("warning: ffcv cannot be imported here; images are kept in memory instead (see distrib doctor)")
    implied = Prepare(kind="prepare", data=job.data, loader=job.loader)
    return prepare(job.data, packing, dump(implied), digest(implied), display.say)


def prepared_for(job: Training | Evaluate | Study, folder: Path, display: Display) -> Path:
    """The folder of the job's betons, if they hold the images that the run in ``folder`` began with.

    Raises :class:`JobError` otherwise.
    """
    data = prepared(job, display)
    must_be_the_same(data, folder)
    # of a set's own files where they are here: the card of a read-only store may have one of older code
    source = job.data.fingerprint() if isinstance(job.data, TorchvisionData) else ""
    source = source or open_split(data, "train", "evaluation").card.fingerprint
    write_data(folder, _hashes(data) | {"source": source})
    return data


def must_be_the_same(data: Path, folder: Path) -> None:
    """Raises :class:`JobError` where the run in ``folder`` began with other images than those of ``data``."""
    begun = read_data(folder) if read_record(folder) is not None and not nothing_done(folder) else None
    now = _hashes(data)
    other = [split for split in SPLITS if begun is not None and begun.get(split) != now[split]]
    if other:
        raise JobError(
            f"data: the images ({', '.join(other)}) are not those that the run in {folder} began with; put those back, "
            "choose another name (--set name=...), or delete that folder"
        )


def must_be_callable(part: object) -> None:
    """Raises :class:`JobError` where the function that builds one's own network is not found. It imports its module."""
    model = getattr(part, "model", None)
    if isinstance(model, CustomNet):
        model.function()


def must_be_there(data: DataSource) -> None:
    """Raises :class:`DataError` where the data are neither packed nor in their place; nothing is touched."""
    missing = data.missing()
    if missing and not folder_of(data).is_dir():
        raise DataError(missing)


def must_fill(data: Path, source: DataSource, batch_size: int, field: str) -> None:
    """Raises :class:`JobError` where the images of the train split do not fill one batch, or one that it mixes has
    no place in it."""
    for one, size in zip((source, *source.mix), sizes_of(batch_size, [one.share for one in source.mix]), strict=True):
        if size < 1:
            raise JobError(
                f"{field}: batches of {batch_size} have no place for {one.source}, by the shares of data.mix; raise it"
            )
    count = open_split(data, "train", "training").card.own
    if batch_size > count:
        raise JobError(
            f"{field}: batches of {batch_size} images, but there are {count} to train on; set it to {count} or less"
        )


def must_suffice(job: Train | Study | Evaluate | Prepare, data: Path) -> None:
    """Raises :class:`JobError` where ``job`` asks for more images than the betons in ``data`` hold."""
    match job:
        case Train():
            must_fill(data, job.data, job.optim.batch_size, "optim.batch_size")
        case Study(study=CapacityStudy() as study):
            must_fill(data, job.data, study.optim.batch_size, "study.optim.batch_size")
        case Study(study=LandscapeStudy() as study):
            count = open_split(data, "test", "evaluation").card.count
            if study.examples > count:
                raise JobError(f"study.examples: {study.examples} images, but the test split has {count}")


def _hashes(data: Path) -> dict[str, str]:
    return {split: open_split(data, split, "evaluation").card.content_sha256 for split in SPLITS}

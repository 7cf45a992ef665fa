"""What a job would do, found out without touching anything."""

import os
import shutil

from distrib import checkpoints
from distrib.cluster.resources import address_of, must_fit
from distrib.commands.prepare import must_be_there, must_suffice
from distrib.config.differences import differences
from distrib.config.file import job_yaml
from distrib.config.job import AnyJob, Prepare, Run, Train, Tune, digest, with_data
from distrib.data.beton import open_split
from distrib.data.loader import resolve
from distrib.data.packing import folder_of
from distrib.errors import JobError
from distrib.search import space
from distrib.search.space import must_suffice_for_all
from distrib.tracking import client
from distrib.tracking.folder import (
    NATURAL,
    ROBUST,
    home,
    nothing_done,
    read_record,
    read_result,
    resuming,
    with_versions,
)


def plan(job: AnyJob) -> str:
    """The resolved job as YAML, and below it, as comments, what it would need. Raises :class:`JobError`."""
    whole = job if isinstance(job, Prepare) else job.resolved()
    trials = _search(whole) if isinstance(whole, Tune) else []
    notes = [f"digest: {digest(whole)}", *_data(whole), *trials]
    if not isinstance(whole, Prepare):
        notes += _run(whole)
    return job_yaml(whole) + "".join(f"# {note}\n" for note in notes)


def _data(whole: AnyJob) -> list[str]:
    with with_data(whole) as job:
        folder = folder_of(job.data)
        loader = f"loader: {resolve(job.loader)}"
        if not folder.is_dir():
            must_be_there(job.data)
    if folder.is_dir():
        card = open_split(folder, "train", "training").card
        must_suffice_for_all(whole, folder) if isinstance(whole, Tune) else must_suffice(whole, folder)
        return [loader, f"data: {folder} is prepared ({card.count} training images {'x'.join(map(str, card.image))})"]
    free = shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free
    root = getattr(job.data, "root", None)
    there = "" if root is None else f" from {root}"
    return [loader, f"data: would be prepared{there} in {folder} ({free >> 30} GiB free)"]


def _search(job: Tune) -> list[str]:
    space.check_space(job)
    known = space.drawn(job)
    if known is None:
        return [f"search: {job.search.num_trials} trials, each chosen by Optuna"]  # pyright: ignore[reportAttributeAccessIssue]
    return [
        f"search: {len(known)} trials",
        *(f"  {number}: {space.told(job, one)}" for number, one in enumerate(known, 1)),
    ]


def _run(job: Run) -> list[str]:
    folder = home(job)
    record = read_record(folder)
    pins = (record or {}).get("pins", {})
    if (
        record is not None
        and not nothing_done(folder)
        and differences(with_versions(job, lambda alias: pins.get(alias, alias)), record["job"])
    ):
        raise JobError(f"name: {job.name!r} is the run of another job, kept in {folder}; choose another name")
    state = "would start anew"
    if read_result(folder) is None:
        must_fit(job.cluster, resuming(folder))
    if read_result(folder) is not None:
        moved = f" (of {', '.join(pins.values())}; refused, if {', '.join(pins)} has moved since)" if pins else ""
        state = f"is complete; nothing would be done{moved}"
    elif isinstance(job, Train):
        done = [checkpoints.stored_epochs(folder / phase) for phase in (ROBUST, NATURAL)]
        newest = next((epochs[-1] for epochs in done if epochs), 0)
        state = f"would go on after epoch {newest} of {job.optim.epochs}" if newest else state
    workers, each = job.cluster.max_workers, job.cluster.cpus_per_worker
    address = address_of(job.cluster) or f"a local one, of this machine's {os.cpu_count()} CPUs"
    return [
        f"run: {folder} {state}",
        f"cluster: {address}; {workers} workers x {each} CPUs = {workers * each} CPUs",
        f"tracking: {client.address(job.tracking.uri)}",
    ]

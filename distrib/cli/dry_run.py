"""What a job would do, found out without touching anything."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from distrib import checkpoints
from distrib.cluster.resources import address_of, must_fit
from distrib.commands.models import stored_at
from distrib.commands.prepare import must_be_callable, must_be_there, must_suffice
from distrib.commands.tensors import read_tensors
from distrib.config.file import job_yaml
from distrib.config.job import AnyJob, Evaluate, Prepare, Run, Study, Train, Tune, digest, with_data
from distrib.data.beton import open_split
from distrib.data.loader import resolve
from distrib.data.packing import folder_of
from distrib.errors import InputError, RegistryError
from distrib.evaluation import frozen
from distrib.evaluation.attacks import EvaluationAttack, Stored, Transfer
from distrib.registry import listing
from distrib.search import space
from distrib.search.space import must_suffice_for_all
from distrib.tracking import client
from distrib.tracking.folder import (
    NATURAL,
    ROBUST,
    home,
    kept_pins,
    must_be_its_own,
    read_record,
    read_result,
    resuming,
    with_versions,
)


def plan(job: AnyJob) -> Iterator[str]:
    """The resolved job as YAML, and below it, as comments, what it would need.

    All of it comes, also where something is missing; then the first error is raised that the run would end with before
    it starts: an :class:`InputError`.
    """
    whole = job if isinstance(job, Prepare) else job.resolved()
    yield f"{job_yaml(whole)}# digest: {digest(whole)}\n"
    refused: list[InputError] = []
    for notes in _parts(whole):
        try:
            for note in notes:
                yield f"# {note}\n"
        except InputError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _parts(whole: AnyJob) -> list[Iterator[str]]:
    """What there is to say, in the order in which a run refuses."""
    if isinstance(whole, Prepare):
        return [_data(whole)]
    attacks = _attacks(whole)
    models = _models(whole, attacks)
    aliases = [one for one in models if one.startswith("models:") and "@" in one]
    parts = [_found(whole, aliases), _run(whole)]
    if read_result(home(whole)) is not None and not isinstance(whole, Tune):  # of a search, the winner may be left
        return parts
    if isinstance(whole, Tune):
        parts.append(_search(whole))
    others = [one for one in models if one not in aliases]
    return [*parts, _cluster(whole), _data(whole), _found(whole, others), _sets(attacks), _limits()]


def _attacks(whole: Run) -> Sequence[EvaluationAttack]:
    match whole:
        case Tune():
            return whole.train.evaluation.attacks
        case Train() | Evaluate():
            return whole.evaluation.attacks
        case _:
            return ()


def _models(whole: Run, attacks: Sequence[EvaluationAttack]) -> list[str]:
    """The address of every model that the job names."""
    named = [whole.model] if isinstance(whole, Evaluate) else []
    if isinstance(whole, Study):
        named = [one.model for key in ("models", "sources", "targets") for one in getattr(whole.study, key, ())]
    return list(dict.fromkeys([*named, *(one.source for one in attacks if isinstance(one, Transfer))]))


def _found(whole: Run, models: Sequence[str]) -> Iterator[str]:
    uri = client.address(whole.tracking.uri)
    pins = kept_pins(whole, uri)
    for address in models:
        if address == getattr(whole, "model", None) and getattr(whole, "network", None) is not None:
            read_tensors(Path(address), "model")
            yield f"model: {address} is there"
        elif not address.startswith("models:"):
            stored_at(address, getattr(whole, "trust_pickle", False))
            yield f"model: {address} is there"
        elif unseen := _unseen(uri):
            yield f"model: {address} was not looked for: {unseen}"
        else:
            yield f"model: {address} is version {listing.find(pins.get(address, address), uri)[1].version}"


def _unseen(uri: str) -> str:
    """Why the registry cannot be looked into, found out by one short try; empty where it can."""
    try:
        with client.briefly():
            if client.is_there(uri):
                client.connect(uri)
    except RegistryError as error:
        return str(error).splitlines()[0]
    return ""


def _sets(attacks: Sequence[EvaluationAttack]) -> Iterator[str]:
    for one in attacks:
        if isinstance(one, Stored):
            frozen.identity(Path(one.path))
            yield f"images: {one.path} are there"


def _data(whole: AnyJob) -> Iterator[str]:
    with with_data(whole) as job:
        must_be_callable(job)
        yield f"loader: {resolve(job.loader)}"
        folder = folder_of(job.data)
        if not folder.is_dir():
            must_be_there(job.data)
    if folder.is_dir():
        card = open_split(folder, "train", "training").card
        must_suffice_for_all(whole, folder) if isinstance(whole, Tune) else must_suffice(whole, folder)
        yield f"data: {folder} is prepared ({card.own} training images {'x'.join(map(str, card.image))})"
        return
    free = shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free
    root = getattr(job.data, "root", None)
    there = "" if root is None else f" from {root}"
    yield f"data: would be prepared{there} in {folder} ({free >> 30} GiB free)"


def _search(job: Tune) -> Iterator[str]:
    space.check_space(job)
    known = space.known_settings(job)
    if known is None:
        yield f"search: {job.search.num_trials} trials, each chosen by Optuna"  # pyright: ignore[reportAttributeAccessIssue]
        return
    yield f"search: {len(known)} trials"
    yield from (f"  {number}: {space.told(job, one)}" for number, one in enumerate(known, 1))


def _run(job: Run) -> Iterator[str]:
    folder = home(job)
    pins = (read_record(folder) or {}).get("pins", {})
    must_be_its_own(with_versions(job, lambda alias: pins.get(alias, alias)), folder)
    state = "would start anew"
    if read_result(folder) is not None:
        moved = f" (of {', '.join(pins.values())}; refused, if {', '.join(pins)} has moved since)" if pins else ""
        state = f"is complete; nothing would be done{moved}"
    elif isinstance(job, Train):
        done = [checkpoints.stored_epochs(folder / phase) for phase in (ROBUST, NATURAL)]
        newest = next((epochs[-1] for epochs in done if epochs), 0)
        state = f"would go on after epoch {newest} of {job.optim.epochs}" if newest else state
    yield f"run: {folder} {state}"


def _cluster(job: Run) -> Iterator[str]:
    workers, each = job.cluster.max_workers, job.cluster.cpus_per_worker
    address = address_of(job.cluster) or f"a local one, of this machine's {os.cpu_count()} CPUs"
    yield f"cluster: {address}; {workers} workers x {each} CPUs = {workers * each} CPUs"
    yield f"tracking: {client.address(job.tracking.uri)}"
    if read_result(home(job)) is None:
        must_fit(job.cluster, resuming(home(job)))


def _limits() -> Iterator[str]:
    yield "not looked at: whether the cluster and MLflow take the job, what is in the images, whether a model fits them"

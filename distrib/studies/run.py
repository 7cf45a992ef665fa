"""A study from its job to its table, plots and sheet in MLflow. Finished parts are kept, and not done again.

STORAGE/NAME/
    job.json          the resolved job, its digest, the MLflow run
    data.json         the hash of each split's images
    CELL/             checkpoints of each training of a capacity study
    parts/            what each task found
    study/            table.csv, table.json, sheet.md, plots
    result.json       the study is complete
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from distrib import __version__, checkpoints
from distrib.cluster.map import map_tasks
from distrib.cluster.preflight import check_nodes
from distrib.cluster.resources import must_fit
from distrib.cluster.session import Resources, session
from distrib.commands.evaluate import subject_of
from distrib.commands.prepare import must_suffice, prepared_for
from distrib.commands.train import train
from distrib.config.job import Study, digest, dump
from distrib.config.study import CapacityStudy, CurvesStudy, LandscapeStudy, TransferStudy, addresses
from distrib.data.beton import open_split
from distrib.data.order import chosen
from distrib.evaluation.models import Subject, Weights, fingerprint
from distrib.files import write_bytes, write_json
from distrib.registry import versions
from distrib.studies import capacity, curves, landscape, transfer
from distrib.studies.findings import Findings
from distrib.studies.task import StudyTask
from distrib.tracking import client
from distrib.tracking.client import Tracker
from distrib.tracking.clock import Clock
from distrib.tracking.display import Display
from distrib.tracking.epochs import EpochLog
from distrib.tracking.folder import kept_result, resuming, run_folder
from distrib.tracking.tracker import tracked


def run_study(job: Study, display: Display) -> dict:
    """Carries a study out and returns its result as plain values. Raises :class:`DistribError`."""
    clock = Clock.start()
    job, pins = versions.pinned(job, client.address(job.tracking.uri), display.say)
    with run_folder(job) as folder:
        if (result := kept_result(job, folder, display)) is not None:
            return result
        must_fit(job.cluster, resuming(folder))
        data = prepared_for(job, folder, display)
        must_suffice(job, data)
        subjects = _given(job, data, display)
        with (
            session(job.cluster, display.say, resuming(folder)) as resources,
            tracked(job, folder, display, pins, resources.device) as tracker,
        ):
            check_nodes(resources, folder, data, job.cluster)
            journal = None
            if isinstance(job.study, CapacityStudy):
                subjects, journal = _trained(job, folder, data, tracker, resources, display, clock)
            findings = _findings(job, subjects, folder, data, resources, display)
            kept = folder / "study"
            kept.mkdir(exist_ok=True)
            files = findings.files(f"{job.study.of}: {job.name}")
            for name, content in files.items():
                write_bytes(kept / name, content)
            result = {
                "kind": "study",
                "name": job.name,
                "run_id": tracker.run_id,
                "study": job.study.of,
                "expectations": [one.model_dump() for one in findings.expectations],
                "rows": len(findings.rows),
                "folder": str(kept),
                "num_workers": resources.workers(job.cluster),
                "seconds": clock.seconds,
                "job_digest": digest(job),
            }
            with client.recorded(f"the study is done (kept in {kept})"):
                if journal is not None:
                    journal.settle()
                for name in files:
                    tracker.file(kept / name, "study")
                tracker.text(json.dumps(result, indent=2), "result.json")
        write_json(folder / "result.json", result)
        return result


def _given(job: Study, data: Path, display: Display) -> dict[str, Subject]:
    """The models that the study names."""
    match job.study:
        case LandscapeStudy() | CurvesStudy():
            models = addresses(job.study.models)
        case TransferStudy():
            models = transfer.labels(job.study)
        case CapacityStudy():
            models = {}
    test, uri = open_split(data, "test", "evaluation"), client.address(job.tracking.uri)
    fetched = {
        one: subject_of(one, test, job.loader, uri, job.trust_pickle, display) for one in dict.fromkeys(models.values())
    }
    subjects = {label: fetched[address] for label, address in models.items()}
    if isinstance(job.study, TransferStudy):
        transfer.must_have_black_box({label: fingerprint(one) for label, one in subjects.items()})
    return subjects


def _trained(
    job: Study, folder: Path, data: Path, tracker: Tracker, resources: Resources, display: Display, clock: Clock
) -> tuple[dict[str, Subject], EpochLog]:
    """The model of every cell of a capacity study, at the end of its training; what MLflow has not taken of that."""
    assert isinstance(job.study, CapacityStudy)
    phases = {cell: capacity.training(job, *terms) for cell, terms in capacity.cells(job.study).items()}
    journal = train(phases, next(iter(phases.values())), folder, data, tracker, resources, display, clock)
    card = open_split(data, "train", "training").card
    subjects: dict[str, Subject] = {}
    for cell, part in phases.items():
        stored = checkpoints.latest(folder / cell, display.say)
        assert stored is not None
        subjects[cell] = Weights.of(part.model.model_dump(mode="json"), card, stored.judged)
    return subjects, journal


def _findings(
    job: Study, subjects: dict[str, Subject], folder: Path, data: Path, resources: Resources, display: Display
) -> Findings:
    study, test = job.study, open_split(data, "test", "evaluation").card
    task = StudyTask(
        study,
        subjects,
        data,
        job.loader,
        job.cluster.cpus_per_worker,
        resources.use_gpu(job.cluster),
        job.cluster.stage,
    )

    def done(part: Callable, parts: list[tuple]) -> dict[tuple, dict]:
        return _parts(part, parts, task, job, folder / "parts", test.content_sha256, display)

    if isinstance(study, LandscapeStudy):
        return landscape.conclude(study, done(landscape.part, landscape.parts(study)))
    count = len(chosen(test.count, study.n, study.seed))
    match study:
        case CurvesStudy():
            found = done(curves.part, curves.parts(study, count))
            return curves.conclude(study, found, count, len(test.classes))
        case TransferStudy():
            found = done(transfer.part, transfer.parts(study, count))
            return transfer.conclude(
                study, found, count, job.data.source, {label: fingerprint(one) for label, one in subjects.items()}
            )
        case CapacityStudy():
            losses = {cell: checkpoints.history(folder / cell, display.say)[-1]["train_loss"] for cell in subjects}
            return capacity.conclude(study, done(capacity.part, capacity.parts(study, count)), losses)


def _parts(
    part: Callable, parts: list[tuple], task: StudyTask, job: Study, kept: Path, data_sha256: str, display: Display
) -> dict[tuple, dict]:
    """What every part found; the finished ones are read from ``kept``."""
    terms = [dump(job.study), _identities(task.subjects), data_sha256, __version__]
    key = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:16]
    files = {one: kept / f"{key}-{number:06d}.json" for number, one in enumerate(parts)}
    found = {one: read for one, file in files.items() if (read := _kept(file)) is not None}
    kept.mkdir(parents=True, exist_ok=True)
    left = [one for one in parts if one not in found]
    for one, result in map_tasks(part, task, left, job.cluster, task.cuda):
        write_json(files[one], result)
        found[one] = result
        display.advance(f"{job.study.of} study", len(found), len(parts), f"{len(found)} of {len(parts)} parts")
    display.end()
    return {one: found[one] for one in parts}


def _identities(subjects: dict[str, Subject]) -> dict[str, str]:
    return {label: hashlib.sha256(subject.content()).hexdigest() for label, subject in subjects.items()}


def _kept(file: Path) -> dict | None:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None

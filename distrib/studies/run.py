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
from pathlib import Path

from distrib import __version__, checkpoints
from distrib.cluster.map import map_tasks
from distrib.cluster.preflight import check_nodes
from distrib.cluster.resources import must_fit
from distrib.cluster.session import Resources, session
from distrib.commands.evaluate import subject_of
from distrib.commands.prepare import must_suffice, prepared_for
from distrib.commands.train import train
from distrib.config.job import Study, Train, digest, dump
from distrib.config.study import CapacityStudy, CurvesStudy, LandscapeStudy, StudyOf, TransferStudy
from distrib.data.beton import open_split
from distrib.evaluation.models import StoredModel, Weights, fingerprint
from distrib.files import write_bytes, write_json
from distrib.registry import versions
from distrib.studies.capacity import CapacityGrid
from distrib.studies.curves import AccuracyCurves
from distrib.studies.landscape import LossLandscape
from distrib.studies.task import PaperStudy, StudyFacts, StudyTask, study_part
from distrib.studies.transfer import TransferMatrix, must_have_black_box
from distrib.tracking import client
from distrib.tracking.clock import Clock
from distrib.tracking.display import Display
from distrib.tracking.epochs import EpochLog
from distrib.tracking.folder import kept_result, resuming, run_folder
from distrib.tracking.tracker import Tracker, tracked


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
        study = paper_study(job.study)
        models = study.models(job)
        trainings = {label: one for label, one in models.items() if isinstance(one, Train)}
        subjects = _fetched(job, {label: one for label, one in models.items() if isinstance(one, str)}, data, display)
        fingerprints = {}
        if isinstance(study, TransferMatrix):
            fingerprints = {label: fingerprint(one) for label, one in subjects.items()}
            must_have_black_box(fingerprints)
        with (
            session(job.cluster, display.say, resuming(folder)) as resources,
            tracked(job, folder, display, pins, resources.device) as tracker,
        ):
            check_nodes(resources, folder, data, job.cluster)
            journal = None
            if trainings:
                subjects, journal = _trained(trainings, folder, data, tracker, resources, display, clock)
            use_gpu, threads = resources.use_gpu(job.cluster), job.cluster.cpus_per_worker
            task = StudyTask(subjects, data, job.loader, threads, use_gpu, job.cluster.stage)
            found = _carried_out(job, study, task, folder / "parts", display)
            losses = {label: checkpoints.history(folder / label, display.say)[-1]["train_loss"] for label in trainings}
            classes = len(open_split(data, "test", "evaluation").card.classes)
            findings = study.conclude(found, StudyFacts(classes, job.data.source, fingerprints, losses))
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


def paper_study(study: StudyOf) -> PaperStudy:
    """The study that a job's fields ask for."""
    match study:
        case LandscapeStudy():
            return LossLandscape(study)
        case CapacityStudy():
            return CapacityGrid(study)
        case CurvesStudy():
            return AccuracyCurves(study)
        case TransferStudy():
            return TransferMatrix(study)


def _fetched(job: Study, models: dict[str, str], data: Path, display: Display) -> dict[str, StoredModel]:
    """The model at each address, by its label; an address that has several labels is fetched once."""
    test, uri = open_split(data, "test", "evaluation"), client.address(job.tracking.uri)
    found = {
        one: subject_of(one, test, job.loader, uri, job.trust_pickle, display) for one in dict.fromkeys(models.values())
    }
    return {label: found[address] for label, address in models.items()}


def _trained(
    trainings: dict[str, Train],
    folder: Path,
    data: Path,
    tracker: Tracker,
    resources: Resources,
    display: Display,
    clock: Clock,
) -> tuple[dict[str, StoredModel], EpochLog]:
    """The model of every training, at its end; what MLflow has not taken of that."""
    journal = train(trainings, next(iter(trainings.values())), folder, data, tracker, resources, display, clock)
    card = open_split(data, "train", "training").card
    subjects: dict[str, StoredModel] = {}
    for label, job in trainings.items():
        stored = checkpoints.latest(folder / label, display.say)
        assert stored is not None
        subjects[label] = Weights.of(job.model.model_dump(mode="json"), card, stored.judged)
    return subjects, journal


def _carried_out(job: Study, study: PaperStudy, task: StudyTask, kept: Path, display: Display) -> dict[tuple, dict]:
    """What every part found; the finished ones are read from ``kept``."""
    test = open_split(task.data, "test", "evaluation").card
    terms = [dump(job.study), _identities(task.subjects), test.content_sha256, __version__]
    key = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:16]
    parts = study.parts(test.count)
    files = {one: kept / f"{key}-{number:06d}.json" for number, one in enumerate(parts)}
    found = {one: read for one, file in files.items() if (read := _kept(file)) is not None}
    kept.mkdir(parents=True, exist_ok=True)
    left = [one for one in parts if one not in found]
    for one, result in map_tasks(study_part, (study, task), left, job.cluster, task.cuda):
        write_json(files[one], result)
        found[one] = result
        display.advance(f"{job.study.of} study", len(found), len(parts), f"{len(found)} of {len(parts)} parts")
    display.end()
    return {one: found[one] for one in parts}


def _identities(subjects: dict[str, StoredModel]) -> dict[str, str]:
    return {label: hashlib.sha256(subject.content()).hexdigest() for label, subject in subjects.items()}


def _kept(file: Path) -> dict | None:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None

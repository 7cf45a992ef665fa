"""A study, from its job to its table, plots and findings in MLflow. Finished parts are kept, and not done again."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from distrib import __version__, checkpoints
from distrib.cluster.map import map_tasks
from distrib.commands.opened import OpenRun, opened
from distrib.commands.prepare import must_suffice
from distrib.commands.train import train
from distrib.config.job import Study, Train, dump
from distrib.config.study import CapacityStudy, CurvesStudy, LandscapeStudy, StudyOf, TransferStudy
from distrib.data.beton import open_split
from distrib.errors import DistribError
from distrib.evaluation.models import StoredModel, Weights, fingerprint
from distrib.registry import versions
from distrib.studies.capacity import CapacityGrid
from distrib.studies.curves import AccuracyCurves
from distrib.studies.landscape import LossLandscape
from distrib.studies.task import PaperStudy, StudyFacts, StudyTask, study_part
from distrib.studies.transfer import TransferMatrix, must_have_black_box
from distrib.tracking import client
from distrib.tracking.display import Display
from distrib.tracking.folder import read_part, write_part


def run_study(job: Study, display: Display) -> dict:
    """Carries a study out and returns its result as plain values. Raises :class:`DistribError`."""
    with opened(job, display) as run:
        if run.result is not None:
            return run.result
        run.prepare()
        must_suffice(run.job, run.data)
        study = paper_study(run.job.study)
        models = study.models(run.job)
        trainings = {label: one for label, one in models.items() if isinstance(one, Train)}
        subjects = _fetched(run, {label: one for label, one in models.items() if isinstance(one, str)})
        fingerprints = {}
        if isinstance(study, TransferMatrix):
            fingerprints = {label: fingerprint(one) for label, one in subjects.items()}
            must_have_black_box(fingerprints)
        within = _trained_within(run, models) if isinstance(study, AccuracyCurves) else {}
        run.join()
        run.track()
        log = train(run, trainings) if trainings else None
        found = _carried_out(run, study, subjects | _trained(run, trainings))
        losses = {label: _history(run, label)[-1]["train_loss"] for label in trainings}
        classes, source = len(run.test.card.classes), run.job.data.source
        facts = StudyFacts(classes, source, fingerprints, losses, run.job.name, within)
        findings = study.conclude(found, facts)
        with client.recorded(f"the study is done (kept in {run.folder / 'study'})"):
            if log is not None:
                log.settle()
            files = findings.files(f"{run.job.study.of}: {run.job.name}")
            kept = run.keep("study", files)
            picture = next((f"study/{name}" for name in files if name.endswith(".svg")), "")
            run.tracker.describe(files["sheet.md"].decode(), "study/report.html", picture)
            return run.finish(
                {
                    "study": run.job.study.of,
                    "expectations": [one.model_dump() for one in findings.expectations],
                    "rows": len(findings.rows),
                    "folder": str(kept),
                    "num_workers": run.resources.workers(run.job.cluster),
                }
            )


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


def _fetched(run: OpenRun[Study], models: dict[str, str]) -> dict[str, StoredModel]:
    """The model at each address, by its label; an address that has several labels is fetched once."""
    found = {address: run.models.at(address) for address in dict.fromkeys(models.values())}
    return {label: found[address] for label, address in models.items()}


def _trained_within(run: OpenRun[Study], models: Mapping[str, str | Train]) -> dict[str, tuple[str, float]]:
    """The norm and the epsilon that each model was trained within, where its checkpoint or its card says so."""
    found = {}
    for label, address in models.items():
        with suppress(DistribError):  # it is only drawn
            threat = _job_of(str(address), run.uri).get("objective", {}).get("threat")
            if threat is not None:
                found[label] = threat["norm"], float(Fraction(str(threat["epsilon"])))
    return found


def _job_of(address: str, uri: str) -> dict:
    """The job whose model is at the address, as plain values; empty where nothing tells."""
    if address.startswith("models:"):
        return versions.fetch_card(address, uri, None)[0]["job"]
    return checkpoints.verify(Path(address)).job if (Path(address) / "state.json").exists() else {}


def _trained(run: OpenRun[Study], trainings: dict[str, Train]) -> dict[str, StoredModel]:
    """The model of every training, at its end."""
    card = open_split(run.data, "train", "training").card
    subjects: dict[str, StoredModel] = {}
    for label, job in trainings.items():
        stored = checkpoints.latest(run.folder / label, run.display.say)
        assert stored is not None
        subjects[label] = Weights.of(job.model.model_dump(mode="json"), card, stored.judged)
    return subjects


def _history(run: OpenRun[Study], label: str) -> list[dict]:
    return checkpoints.history(run.folder / label, run.display.say)


def _carried_out(run: OpenRun[Study], study: PaperStudy, subjects: dict[str, StoredModel]) -> dict[tuple, dict]:
    """What every part found; the finished ones are read from the run's folder."""
    job, test, display = run.job, run.test.card, run.display
    threads, stage = job.cluster.cpus_per_worker, job.cluster.stage
    task = StudyTask(subjects, run.data, job.loader, threads, run.use_gpu, stage)
    terms = [dump(job.study), _identities(subjects), test.content_sha256, __version__]
    key = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:16]
    parts = study.parts(test.count)
    names = {one: f"{key}-{number:06d}" for number, one in enumerate(parts)}
    found = {one: read for one, name in names.items() if (read := read_part(run.folder, name)) is not None}
    left = [one for one in parts if one not in found]
    for one, result in map_tasks(study_part, (study, task), left, run.workers):
        write_part(run.folder, names[one], result)
        found[one] = result
        display.advance(f"{job.study.of} study", len(found), len(parts), f"{len(found)} of {len(parts)} parts")
    display.end()
    return {one: found[one] for one in parts}


def _identities(subjects: dict[str, StoredModel]) -> dict[str, str]:
    return {label: hashlib.sha256(subject.content()).hexdigest() for label, subject in subjects.items()}

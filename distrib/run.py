"""Jobs, carried out: prepare -> train -> evaluate -> register. Each stage is kept, and not done again.

STORAGE/NAME/
    job.json          the resolved job, its digest, the MLflow run
    robust/           checkpoints, epoch by epoch
    natural/          those of the same model trained without an adversary, if asked for
    evaluation/       finished shards of the end evaluation
    result.json       the run is complete
"""

import hashlib
import json
import shutil
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from distrib import __version__, checkpoints, provenance, registry, tracking
from distrib.clock import Clock
from distrib.data.beton import open_split, prepare
from distrib.data.loader import open_reader, resolve, shard
from distrib.data.split import SPLITS
from distrib.errors import DistribError, JobError
from distrib.evaluate.claim import Claim
from distrib.evaluate.subject import Exported, Subject, Weights
from distrib.files import write_json
from distrib.job import Evaluate, Prepare, Train, digest, dump, write
from distrib.journal import Journal, metric_name
from distrib.objective import Natural
from distrib.progress import Display
from distrib.runs import NATURAL, ROBUST, read_record, read_result, run_folder
from distrib.state import Stored, verify
from distrib.tracking import Tracker
from distrib.world import World


def run(job: Prepare | Train | Evaluate, display: Display) -> dict:
    """Carries a job out and returns its result as plain values. Raises :class:`DistribError`."""
    match job:
        case Prepare():
            return run_prepare(job, display)
        case Train():
            return run_train(job.resolved(), display)
        case Evaluate():
            return run_evaluate(job.resolved(), display)


def run_prepare(job: Prepare, display: Display) -> dict:
    """Packs the data; the result lists the splits."""
    folder = _prepared(job, display)
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


def _prepared(job: Prepare | Train | Evaluate, display: Display) -> Path:
    """The folder of the job's betons, made now if it is not there."""
    packing = resolve(job.loader)
    if packing == "memory" and job.loader == "auto":
        display.say("warning: ffcv cannot be imported here; images are kept in memory instead (see distrib doctor)")
    implied = Prepare(kind="prepare", data=job.data, loader=job.loader)
    return prepare(job.data, packing, dump(implied), digest(implied), display.say)


@contextmanager
def _tracked(job: Train | Evaluate, folder: Path, display: Display):
    """The job's MLflow run, one for all its restarts; closed as FINISHED, FAILED or KILLED."""
    record = read_record(folder) or {}
    uri = tracking.address(job.tracking.uri)
    known = record.get("run_id") if record.get("tracking_uri") == uri else None
    tags = {
        "distrib.job_digest": digest(job),
        "distrib.kind": job.kind,
        "distrib.version": __version__,
        **provenance.code(),
    }
    tracker = tracking.Tracker(uri, job.tracking.experiment, job.name, known, tags)
    record = {"job": dump(job), "job_digest": digest(job), "tracking_uri": uri, "run_id": tracker.run_id}
    write_json(folder / "job.json", record)
    if known != tracker.run_id:
        tracker.parameters(dump(job))
        tracker.text(write(job), "job.yaml")
        tracker.text(provenance.environment(), "environment.txt")
    display.say(f"mlflow: run {tracker.run_id} in {uri}{' (resumed)' if known == tracker.run_id else ''}")
    tracker.watch()
    try:
        yield tracker
    except BaseException as error:
        try:
            tracker.close("FAILED" if isinstance(error, Exception) else "KILLED")
        except DistribError as second:
            display.say(f"warning: {second}")
        raise
    tracker.close("FINISHED")


def run_train(job: Train, display: Display) -> dict:
    """Trains, judges, registers. A run that is complete is told again from its record."""
    from distrib.cluster.session import session

    clock = Clock.start()
    with run_folder(job) as folder:
        result = read_result(folder)
        if result is not None:
            display.say(f"the run {job.name!r} is complete; its result is kept in {folder / 'result.json'}")
            display.say("for another one, choose another name: --set name=NAME")
            return result
        with clock.measure("prepare"):
            data = _prepared(job, display)
        main = NATURAL if isinstance(job.objective, Natural) else ROBUST
        phases = {main: job} | ({NATURAL: job.natural_twin()} if job.compare_natural else {})
        with ExitStack() as stack:
            with clock.measure("ray_start"):
                resources = stack.enter_context(session(job.cluster))
            with clock.measure("mlflow_start"):
                tracker = stack.enter_context(_tracked(job, folder, display))
            with clock.measure("train"):
                _train(phases, job, folder, data, tracker, resources, display, clock)
            best = {phase: checkpoints.best(folder / phase, display.say) for phase in phases}
            histories = {phase: checkpoints.history(folder / phase, display.say) for phase in phases}
            with clock.measure("evaluate"):
                claims = {
                    phase: _judge(job, _weights(job, data, best[phase]), folder, data, resources, display, phase)
                    for phase in phases
                }
            with clock.measure("register"):
                registered = _register(job, best[main], claims[main], data, tracker, display)
            result = _train_result(job, main, best, claims, histories, registered, tracker.run_id, clock)
            _log_results(result, claims, histories, tracker, folder)
        write_json(folder / "result.json", result)
        return result


def _train(
    phases: dict[str, Train],
    job: Train,
    folder: Path,
    data: Path,
    tracker: Tracker,
    resources,
    display: Display,
    clock: Clock,
) -> None:
    """Trains every phase that is not at its end yet, and logs every epoch once."""
    from distrib.cluster.board import Note, Started
    from distrib.cluster.train import Order, fit
    from distrib.trainer import EpochEnd, Progress

    journal = Journal(tracker, display)
    for phase in phases:
        journal.catch_up(phase, checkpoints.history(folder / phase, display.say))
    if all(journal.epochs.get(phase) == part.optim.epochs for phase, part in phases.items()):
        display.say("training: complete already")
        return
    began = time.perf_counter()

    def listen(phase: str, notice: object) -> None:
        match notice:
            case Started(rank=0):
                clock.marks.setdefault("workers_start", round(time.perf_counter() - began, 2))
                display.say(
                    f"{phase} training: {notice.ranks} workers on {notice.device}, {notice.loader} loader"
                    + (f", resumed after epoch {notice.start_epoch}" if notice.start_epoch else "")
                )
            case Note():
                display.say(notice.text)
            case Progress():
                clock.marks.setdefault("first_step", round(time.perf_counter() - began, 2))
                epoch = notice.step * phases[phase].optim.epochs / notice.steps
                detail = f"epoch {epoch:.1f}, loss {notice.loss:.3f}, {notice.images_per_second:.0f} images/s"
                display.advance(f"{phase} training", notice.step, notice.steps, detail + journal.latest(phase))
            case EpochEnd():
                journal.add(phase, notice.epoch, notice.metrics)
                journal.tell(phase, notice.epoch, phases[phase].optim.epochs)

    record = dump(job)
    fit(Order(job, record, digest(job), data, folder, phases), resources, listen)
    display.end()
    for phase in phases:
        journal.catch_up(phase, checkpoints.history(folder / phase, display.say))
    journal.settle()


def _weights(job: Train, data: Path, best: Stored) -> Weights:
    return Weights.of(job.model.model_dump(mode="json"), open_split(data, "train", "training").card, best.judged)


def _judge(
    job: Train | Evaluate, subject: Subject, folder: Path, data: Path, resources, display: Display, title: str
) -> Claim:
    """The claim about ``subject`` on the test split."""
    from distrib.cluster.evaluate import Task, evaluate

    began = time.perf_counter()
    suite = job.evaluation
    task = Task(subject, data, job.loader, suite, job.cluster.cpus_per_worker, resources.use_gpu(job.cluster))
    program = subject.program if isinstance(subject, Exported) else subject.path.read_bytes()
    content = open_split(data, "test", "evaluation").card.content_sha256
    terms = json.dumps([suite.model_dump(mode="json", exclude={"batch_size"}), content, __version__])
    key = hashlib.sha256(program + terms.encode()).hexdigest()[:16]

    def progress(done: int, count: int) -> None:
        seconds = time.perf_counter() - began
        display.advance(f"evaluating the {title} model", done, count, f"{done} of {count} images, {seconds:.0f} s")

    claim = evaluate(task, folder / "evaluation", key, job.cluster, resources, progress)
    display.end()
    return claim


def _register(job: Train, best: Stored, claim: Claim, data: Path, tracker: Tracker, display: Display):
    validation = open_split(data, "validation", "training")
    (batch,) = shard(open_reader(validation, job.loader), np.arange(min(4, validation.card.count)), 4, World())
    entry = registry.Entry(
        subject=_weights(job, data, best),
        claim=claim,
        mean_batch=batch.x.numpy(),
        job=dump(job),
        job_digest=digest(job),
        data_sha256=open_split(data, "test", "evaluation").card.content_sha256,
        classes=validation.card.classes,
        weights_sha256=best.weights_sha256,
    )
    registered = registry.register(entry, job.model_name, tracker)
    display.say(f"registered: {registered.uri} ({registered.champion})")
    return registered


def _train_result(
    job: Train,
    main: str,
    best: dict[str, Stored],
    claims: dict[str, Claim],
    histories: dict[str, list[dict]],
    registered: registry.Registered,
    run_id: str,
    clock: Clock,
) -> dict:
    history = histories[main]
    images = sum(entry["images_per_second"] * entry["train_seconds"] for entry in history)
    seconds = sum(entry["train_seconds"] for entry in history)
    natural = claims.get(NATURAL) if main != NATURAL else None
    return {
        "kind": "train",
        "name": job.name,
        "run_id": run_id,
        "model": registered.uri,
        "champion": registered.champion,
        **claims[main].model_dump(mode="json"),
        "natural": None if natural is None else natural.model_dump(mode="json"),
        "best_epoch": checkpoints.best_epoch(history),
        "epochs": len(history),
        "num_workers": job.cluster.max_workers,
        "seconds": clock.seconds,
        "train_seconds": round(seconds, 2),
        "images_per_second": round(images / seconds, 1),
        "data_wait_share": round(float(np.mean([entry["data_wait_share"] for entry in history])), 4),
        "timings": clock.marks,
        "weights_sha256": best[main].weights_sha256,
        "job_digest": digest(job),
        "checkpoint": str(best[main].folder),
    }


def _log_results(
    result: dict, claims: dict[str, Claim], histories: dict[str, list[dict]], tracker, folder: Path
) -> None:
    """Stores the end evaluation, the curves and the result with the MLflow run."""
    from distrib.plots import training_curves

    for phase, claim in claims.items():
        values = {"test/clean_accuracy": claim.clean_accuracy, "test/robust_accuracy": claim.robust_accuracy}
        values |= {f"test/{name}": value for name, value in claim.attacks.items()}
        tracker.metrics({metric_name(phase, name): value for name, value in values.items()}, result["best_epoch"])
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "training_curves.png"
        training_curves(histories, path)
        tracker.file(path, "plots")
        shutil.copy(path, folder / path.name)
    tracker.text(json.dumps(result, indent=2), "result.json")
    tracker.tags({"model": result["model"], "norm": result["norm"], "epsilon": f"{result['epsilon']:.6g}"})


def run_evaluate(job: Evaluate, display: Display) -> dict:
    """Judges a registered model or a checkpoint on the test split."""
    from distrib.cluster.session import session

    clock = Clock.start()
    with run_folder(job) as folder:
        result = read_result(folder)
        if result is not None:
            display.say(f"the run {job.name!r} is complete; its result is kept in {folder / 'result.json'}")
            return result
        if job.model.startswith("models:"):
            subject, card = registry.fetch_subject(job.model, tracking.address(job.tracking.uri), display.say)
            trained_on = card.get("image"), card.get("classes")
        else:
            stored = verify(Path(job.model).absolute())
            subject, trained_on = None, (None, None)
        data = _prepared(job, display)
        test = open_split(data, "test", "evaluation").card
        height, width, channels = test.image
        shape = {"channels": channels, "height": height, "width": width}
        if subject is None:
            subject = Weights.of(stored.job["model"], test, stored.judged)
            subject.load(World().device)  # refuses weights of other images or classes before anything starts
        elif trained_on[0] is not None and (trained_on[0] != shape or len(trained_on[1] or ()) != len(test.classes)):
            raise JobError(
                f"data: {len(test.classes)} classes of images {channels}x{height}x{width}, but {job.model} takes "
                f"{len(trained_on[1] or ())} classes of {trained_on[0]}; name the data it was made for"
            )
        with session(job.cluster) as resources, _tracked(job, folder, display) as tracker:
            claim = _judge(job, subject, folder, data, resources, display, job.model)
            result = {
                "kind": "evaluate",
                "name": job.name,
                "run_id": tracker.run_id,
                "model": job.model,
                **claim.model_dump(mode="json"),
                "num_workers": job.cluster.max_workers,
                "seconds": clock.seconds,
                "images_per_second": round(
                    claim.n_clean / max(sum(claim.attack_seconds.values()), 1e-9) * job.cluster.max_workers, 2
                ),
                "job_digest": digest(job),
                "data_sha256": test.content_sha256,
            }
            values = {"test/clean_accuracy": claim.clean_accuracy, "test/robust_accuracy": claim.robust_accuracy}
            tracker.metrics(values | {f"test/{name}": value for name, value in claim.attacks.items()}, 0)
            tracker.text(json.dumps(result, indent=2), "result.json")
        write_json(folder / "result.json", result)
        return result

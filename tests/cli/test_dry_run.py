"""The plan of a job: a readable job again, with what it would need below; nothing is touched to find it out."""

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from documents import TUNE, changed
from plans import listing, note, plan

from distrib.cli.dispatch import run
from distrib.config.file import parse, read
from distrib.config.job import Prepare, Train, digest, dump
from distrib.data.beton import DataCard
from distrib.data.packing import folder_of
from distrib.errors import DataError, InputError, JobError
from distrib.files import write_json
from distrib.tracking.display import Display
from distrib.tracking.folder import NATURAL, ROBUST, resuming

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
jobs = pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


def job(*overrides: str) -> Train:
    document = {
        "kind": "train", "name": "t", "loader": "memory", "data": {"source": "digits"}, "model": {"arch": "small_cnn"},
        "objective": {"method": "madry", "threat": {"norm": "linf", "epsilon": "8/255"}},
        "optim": {"name": "sgd", "lr": 0.1, "epochs": 12},
    }  # fmt: skip
    found = parse(document, list(overrides), "here")
    assert isinstance(found, Train)
    return found


@jobs
def test_every_job_s_plan_is_the_resolved_job_again_and_touches_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one = read(path, ["train.loader=memory" if path.name.startswith("tune-") else "loader=memory"])
    whole = one if isinstance(one, Prepare) else one.resolved()
    for part in ("images/train", "images/test", "imagenet/train", "imagenet/val"):  # where every job's data.root is
        (tmp_path / "data" / part / "cat").mkdir(parents=True)
        (tmp_path / "data" / part / "cat" / "1.png").touch()
    (tmp_path / "data" / "synthetic.npz").touch()
    for file in ("MNIST/raw/t10k-labels-idx1-ubyte", "cifar-10-batches-py/test_batch"):
        (tmp_path / "data" / file).parent.mkdir(parents=True)
        (tmp_path / "data" / file).touch()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 64)
    monkeypatch.setattr("distrib.registry.listing.find", lambda *_: (None, SimpleNamespace(version=3)))
    monkeypatch.setattr("distrib.cli.dry_run.stored_at", lambda *_: None)
    before = listing(tmp_path)
    text = plan(one)
    assert listing(tmp_path) == before
    (tmp_path / "plan.yaml").write_text(text)
    again = read(tmp_path / "plan.yaml")
    assert again == whole and plan(again) == text
    assert note(text, "digest") == digest(whole) and note(text, "loader") == "memory"


@pytest.mark.parametrize("override", ['name="1e3"', 'name="12e4"', 'tracking.experiment="1e3"', 'storage="2e-1"'])
def test_text_that_looks_like_a_number_stays_text(override: str, tmp_path: Path):
    one = job(override)
    (tmp_path / "plan.yaml").write_text(plan(one))
    assert read(tmp_path / "plan.yaml") == one.resolved()


@pytest.mark.parametrize(
    ("overrides", "name", "told"),
    [
        ((), "run", "{here}/runs/t would start anew"),
        (("storage=/x/y", "name=u"), "run", "/x/y/u would start anew"),
        ((), "cluster", "a local one, of this machine's {cpus} CPUs; 1 workers x 1 CPUs = 1 CPUs"),
        (
            ("cluster={address: 'ray://h:10001', num_workers: {min: 2, max: 3}, cpus_per_worker: 4}",),
            "cluster",
            "ray://h:10001; 3 workers x 4 CPUs = 12 CPUs",
        ),
        ((), "tracking", "sqlite:///{here}/mlflow.db"),
        (("tracking.uri=http://h:5000",), "tracking", "http://h:5000"),
    ],
)
def test_what_a_job_would_need(overrides: tuple[str, ...], name: str, told: str, tmp_path: Path):
    assert note(plan(job(*overrides)), name) == told.format(here=tmp_path, cpus=os.cpu_count())


def test_addresses_come_from_the_environment_unless_the_job_has_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://e:5000")
    text = plan(job())
    assert note(text, "cluster").startswith("head:6379; ") and note(text, "tracking") == "http://e:5000"
    text = plan(job("cluster.address=own:1", "tracking.uri=http://own:2"))
    assert note(text, "cluster").startswith("own:1; ") and note(text, "tracking") == "http://own:2"


def test_the_source_of_data_that_is_not_prepared(tmp_path: Path):
    mnist = job("data={source: mnist, root: there}")
    folder = folder_of(mnist.data)
    assert folder.parent == tmp_path / "betons"
    with pytest.raises(DataError, match=r"data\.root: there is no folder there; .*data\.download: true"):
        plan(mnist)
    fetched = job("data={source: mnist, root: there, download: true}")
    assert note(plan(fetched), "data").startswith(f"would be prepared from there in {folder} (")
    raw = tmp_path / "there" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").touch()
    assert note(plan(mnist), "data").startswith(f"would be prepared from there in {folder} (")
    digits = job()
    assert note(plan(digits), "data").startswith(f"would be prepared in {folder_of(digits.data)} (")
    far = job("data.store=a/b/c/d")
    assert f"{tmp_path}/a/b/c/d/digits-" in note(plan(far), "data") and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("data={source: folder, root: there}",), r"data\.root: there is no folder there/train"),
        (("data={source: folder, root: nowhere}",), r"data\.root: there is no folder nowhere; "),
        (
            ("data={source: mnist, root: there}",),
            r"data\.root: there holds none of MNIST/raw/\*-ubyte, .*; put the data",
        ),
        (("data={source: cifar10, root: there}",), r"data\.root: there holds none of cifar-10-batches-py/\*batch\*; "),
        (("cluster.device=cuda",), r"cluster\.device: cuda needs 1 GPUs, but the cluster has 0"),
    ],
    ids=["no train folder", "no folder", "no MNIST", "no CIFAR-10", "no GPU"],
)
def test_what_a_run_refuses_for_this_machine_a_dry_run_refuses(
    overrides: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One set of checks; the run asks it before it packs, and before Ray is started."""
    (tmp_path / "there").mkdir()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("distrib.cluster.session.session", None)
    monkeypatch.setattr("distrib.tracking.client.connect", lambda *_: None)
    one = job(*overrides)
    for begin in (plan, lambda one: run(one, Display())):
        with pytest.raises(InputError, match=told):
            begin(one)


def test_a_search_names_the_fields_of_its_training_by_their_whole_path(monkeypatch: pytest.MonkeyPatch):
    """It was told to set data.root, which a search has not."""
    monkeypatch.setattr("distrib.tracking.client.connect", lambda *_: None)
    data = {"source": "mnist", "root": "nowhere", "store": "betons"}
    one = parse(changed(TUNE, {"train.loader": "memory", "train.data": data}), [], "here")
    told = r"^train\.data\.root: there is no folder nowhere; .*, or allow train\.data\.download: true$"
    for begin in (plan, lambda one: run(one, Display())):
        with pytest.raises(DataError, match=told):
            begin(one)


def test_the_trials_of_a_search_are_told_with_what_they_train_with():
    lines = plan(parse(changed(TUNE, {"train.loader": "memory"}), [], "here")).splitlines()
    trials = lines[lines.index("# search: 3 trials") + 1 :][:3]
    step = r"objective\.attack\.step_size\.of_epsilon = ([\d.]+)/5 = ([\d.]+)"
    for number, line in enumerate(trials, 1):
        found = re.fullmatch(rf"#   {number}: objective\.threat\.epsilon = [\d.]+, {step}, model\.width = [\d.]+", line)
        assert found and float(found[2]) == pytest.approx(float(found[1]) / 5, rel=1e-5)


def test_a_gpu_is_only_sought_here_if_ray_is_started_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert plan(job("cluster.device=cuda", "cluster.address=head:6379"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert plan(job("cluster.device=cuda"))


def test_local_is_a_cluster_of_this_machine_as_a_run_takes_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert note(plan(job()), "cluster").startswith("a local one, ")
    for address in ("null", "local"):
        with pytest.raises(JobError, match=r"cluster\.device: cuda needs 1 GPUs, but the cluster has 0"):
            plan(job("cluster.device=cuda", f"cluster.address={address}"))


STUDY = {
    "kind": "study", "name": "s", "loader": "memory", "data": {"source": "digits"},
    "study": {
        "of": "capacity", "model": {"arch": "small_cnn"}, "widths": [1],
        "threat": {"norm": "linf", "epsilon": 0.1}, "attack": {"num_steps": 3},
        "optim": {"name": "sgd", "lr": 1, "epochs": 2, "batch_size": 5000},
    },
}  # fmt: skip
MEMORY = {"train.loader": "memory"}
LARGE = MEMORY | {"train.optim.batch_size": 5000}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (changed(TUNE, LARGE), r"train\.optim\.batch_size: batches of 5000"),
        (changed(TUNE, MEMORY) | {"space": {"optim.batch_size": {"choice": [32, 5000]}}},
         r"space\.optim\.batch_size: batches of 5000"),
        (changed(TUNE, LARGE) | {"space": {"optim.batch_size": {"choice": [32]}}}, None),
        (STUDY, r"study\.optim\.batch_size: batches of 5000"),
    ],
    ids=["search", "space", "never trained", "capacity"],
)  # fmt: skip
def test_a_dry_run_asks_of_the_data_what_the_run_would(
    document: dict, told: str | None, digits: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("distrib.cli.dry_run.folder_of", lambda data: digits)
    one = parse(document, [], "here")
    with nullcontext() if told is None else pytest.raises(JobError, match=told):
        assert "is prepared" in plan(one)


def test_the_device_of_a_run_binds_once_something_is_done_on_it(monkeypatch: pytest.MonkeyPatch):
    """A job that failed on GPUs before its first checkpoint may go on, or be another one, without them."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    folder = begin(job())
    record = {"job": dump(job().resolved()), "device": "cuda"}
    write_json(folder / "job.json", record)
    assert plan(job()) and plan(job("optim.epochs=13"))
    assert resuming(folder) == record | {"device": None}, "its machines are still waited for"
    (folder / ROBUST / "epoch-00001").mkdir(parents=True)
    assert resuming(folder) == record
    with pytest.raises(JobError, match="this run was begun on GPUs and needs 1 GPUs"):
        plan(job())


def test_data_that_is_prepared_is_told_from_its_card():
    one = job()
    folder = folder_of(one.data)
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"train\.json: there is no card"):
        plan(one)
    card = DataCard(
        distrib_version="0", job={}, job_digest="", split="train", count=1212, classes=("a", "b"), image=(8, 9, 1),
        encoding="array", file="train.safetensors", size_bytes=1, sha256="", content_sha256="", mean=(0.5,), std=(0.5,),
        fingerprint="",
    )  # fmt: skip
    (folder / "train.json").write_text(card.model_dump_json())
    assert note(plan(one), "data") == f"{folder} is prepared (1212 training images 8x9x1)"


def begin(one: Train, **epochs: int) -> Path:
    """The folder of a run that stored so many epochs in each phase."""
    folder = Path(one.storage).absolute() / one.name
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"job": dump(one.resolved()), "job_digest": "", "run_id": ""})
    for phase, last in epochs.items():
        for epoch in range(1, last + 1):
            (folder / phase / f"epoch-{epoch:05d}").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("epochs", "told"),
    [
        ({}, "would start anew"),
        ({ROBUST: 3}, "would go on after epoch 3 of 12"),
        ({ROBUST: 11}, "would go on after epoch 11 of 12"),
        ({NATURAL: 2}, "would go on after epoch 2 of 12"),
        ({ROBUST: 3, NATURAL: 2}, "would go on after epoch 3 of 12"),
    ],
)
def test_a_run_that_was_begun_would_go_on(epochs: dict[str, int], told: str):
    begin(job(), **epochs)
    assert note(plan(job()), "run").endswith(f"/runs/t {told}")
    assert note(plan(job("cluster.num_workers=3", "tracking.uri=http://x")), "run").endswith(told)


def test_a_run_that_is_complete_would_do_nothing():
    folder = begin(job(), robust=12)
    write_json(folder / "result.json", {"kind": "train"})
    assert note(plan(job()), "run") == f"{folder} is complete; nothing would be done"


def test_a_run_that_is_complete_needs_no_data_any_more():
    mnist = job("data={source: mnist, root: nowhere}")
    write_json(begin(mnist, robust=12) / "result.json", {"kind": "train"})
    assert note(plan(mnist), "run").endswith("is complete; nothing would be done")


def test_a_name_that_belongs_to_another_job_is_refused():
    folder = begin(job(), robust=1)
    with pytest.raises(JobError) as caught:
        plan(job("optim.epochs=13"))
    assert str(caught.value) == (
        f"name: 't' is the run of another job, kept in {folder}: optim.epochs: 13, not 12. Choose another name "
        "(--set name=...), or delete that folder"
    )
    assert plan(job("optim.epochs=13", "name=u"))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_damaged_record_is_refused(content: str):
    (begin(job()) / "job.json").write_text(content)
    with pytest.raises(InputError, match=r"job\.json: damaged"):
        plan(job())


def test_a_record_that_cannot_be_read_now_is_not_called_damaged():
    """No permission, or a network file system's hiccup: to delete the run would be the wrong cure."""
    record = begin(job()) / "job.json"
    record.unlink()
    record.symlink_to("/proc/self/mem")  # reading it fails with an input/output error, for root too
    with pytest.raises(InputError) as caught:
        plan(job())
    assert "delete" not in str(caught.value) and "cannot be read" in str(caught.value)


def test_a_dry_run_of_the_real_command_starts_nothing_and_leaves_no_trace(tmp_path: Path):
    """In its own process and home: no Ray, no MLflow, no FFCV, no file, not even a cache."""
    rooms = [tmp_path / name for name in ("work", "home", "tmp")]
    for room in rooms:
        room.mkdir()
    code = """
import sys
from contextlib import nullcontext
from distrib.cli.main import main
status = main(["run", sys.argv[1], "--dry-run", "--set", "loader=memory", "--set", "seed=5"])
sys.exit(f"imported: {found}" if (found := {"ray", "mlflow", "ffcv", "matplotlib"} & set(sys.modules)) else status)
"""
    environment = {**os.environ, "HOME": str(rooms[1]), "TMPDIR": str(rooms[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    before = listing(tmp_path)
    digits = next(path for path in JOBS if path.stem == "digits")
    done = subprocess.run(
        [sys.executable, "-c", code, digits], cwd=rooms[0], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert listing(tmp_path) == before
    (tmp_path / "told.yaml").write_text(done.stdout)
    found, expected = read(tmp_path / "told.yaml"), read(digits, ["loader=memory", "seed=5"])
    assert isinstance(expected, Train) and found == expected.resolved()

"""Jobs of 0.1: a file is told what stands elsewhere now, and a run that was begun is the same run."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from documents import EVALUATE, TRAIN, TUNE, changed
from documents import job as read_job

from distrib.config.differences import differences
from distrib.config.file import parse, read
from distrib.config.job import completed, dump
from distrib.config.moved import new_settings, renewed
from distrib.errors import JobError
from distrib.search.trials import Trials
from distrib.tracking.folder import read_record, run_folder

JOBS = Path(__file__).parents[2] / "jobs"
RECORDS = json.loads((Path(__file__).parent / "records_of_0_1.json").read_text())
"""What distrib 0.1.0 wrote into job.json for files of jobs/."""
LINF = {"norm": "linf", "epsilon": 0.1}
OLD = "objective.attack.threat"
SEARCH = {"uniform": [1, 2], "divided_by": f"{OLD}.epsilon"}
MODELS = [{"label": "a", "model": "models:/a/1"}]
CAPACITY = {
    "kind": "study", "name": "s", "data": {"source": "digits"},
    "study": {"of": "capacity", "model": {"arch": "small_cnn"}, "widths": [1], "attack": {"threat": LINF},
              "optim": {"name": "sgd", "lr": 1, "epochs": 2}},
}  # fmt: skip
LANDSCAPE = CAPACITY | {
    "study": {"of": "landscape", "models": MODELS, "threat": LINF, "num_steps": 9, "step_size": 0.1}
}
MOVED = {
    "objective": (
        changed(TRAIN, {OLD: LINF}),
        [f"{OLD}: moved beside the attack in 0.2: write it as objective.threat"],
    ),
    "validation": (
        changed(TRAIN, {"validation.attack": {"threat": LINF}}),
        ["validation.attack.threat: moved beside the attack in 0.2: write it as validation.threat"],
    ),
    "search": (
        changed(TUNE, {"train.objective.attack.threat": LINF, "score": {"attack": {"threat": LINF}}}),
        [f"{path}.attack.threat: moved beside the attack in 0.2: write it as {path}.threat"
         for path in ("train.objective", "score")],
    ),
    "space": (
        changed(TUNE, {"space": {f"{OLD}.epsilon": {"choice": [0.1]}, "model.width": SEARCH}}),
        [f"space.{OLD}.epsilon: moved beside the attack in 0.2: write it as objective.threat.epsilon",
         f"space.model.width.divided_by: {OLD}.epsilon moved beside the attack in 0.2: write it as "
         "objective.threat.epsilon"],
    ),
    "choice of objectives": (
        changed(TUNE, {"space": {"objective": {"choice": [{"method": "madry", "attack": {"threat": LINF}}]}}}),
        ["space.objective: the threat moved beside the attack in 0.2: write it as objective.threat"],
    ),
    "grid of attacks": (
        changed(TUNE, {"space": {"objective.attack": {"grid": [{"threat": LINF}, {"threat": LINF}]}}}),
        ["space.objective.attack: the threat moved beside the attack in 0.2: write it as objective.threat"],
    ),
    "capacity": (CAPACITY, ["study.attack.threat: moved beside the attack in 0.2: write it as study.threat"]),
    "landscape": (
        LANDSCAPE,
        [f"study.{key}: moved into the attack in 0.2: write it as study.attack.{key}"
         for key in ("num_steps", "step_size")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("document", "lines"), MOVED.values(), ids=MOVED)
def test_an_old_job_file_is_told_each_line_that_moves_and_where_to(document: dict, lines: list[str], tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(JobError) as caught:
        read(file)
    assert str(caught.value).splitlines() == [f"{file}: {line}" for line in lines]


@pytest.mark.parametrize("override", [f"{OLD}.epsilon=0.2", "validation.attack={threat: {norm: l2, epsilon: 1}}"])
def test_an_old_override_is_told_too(override: str):
    with pytest.raises(JobError) as caught:
        parse(TRAIN, [override], "job.yaml")
    path = override.split(".")[0]
    assert str(caught.value) == (
        f"--set {override}: {path}.attack.threat: moved beside the attack in 0.2: write it as {path}.threat"
    )


@pytest.mark.parametrize("name", RECORDS)
def test_a_run_that_0_1_began_is_the_run_of_the_same_job(name: str):
    old = RECORDS[name]
    before = copy.deepcopy(old)
    assert differences(read(JOBS / f"{name}.yaml").resolved(), completed(renewed(old))) == []
    assert old == before, "the record itself is left alone"
    was = {"digits": ["precision=float32"], "tune-digits": ["train.precision=float32"]}.get(name, [])  # by default
    assert parse(renewed(old), [], "record") == read(JOBS / f"{name}.yaml", was).resolved()
    assert renewed(renewed(old)) == renewed(old)


@pytest.mark.parametrize("name", ["digits", "tune-digits", "study-capacity"])
def test_what_changed_since_0_1_is_still_another_job(name: str):
    place = {"digits": "", "tune-digits": "train.", "study-capacity": "study."}[name]
    field = "study.attack.num_steps" if "study" in name else f"{place}objective.threat.epsilon"
    one = read(JOBS / f"{name}.yaml", [f"{field}=3" if "study" in name else f"{field}=0.01"]).resolved()
    assert any(line.startswith(f"{field}: ") for line in differences(one, renewed(RECORDS[name])))


@pytest.mark.parametrize("base", [TRAIN, EVALUATE, TUNE], ids=lambda base: base["kind"])
def test_a_record_of_today_stays_as_it_is(base: dict):
    record = dump(read_job(base).resolved())
    assert renewed(record) == record


def test_a_threat_inside_a_searched_mapping_moves_too():
    value = {"method": "madry", "attack": {"threat": LINF, "num_steps": 3}}
    now = {"method": "madry", "attack": {"num_steps": 3}, "threat": LINF}
    assert renewed({"space": {"objective": {"choice": [value]}}}) == {"space": {"objective": {"choice": [now]}}}
    assert new_settings({"objective": value, "model.width": 1}) == {"objective": now, "model.width": 1}
    space = {f"{OLD}.epsilon": {"choice": [0.1]}, "model.width": SEARCH}
    assert renewed({"space": space})["space"] == {
        "objective.threat.epsilon": {"choice": [0.1]},
        "model.width": SEARCH | {"divided_by": "objective.threat.epsilon"},
    }  # fmt: skip


@pytest.mark.parametrize("job", [{}, {"objective": None}, {"space": [], "score": 3}, {"evaluation": {"attacks": None}}])
def test_a_damaged_record_is_for_others_to_judge(job: dict):
    assert renewed(job) == job


def test_the_folder_of_a_run_that_0_1_began_is_taken_up(tmp_path: Path):
    job = read(JOBS / "digits.yaml", [f"storage={tmp_path}"]).resolved()
    folder = tmp_path / job.name
    (folder / "robust" / "epoch-00001").mkdir(parents=True)  # it has something to lose
    (folder / "job.json").write_text(json.dumps({"job": RECORDS["digits"], "run_id": "r"}))
    with run_folder(job) as place:
        record = read_record(place)
    assert record is not None and record["run_id"] == "r" and record["job"]["objective"]["threat"]["epsilon"] == 0.2
    another = read(JOBS / "digits.yaml", [f"storage={tmp_path}", "seed=1"]).resolved()
    with pytest.raises(JobError, match="seed: 1, not 0"), run_folder(another):
        pass


def test_the_trials_of_a_search_that_0_1_began_are_known_by_their_new_paths(tmp_path: Path):
    job = read(JOBS / "tune-digits.yaml").resolved()
    trial = {"number": 1, "settings": {f"{OLD}.epsilon": 0.2, "model.width": 1}, "state": "finished", "error": ""}
    (tmp_path / "trials.json").write_text(json.dumps([trial]))
    assert Trials(job, tmp_path, 1)[1].settings == {"objective.threat.epsilon": 0.2, "model.width": 1}

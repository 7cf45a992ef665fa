"""Studies as a person runs them: trained, judged, kept in MLflow, and not done twice."""

import json
from pathlib import Path

import pytest
import yaml
from drive import call, call_here, command, result_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the shared training counts for the first test
DATA = {"source": "digits"}
THREAT = {"norm": "linf", "epsilon": 0.2}
STUDIES = {
    "landscape": {
        "models": [{"label": "robust", "model": "models:/digits/1"}], "threat": THREAT, "examples": 2,
        "restarts": 60, "chunk": 30, "maxima": 20,
        "attack": {"num_steps": 30, "step_size": {"of_epsilon": 1 / 30}},
    },
    "curves": {
        "models": [{"label": "robust", "model": "models:/digits/1"}], "linf": [0, 0.2, 0.5], "l2": [0.5],
        "queries": 50, "n": 60, "shard_size": 30,
    },
    "transfer": {
        "sources": [{"label": "robust", "model": "models:/digits/1"}, {"label": "earlier", "model": "EARLIER"}],
        "targets": [{"label": "robust", "model": "models:/digits/1"}], "threat": THREAT, "n": 60,
    },
    "capacity": {
        "model": {"arch": "small_cnn"}, "widths": [0.125, 0.5], "methods": ["natural", "pgd"],
        "threat": THREAT, "attack": {"num_steps": 3}, "n": 100,
        "optim": {"name": "adam", "lr": 4e-3, "epochs": 2, "batch_size": 64},
    },
}  # fmt: skip


def written(kind: str, workplace: Path) -> Path:
    """The job file of a study; EARLIER in it is another epoch of the shared training than the one it registered."""
    job = {
        "kind": "study",
        "name": kind,
        "data": DATA,
        "study": {"of": kind, **STUDIES[kind]},
        "cluster": {"num_workers": 2},
    }
    earlier = min((workplace / "runs" / "digits" / "robust").glob("epoch-*"))
    file = workplace.parent / f"{kind}.yaml"
    file.write_text(yaml.safe_dump(job).replace("EARLIER", str(earlier)))
    return file


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("kind", STUDIES)
def test_a_study_leaves_its_table_plots_and_sheet_in_mlflow(workplace: Path, kind: str):
    from mlflow import MlflowClient

    file = written(kind, workplace)
    result = result_of(call(command("run", file, "--json"), workplace))
    assert result["study"] == kind and result["rows"] >= 2 and result["expectations"]
    made = {path.name for path in Path(result["folder"]).iterdir()}
    assert {"report.html", "table.csv", "table.json", "sheet.md"} < made and any(one.endswith(".svg") for one in made)
    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    stored = {Path(one.path).name for one in client.list_artifacts(result["run_id"], "study")}
    assert stored == made and client.get_run(result["run_id"]).info.status == "FINISHED"
    assert len(json.loads((Path(result["folder"]) / "table.json").read_text())) == result["rows"]
    again = call_here(command("run", file, "--json"), workplace)
    assert result_of(again) == result and "complete" in again.stderr


def test_a_cell_of_a_capacity_study_can_be_judged_by_its_checkpoint(workplace: Path):
    """Its record tells its own width and objective, not those of the study's first cell; the last one is judged."""
    result_of(call(command("run", written("capacity", workplace), "--json"), workplace))
    for width, objective in ((0.125, "natural"), (0.5, "madry")):
        cell = workplace / "runs" / "capacity" / f"{'pgd' if objective == 'madry' else objective}-{width:g}"
        checkpoint = max(cell.glob("epoch-*"))
        job = json.loads((checkpoint / "state.json").read_text())["job"]
        assert (job["model"]["width"], job["objective"]["method"]) == (width, objective)
    judge = {
        "kind": "evaluate", "name": cell.name, "model": str(checkpoint), "data": DATA,
        "evaluation": {"threat": THREAT, "attacks": [{"attack": "fgsm"}], "n": 50},
    }  # fmt: skip
    file = workplace.parent / "judge.yaml"
    file.write_text(yaml.safe_dump(judge))
    assert result_of(call(command("run", file, "--json"), workplace))["n"] == 50

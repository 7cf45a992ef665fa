"""No text that is written to MLflow is longer than its stores take: SQLite takes any, PostgreSQL does not."""

import pytest
import sqlalchemy
from cards import STANDARD, claim, judged
from mlflow.store.model_registry.dbmodels import models as registered
from mlflow.store.tracking.dbmodels import models as tracked

from distrib.config.cluster import Tracking
from distrib.evaluation.attacks import Transfer
from distrib.evaluation.flags import Flag
from distrib.registry import champion
from distrib.tracking import client
from distrib.tracking.mlflow_run import MLflowRun


def too_long(uri: str) -> dict[str, tuple[int, int]]:
    """(the longest text, what another database would take) of the columns that hold too long ones, by their names."""
    engine = sqlalchemy.create_engine(uri)
    found = {}
    with engine.connect() as connection:
        for table in (*tracked.Base.metadata.sorted_tables, *registered.Base.metadata.sorted_tables):
            for column in table.columns:
                length = getattr(column.type, "length", None)
                if length and isinstance(column.type, sqlalchemy.String):
                    longest = sqlalchemy.select(sqlalchemy.func.max(sqlalchemy.func.length(column)))
                    found[str(column)] = connection.execute(longest).scalar() or 0, length
    engine.dispose()
    return {name: lengths for name, lengths in found.items() if lengths[0] > lengths[1]}


def test_a_card_of_forty_transfer_attacks_fits(uri: str):
    """And its flags, and a refusal that names all of them."""
    sources = [f"models:/a-model-with-a-rather-long-name-that-says-how-it-was-trained-{i:02d}/1" for i in range(40)]
    transfers = tuple(Transfer(attack="transfer", source=source, num_steps=40) for source in sources)
    suite = STANDARD.model_copy(update={"attacks": (*STANDARD.attacks, *transfers)})
    names = [attack.name for attack in suite.attacks]
    flags = tuple(Flag(name=f"flag_{i}", blocking=False, detail="detail " * 100) for i in range(20))
    many = {"attacks": dict.fromkeys(names, 0.5), "attacks_n": dict.fromkeys(names, 100), "flags": flags}
    judged(uri, "many", claim(0.5), "a")
    told = judged(uri, "many", claim(0.9, **many), "b", suite=suite)
    assert "judged on other terms" in told and not too_long(uri)
    version = client.connect(uri).get_model_version("many", "2")
    run = version.tags["card_run"]
    assert len(version.description) == 5000 and version.description.startswith("# Robustness card")
    assert version.description.endswith(f"the whole is the artifact card/card.md of the run {run})")
    row = champion.decision_history("many", uri)[-1]
    assert row["version"] == "2" and row["terms"]["attacks_sha256"] == version.tags["attacks_sha256"]
    assert "(cut, of " in row["terms"]["attacks"]


def test_a_run_takes_no_longer_texts(uri: str):
    tracker = MLflowRun(uri, "tests", "long", None, {"given": "x" * 9000})
    tracker.tags({"error": "e" * 9000, "k" * 300: "x", "k" * 299 + "j": "y"})
    tracker.parameters({"attacks": ["long"] * 2000, "deep": {"d" * 300: 1}})
    tracker.close("FINISHED")
    data = tracker.client.get_run(tracker.run_id).data
    assert not too_long(uri)
    assert [name[:3] for name in data.tags if len(name) == 250] == ["kkk", "kkk"]
    assert data.tags["error"].endswith("eee ... (cut, of 9000 characters)")
    assert data.params["attacks"].endswith("; the whole is in job.yaml)") and len(data.params["attacks"]) == 6000


def test_a_metric_of_a_long_name_is_found_again(uri: str):
    tracker = MLflowRun(uri, "tests", "metric", None, {})
    for _ in range(2):
        tracker.results({"m" * 300: 0.5}, 3)
    assert tracker.logged("m" * 300) == 3 and not too_long(uri)
    (name,) = tracker.client.get_run(tracker.run_id).data.metrics
    assert len(tracker.client.get_metric_history(tracker.run_id, name)) == 1
    tracker.close("FINISHED")


def test_an_experiments_name_is_refused_rather_than_cut():
    with pytest.raises(ValueError, match="at most 256 characters"):
        Tracking(experiment="x" * 257)

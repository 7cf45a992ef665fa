"""The limits of texts are MLflow's own, and nothing is written past them."""

import ast
import json
from pathlib import Path

import pytest
from mlflow.store.model_registry.dbmodels import models as registered
from mlflow.store.tracking.dbmodels import models as tracked
from mlflow.utils import validation

import distrib
from distrib.config.cluster import LONGEST_EXPERIMENT
from distrib.tracking import limits


@pytest.mark.parametrize(
    ("limit", "column", "check"),
    [
        (limits.RUN_TAG, tracked.SqlTag.value, validation.MAX_TAG_VAL_LENGTH),
        (limits.PARAMETER, tracked.SqlParam.value, validation.MAX_PARAM_VAL_LENGTH),
        (limits.NAME, tracked.SqlTag.key, validation.MAX_ENTITY_KEY_LENGTH),
        (limits.NAME, tracked.SqlParam.key, validation.MAX_ENTITY_KEY_LENGTH),
        (limits.NAME, tracked.SqlMetric.key, validation.MAX_ENTITY_KEY_LENGTH),
        (LONGEST_EXPERIMENT, tracked.SqlExperiment.name, validation.MAX_EXPERIMENT_NAME_LENGTH),
        (limits.MODEL_TAG, registered.SqlRegisteredModelTag.value, validation.MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH),
        (limits.NAME, registered.SqlRegisteredModelTag.key, validation.MAX_MODEL_REGISTRY_TAG_KEY_LENGTH),
        (limits.VERSION_TAG, registered.SqlModelVersionTag.value, validation.MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH),
        (limits.NAME, registered.SqlModelVersionTag.key, validation.MAX_MODEL_REGISTRY_TAG_KEY_LENGTH),
        (limits.DESCRIPTION, registered.SqlModelVersion.description, 5000),
    ],
)
def test_the_limits_are_those_of_the_installed_mlflow(limit: int, column, check: int):
    length = getattr(column.type, "length", None)
    assert limit <= check and (length is None or limit <= length)


def test_a_record_is_cut_inside_and_keeps_its_hashes():
    record = {"reason": "r" * 4000, "terms": {"attacks": "a" * 4000, "sha": "f" * 64}, "flags": ["x"], "p": 0.5}
    text = limits.compact(record, 5000)
    found = json.loads(text)
    assert len(text) <= 5000 and found["terms"]["sha"] == "f" * 64 and found["p"] == 0.5
    assert found["reason"].endswith("(cut, of 4000 characters)")
    assert json.loads(limits.compact(found, 5000)) == found


WRITES = (
    "set_model_version_tag", "set_registered_model_tag", "update_model_version", "update_registered_model", "set_tag",
    "set_experiment_tag", "log_param", "log_batch", "log_metric", "create_run",
)  # fmt: skip


def test_all_writes_pass_through_the_limits():
    """Of MLflow's calls that take a text, only those two modules make any."""
    found = {
        path.stem
        for path in Path(distrib.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in WRITES
    }
    assert found == {"limits", "mlflow_run"}

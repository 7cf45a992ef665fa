"""Strict validation of Ray's kinds against KubeRay's own CustomResourceDefinitions, without a cluster.

A cluster prunes what a schema does not know; here it is an error, since it is a mistyped field. Defaults are filled in
first, as the API server does.
"""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator


@cache
def validator(crds: Path, kind: str) -> tuple[Draft202012Validator, dict]:
    for path in sorted(crds.glob("*.yaml")):
        crd = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if crd["spec"]["names"]["kind"] == kind:
            (version,) = [one for one in crd["spec"]["versions"] if one["name"] == "v1"]
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            return Draft202012Validator(schema), schema
    raise AssertionError(f"no CustomResourceDefinition of {kind} in {crds}")


def faults(crds: Path, document: dict[str, Any]) -> list[str]:
    """What the schema of the document's kind says against it."""
    checker, schema = validator(crds, document["kind"])
    whole = copy.deepcopy(document)
    fill(schema, whole)
    return [f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in checker.iter_errors(whole)]


def strict(schema: Any) -> Any:
    """An OpenAPI v3 schema of Kubernetes as JSON Schema that knows no other fields."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "description"}
    for key in ("properties",):
        if key in found:
            found[key] = {name: strict(one) for name, one in found[key].items()}
    for key in ("items", "additionalProperties", "anyOf", "allOf", "oneOf", "not"):
        if key in found:
            found[key] = strict(found[key])
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    loose = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in found
    if "properties" in found and not loose:
        found["additionalProperties"] = False
    if found.pop("nullable", False) and "type" in found:
        found["type"] = [found["type"], "null"]
    return found


def fill(schema: dict, value: Any) -> None:
    """Defaults into the value, in place."""
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name not in value and "default" in part:
                value[name] = copy.deepcopy(part["default"])
            if name in value:
                fill(part, value[name])
        other = schema.get("additionalProperties")
        if isinstance(other, dict):
            for name in value.keys() - schema.get("properties", {}).keys():
                fill(other, value[name])
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for one in value:
            fill(schema["items"], one)

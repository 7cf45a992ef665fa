"""The manifests as kustomize renders them, and what is in them."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
KUBECTL = shutil.which("kubectl")
WHY_NOT = "kubectl, which renders the manifests, is not on PATH"


def locked(package: str) -> str:
    """The version that requirements.lock pins."""
    found = re.search(rf"^{re.escape(package)}==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


@cache
def rendered(overlay: str) -> str:
    """What would be applied."""
    assert KUBECTL is not None
    done = subprocess.run(
        [KUBECTL, "kustomize", str(K8S / "overlays" / overlay)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout


def objects(overlay: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(rendered(overlay)) if document]


def of_kind(overlay: str, *kinds: str) -> list[dict[str, Any]]:
    return [document for document in objects(overlay) if document["kind"] in kinds]


def cluster_of(document: dict) -> dict | None:
    """The Ray cluster that a RayJob or RayCluster describes."""
    if document["kind"] == "RayCluster":
        return document["spec"]
    return document["spec"].get("rayClusterSpec")


def pods(documents: list[dict]) -> Iterator[tuple[str, dict]]:
    """Every pod template, with the name of what it belongs to."""
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] in ("RayJob", "RayCluster"):
            cluster = cluster_of(document)
            if cluster is not None:
                yield f"{name} head", cluster["headGroupSpec"]["template"]
                for group in cluster["workerGroupSpecs"]:
                    yield f"{name} {group['groupName']}", group["template"]
        elif document["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield name, document["spec"]["template"]


def containers(template: dict) -> list[dict]:
    return template["spec"]["containers"] + template["spec"].get("initContainers", [])

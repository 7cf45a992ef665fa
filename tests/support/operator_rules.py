"""What KubeRay 1.7 refuses though its schemas let it through (ray-operator/controllers/ray/utils/validation.go)."""

import re
from typing import Any

from manifests import cluster_of

RESOURCES = {"num-cpus", "num-gpus", "memory", "resources"}


def faults(document: dict[str, Any]) -> list[str]:
    """Everything that the operator would refuse about a RayJob or RayCluster; empty if nothing."""
    found = _name(document["metadata"]["name"])
    if document["kind"] == "RayJob":
        found += _job(document["spec"])
    cluster = cluster_of(document)
    if cluster is not None:
        found += _cluster(cluster, document["kind"] == "RayJob")
    return found


def _name(name: str) -> list[str]:
    good = len(name) <= 47 and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    return [] if good else [f"name {name!r} is no DNS-1035 label of at most 47 letters"]


def _job(spec: dict[str, Any]) -> list[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    retries, selector = spec.get("backoffLimit", 0), spec.get("clusterSelector")
    shuts = spec.get("shutdownAfterJobFinishes", False)
    rules = {
        f"submissionMode {mode!r} is none": mode not in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"),
        "suspend needs shutdownAfterJobFinishes": spec.get("suspend", False) and not shuts,
        "ttlSecondsAfterFinished needs shutdownAfterJobFinishes": spec.get("ttlSecondsAfterFinished", 0) and not shuts,
        "ttlSecondsAfterFinished is negative": spec.get("ttlSecondsAfterFinished", 0) < 0,
        "backoffLimit is negative": retries < 0,
        "suspend goes with no clusterSelector": spec.get("suspend", False) and selector,
        "backoffLimit goes with no clusterSelector": retries > 0 and selector,
        "shutdownAfterJobFinishes goes with no clusterSelector": shuts and selector,
        "clusterSelector goes with no SidecarMode": selector and mode == "SidecarMode",
        "InteractiveMode goes with no backoffLimit": mode == "InteractiveMode" and retries > 0,
        "neither rayClusterSpec nor clusterSelector": not selector and "rayClusterSpec" not in spec,
        "SidecarMode goes with no submitter of its own": mode == "SidecarMode"
        and ("submitterPodTemplate" in spec or "submitterConfig" in spec),
        "deletionStrategy goes with no shutdownAfterJobFinishes": "deletionStrategy" in spec and shuts,
    }
    for deadline in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        rules[f"{deadline} is not positive"] = deadline in spec and spec[deadline] <= 0
    entrypoint = spec.get("entrypoint", "")
    rules["the entry point is more than one command"] = bool(re.search(r"[;&|\n\"'\[\]]", entrypoint))
    rules["there is no entry point"] = not entrypoint and mode != "InteractiveMode"
    return [text for text, broken in rules.items() if broken]


def _cluster(spec: dict[str, Any], of_job: bool) -> list[str]:
    groups = [("head", spec["headGroupSpec"]), *((group["groupName"], group) for group in spec["workerGroupSpecs"])]
    autoscaled = spec.get("enableInTreeAutoscaling", False)
    auth = spec.get("authOptions", {})
    version = tuple(int(part) for part in spec.get("rayVersion", "0").split(".")[:2])
    found = []
    if "networkPolicy" in spec or "tlsOptions" in spec:
        found.append("networkPolicy and tlsOptions are behind gates that are off")
    if auth.get("mode") == "token" and version < (2, 52):
        found.append("token authentication needs rayVersion 2.52")
    if auth.get("enableK8sTokenAuth") and of_job:
        found.append("enableK8sTokenAuth is not for RayJob")
    for name, group in groups:
        parameters, template = group.get("rayStartParams", {}), group["template"]["spec"]
        if "labels" in parameters:
            found.append(f"{name}: rayStartParams.labels is forbidden")
        if RESOURCES & set(parameters) and group.get("resources"):
            found.append(f"{name}: resources both in rayStartParams and in the group")
        if not template.get("containers"):
            found.append(f"{name}: no container")
        if autoscaled and spec.get("autoscalerOptions", {}).get("version") == "v2":
            if template.get("restartPolicy", "Never") != "Never":
                found.append(f"{name}: autoscaler v2 takes restartPolicy Never")
            if any(
                one["name"] == "RAY_enable_autoscaler_v2"
                for box in template["containers"]
                for one in box.get("env", ())
            ):
                found.append(f"{name}: RAY_enable_autoscaler_v2 clashes with autoscalerOptions.version")
    for group in spec["workerGroupSpecs"]:
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 2**31)
        if low > high:
            found.append(f"{group['groupName']}: minReplicas above maxReplicas")
        if not autoscaled and not ("minReplicas" in group and "maxReplicas" in group):
            found.append(f"{group['groupName']}: without autoscaling minReplicas and maxReplicas are both needed")
        if not low <= group.get("replicas", low) <= high:
            found.append(f"{group['groupName']}: replicas outside minReplicas and maxReplicas")
    names = [group["groupName"] for group in spec["workerGroupSpecs"]]
    if len(set(names)) < len(names):
        found.append("two worker groups have one name")
    return found

"""The manifests: rendered, held against schemas and rules, and against distrib itself."""

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import operator_rules
import pytest
import schema
import yaml
from manifests import K8S, KUBECTL, OVERLAYS, WHY_NOT, cluster_of, containers, locked, objects, of_kind, pods, rendered

from distrib import __version__
from distrib.cli import parser
from distrib.cli.dry_run import plan
from distrib.cluster.session import Node, Resources
from distrib.config.file import read
from distrib.config.job import Prepare, Train, Tune

pytestmark = pytest.mark.skipif(KUBECTL is None, reason=WHY_NOT)

EXTERNAL = {"distrib-mlflow-client", "distrib-mlflow-server", "distrib-postgres"}
"""Secrets that k8s/README.md has the administrator make."""
RAY = ("RayJob", "RayCluster")
CORE_VERSIONS = ("1.30", "1.35")
"""The oldest and the newest that are supported."""
CRDS = Path(os.environ.get("DISTRIB_TEST_CRDS") or "none")
no_crds = pytest.mark.skipif(not CRDS.is_dir(), reason="DISTRIB_TEST_CRDS names no folder with KubeRay's schemas")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_renders_alike_every_time_with_images_that_are_named(overlay: str):
    text = rendered(overlay)
    rendered.cache_clear()
    assert rendered(overlay) == text
    images = [box["image"] for _, template in pods(objects(overlay)) for box in containers(template)]
    assert images
    for image in images:
        name, _, tag = image.rpartition(":")
        assert name not in ("", "distrib") and tag not in ("", "latest"), image
    if overlay != "local":
        assert {image.rpartition(":")[2] for image in images if "distrib" in image} <= {__version__}


def test_every_component_is_used():
    used = "".join(path.read_text() for path in K8S.rglob("kustomization.yaml"))
    for component in (K8S / "components").iterdir():
        assert f"components/{component.name}" in used, component


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "mlflow"])
@no_crds
def test_ray_kinds_fit_their_schemas_strictly(overlay: str):
    documents = of_kind(overlay, *RAY)
    assert documents
    for document in documents:
        assert schema.faults(CRDS, document) == []


def at(document: Any, path: str) -> tuple[Any, Any]:
    """The holder and the last key of a path such as spec/0/name."""
    keys = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in keys[:-1]:
        document = document[key]
    return document, keys[-1]


def setting(path: str, value: Any) -> Callable[[dict], None]:
    def mutate(document: dict) -> None:
        holder, key = at(document, path)
        if isinstance(holder, list) and key == len(holder):
            holder.append(value)
        else:
            holder[key] = value

    return mutate


def lacking(path: str) -> Callable[[dict], None]:
    def mutate(document: dict) -> None:
        holder, key = at(document, path)
        del holder[key]

    return mutate


WORKER = "spec/rayClusterSpec/workerGroupSpecs/0"
HEAD = "spec/rayClusterSpec/headGroupSpec"
MUTATIONS = {
    "a number in rayStartParams": setting(f"{HEAD}/rayStartParams/num-cpus", 0),
    "a mistyped field of the job": setting("spec/backOffLimit", 3),
    "a mistyped field of a pod": setting(f"{WORKER}/template/spec/containers/0/imagePullpolicy", "Always"),
    "a field of a pod in the container": setting(f"{WORKER}/template/spec/containers/0/restartPolicy2", "Never"),
    "text for a number": setting("spec/ttlSecondsAfterFinished", "600"),
    "no group name": lacking(f"{WORKER}/groupName"),
    "no worker template": lacking(f"{WORKER}/template"),
    "no head": lacking(HEAD),
    "a container without a name": lacking(f"{WORKER}/template/spec/containers/0/name"),
    "a mount without a path": lacking(f"{WORKER}/template/spec/containers/0/volumeMounts/0/mountPath"),
    "containers that are no list": setting(f"{WORKER}/template/spec/containers", {"name": "ray-worker"}),
    "an unknown authentication mode": setting("spec/rayClusterSpec/authOptions/mode", "open"),
    "a text for true": setting("spec/shutdownAfterJobFinishes", "yes"),
    "a toleration that is text": setting(f"{WORKER}/template/spec/tolerations", ["nvidia.com/gpu"]),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@no_crds
def test_the_schema_catches(mutation: str):
    """The guard of the guard: each deliberate fault must be found."""
    (document,) = of_kind("volcano", "RayJob")
    assert schema.faults(CRDS, document) == []
    document = copy.deepcopy(document)
    MUTATIONS[mutation](document)
    assert schema.faults(CRDS, document) != [], mutation


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_the_operator_would_refuse(overlay: str):
    for document in of_kind(overlay, *RAY):
        assert operator_rules.faults(document) == [], document["metadata"]["name"]


BROKEN_RULES = {
    "a name too long": setting("metadata/name", "d" * 48),
    "a name with a dot": setting("metadata/name", "distrib.train"),
    "an unknown mode": setting("spec/submissionMode", "HttpMode"),
    "a time to live without a shutdown": setting("spec/shutdownAfterJobFinishes", False),
    "a suspended job that keeps its cluster": lambda document: (
        setting("spec/suspend", True)(document), lacking("spec/ttlSecondsAfterFinished")(document),
        lacking("spec/shutdownAfterJobFinishes")(document),
    ),
    "a selector beside retries": setting("spec/clusterSelector", {"ray.io/cluster": "x"}),
    "two commands": setting("spec/entrypoint", "distrib run a.yaml; distrib run b.yaml"),
    "a deadline of nothing": setting("spec/activeDeadlineSeconds", 0),
    "a policy behind a gate": setting("spec/rayClusterSpec/networkPolicy", {"mode": "DenyAll"}),
    "an old Ray with a token": setting("spec/rayClusterSpec/rayVersion", "2.50.0"),
    "resources named twice": setting(f"{HEAD}/resources", {"CPU": "0"}),
    "more replicas than the most": setting(f"{WORKER}/replicas", 5),
    "no least number of replicas": lacking(f"{WORKER}/minReplicas"),
    "labels in rayStartParams": setting(f"{HEAD}/rayStartParams/labels", "a=b"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", BROKEN_RULES)
def test_the_rules_catch(mutation: str):
    (document,) = of_kind("volcano", "RayJob")
    document = copy.deepcopy(document)
    BROKEN_RULES[mutation](document)
    assert operator_rules.faults(document) != [], mutation


@pytest.mark.parametrize("version", CORE_VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_other_kind_fits_kubernetes(overlay: str, version: str):
    import kubernetes_validate

    documents = [document for document in [*objects(overlay), namespace(), loader()] if document["kind"] not in RAY]
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def loader() -> dict:
    return yaml.safe_load((K8S / "admin" / "loader.yaml").read_text())


def namespace() -> dict:
    return yaml.safe_load((K8S / "namespace.yaml").read_text())


def test_the_check_of_other_kinds_catches_what_it_should():
    import kubernetes_validate

    (policy,) = [one for one in of_kind("volcano", "NetworkPolicy") if one["metadata"]["name"] == "distrib-ray"]
    for path, value in (("spec/podselector", {}), ("spec/ingress", "all"), ("apiVersion", "networking.k8s.io/v9")):
        broken = copy.deepcopy(policy)
        setting(path, value)(broken)
        with pytest.raises((kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)):
            kubernetes_validate.validate(broken, CORE_VERSIONS[-1], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_named_is_there(overlay: str):
    """ConfigMaps, Secrets, claims and accounts of every pod; a volume for each mount; a pod for each selector."""
    documents = objects(overlay)
    made = {(one["kind"], one["metadata"]["name"]) for one in documents}
    templates = list(pods(documents))
    for name, template in templates:
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        claims = {one["metadata"]["name"] for document in documents if document["kind"] == "StatefulSet"
                  for one in document["spec"].get("volumeClaimTemplates", [])}  # fmt: skip
        named = [("ConfigMap", volume["configMap"]["name"]) for volume in volumes.values() if "configMap" in volume]
        named += [("Secret", volume["secret"]["secretName"]) for volume in volumes.values() if "secret" in volume]
        named += [("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
                  for volume in volumes.values() if "persistentVolumeClaim" in volume]  # fmt: skip
        if "serviceAccountName" in spec:
            named.append(("ServiceAccount", spec["serviceAccountName"]))
        for box in containers(template):
            for one in box.get("env", []):
                source = one.get("valueFrom", {}).get("secretKeyRef")
                if source:
                    named.append(("Secret", source["name"]))
            for mount in box.get("volumeMounts", []):
                assert mount["name"] in volumes or mount["name"] in claims, f"{name}: no volume {mount['name']}"
        for kind, one in named:
            outside = kind == "Secret" and one in EXTERNAL and overlay != "local"
            assert (kind, one) in made or outside, f"{name}: there is no {kind} {one}"
    labels = [template["metadata"]["labels"] for _, template in templates]
    for document in documents:
        selectors = {
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "Service": lambda spec: spec["selector"],
        }
        if document["kind"] in selectors:
            wanted = selectors[document["kind"]](document["spec"]).items()
            assert any(wanted <= one.items() for one in labels), document["metadata"]["name"]
    assert {one["metadata"].get("namespace") for one in documents} == {namespace()["metadata"]["name"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_passes_the_restricted_standard(overlay: str):
    """Pod Security, restricted, and what we ask of ourselves beyond it."""
    for name, template in [*pods(objects(overlay)), ("loader", loader())]:
        spec = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        kinds = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= kinds, f"{name}: {volume}"
            if "persistentVolumeClaim" not in volume and volume["name"] == "dshm":
                assert volume["emptyDir"]["medium"] == "Memory"
        for box in containers(template):
            assert box["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }, name  # fmt: skip
            asked, most = box["resources"]["requests"], box["resources"]["limits"]
            assert asked["memory"] == most["memory"] and set(asked) == set(most), name
            if "ray-" in box["name"]:
                assert asked == most, f"{name}: Ray believes its limits"
            assert not any(ports.get("hostPort") for ports in box.get("ports", [])), name
    for document in of_kind(overlay, *RAY):
        cluster = cluster_of(document)
        if cluster is None:
            continue
        if cluster.get("enableInTreeAutoscaling"):
            beside = cluster["autoscalerOptions"]["securityContext"]
            assert beside["allowPrivilegeEscalation"] is False and beside["capabilities"] == {"drop": ["ALL"]}
            assert "automountServiceAccountToken" not in cluster["headGroupSpec"]["template"]["spec"], "it needs one"
        else:
            for _, template in pods([document]):
                assert template["spec"]["automountServiceAccountToken"] is False
        head = cluster["headGroupSpec"]
        assert head["rayStartParams"]["num-cpus"] == "0", "no worker beside the driver"
        assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
        for _, template in pods([document]):
            (shm,) = [volume for volume in template["spec"]["volumes"] if volume["name"] == "dshm"]
            memory = template["spec"]["containers"][0]["resources"]["limits"]["memory"]
            assert 2 * gibibytes(shm["emptyDir"]["sizeLimit"]) <= gibibytes(memory)


def gibibytes(text: str) -> int:
    assert text.endswith("Gi"), text
    return int(text.removesuffix("Gi"))


QUEUE = "kueue.x-k8s.io/queue-name"


def test_the_readme_prepares_what_its_overlays_take():
    """A job in Kueue's queue is suspended until Kueue, and that queue, are there."""
    text = (K8S / "README.md").read_text()
    queues = list(yaml.safe_load_all((K8S / "admin" / "kueue-queues.example.yaml").read_text()))
    (queue,) = [one["metadata"] for one in queues if one["kind"] == "LocalQueue"]
    applied = re.findall(r"kubectl apply -k k8s/overlays/(\S+)", text)
    assert {"mlflow", "gpu", "tune"} <= set(applied)
    queued = 0
    for overlay in applied:
        for document in of_kind(overlay, "RayJob"):
            if QUEUE in document["metadata"].get("labels", {}):
                queued += 1
                assert document["metadata"]["labels"][QUEUE] == queue["name"] and queue["namespace"] == "distrib"
                before = text[: text.index(f"kubectl apply -k k8s/overlays/{overlay}")]
                assert "helm install kueue " in before and "apply -f k8s/admin/kueue-queues.example.yaml" in before
    assert queued, "no overlay is queued: the steps for Kueue can go"


def test_the_readme_names_the_namespace_in_every_command_that_needs_it():
    text = (K8S / "README.md").read_text()
    commands = re.findall(r"kubectl (?!apply\b|drain\b)[^`\n]*", text)
    wrong = [one for one in commands if not one.startswith("kubectl -n distrib ") and "delete -k" not in one]
    assert len(commands) > 10 and wrong == []


def test_no_secret_lies_in_the_repository():
    """Those of the local overlay say themselves that they are none."""
    for path in K8S.rglob("*.yaml"):
        assert not re.search(r"^kind: Secret$", path.read_text(), re.MULTILINE), path
        for line in path.read_text().splitlines():
            if re.search(r"passw|secret-key=|admin-password=|:[^/@ ]+@", line) and "=" in line:
                assert "only-for-this-laptop" in line and "local" in str(path), f"{path}: {line}"


def jobs() -> list[tuple[str, dict, str]]:
    """(overlay, the Ray kind, the job file) of every job that is mounted."""
    found = []
    for overlay in OVERLAYS if KUBECTL else []:
        for config in of_kind(overlay, "ConfigMap"):
            found += [(overlay, one, config["data"]["job.yaml"]) for one in of_kind(overlay, *RAY) if cluster_of(one)]
    return found


@pytest.mark.parametrize(("overlay", "document", "text"), jobs(), ids=lambda value: value if value in OVERLAYS else "")
def test_the_command_and_its_job_are_ones_that_distrib_takes(
    overlay: str, document: dict, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The entry point is parsed by distrib's own command line, its file read by distrib, and it fits the cluster."""
    (entry,) = {one["spec"]["entrypoint"] for one in of_kind(overlay, "RayJob")}
    options = parser.parser().parse_args(entry.split()[1:])
    assert entry.split()[0] == "distrib" and options.verb == "run"
    spec = cluster_of(document)
    assert spec is not None
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    (mount,) = [one for one in head["volumeMounts"] if one["name"] == "job"]
    assert str(options.job) == f"{mount['mountPath']}/job.yaml"
    (tmp_path / "job.yaml").write_text(text)
    job = read(tmp_path / "job.yaml")
    assert not isinstance(job, Prepare)
    data = job.train.data if isinstance(job, Tune) else job.data
    places = [job.storage, data.store, *filter(None, [getattr(data, "root", None), job.cluster.stage])]
    mounts = [one["mountPath"] for one in head["volumeMounts"]]
    for place in places:
        assert any(place.startswith(f"{one}/") for one in mounts), f"{place} is on no volume"
    nodes = []
    for group in spec["workerGroupSpecs"]:
        has = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        nodes += [Node(float(has["cpu"]), float(has.get("nvidia.com/gpu", 0)))] * group["maxReplicas"]
    cluster = job.cluster.model_copy(update={"autoscaling": False})
    Resources(tuple(nodes), local=False).check(cluster)
    if isinstance(job, Train):
        assert Resources(tuple(nodes), local=False).use_gpu(cluster) == (overlay in ("gpu", "gpu-spot"))
    if isinstance(job, Tune):
        asked = (job.concurrent or 1) * job.cluster.max_workers * job.cluster.cpus_per_worker
        assert job.cluster.autoscaling and asked <= sum(node.cpus for node in nodes)
    here = job.model_copy(update={"storage": str(tmp_path)})
    for check in ("must_be_there", "must_fit", "_found"):  # the data, the GPUs and the models are on the cluster
        monkeypatch.setattr(f"distrib.cli.dry_run.{check}", lambda *_: ())
    assert "run: " in "".join(plan(here))


def test_the_version_of_ray_is_that_of_the_lock():
    for overlay in OVERLAYS:
        for document in of_kind(overlay, *RAY):
            cluster = cluster_of(document)
            if cluster is not None:
                assert cluster["rayVersion"] == locked("ray")

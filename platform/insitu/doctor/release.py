"""A release in the cluster: Helm's record of it, and how its pods, volumes and Services are.

Not here: whether it answers (visit).
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Any

from insitu.runs.launch.kubernetes.api import ApiRefused

from .cluster import Cluster
from .finding import BAD, NOTE, OK, Finding
from .trial import homeless
from .values import SiteValues

MANY_RESTARTS = 5
PREPARATION = ("preparation", "airflow-migration")
KINDS = ("deployments", "statefulsets")
FOREIGN = "doctor.invalid/not-allowed@sha256:" + 64 * "0"
NEWEST_EVENTS = 3


def installed(cluster: Cluster, values: SiteValues) -> list[dict[str, Any]]:
    """Deployments and StatefulSets of the release; none where it is not there."""
    selector = ",".join(f"{key}={value}" for key, value in values.selector().items())
    found = []
    for kind in KINDS:
        path = f"/apis/apps/v1/namespaces/{values.namespace}/{kind}"
        found += [{**item, "kind": kind} for item in cluster.items(path, labelSelector=selector)]
    return found


def platform_image(workloads: list[dict[str, Any]]) -> str | None:
    """The platform's image as the api runs it. Pure."""
    for item in workloads:
        if item["metadata"]["labels"].get("app.kubernetes.io/component") == "api":
            image: str = item["spec"]["template"]["spec"]["containers"][0]["image"]
            return image
    return None


def record(cluster: Cluster, namespace: str, release: str) -> dict[str, Any] | None:
    """Helm's newest record of the release: its status, version and values; None where there is none.

    Raises
    ------
    NoRight
        The caller may not read Secrets.
    """
    found = cluster.items(f"/api/v1/namespaces/{namespace}/secrets", labelSelector=f"owner=helm,name={release}")
    if not found:
        return None
    newest = max(found, key=lambda item: int(item["metadata"]["labels"].get("version", 0)))
    try:
        content = base64.b64decode(base64.b64decode(newest["data"]["release"]))
        decoded = json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (KeyError, ValueError, OSError, binascii.Error):
        decoded = {}
    labels = newest["metadata"]["labels"]
    return {"status": labels.get("status"), "revision": labels.get("version"), "values": decoded.get("config") or {}}


def status_finding(found: Mapping[str, Any] | None, values: SiteValues) -> Finding:
    """Helm's word on its last command. Pure."""
    if found is None:
        return Finding("release", NOTE, f"Helm has no record of {values.release}: it was installed by other means")
    says = f"{values.release} in {values.namespace}, revision {found['revision']}: {found['status']}"
    if found["status"] == "deployed":
        return Finding("release", OK, says)
    return Finding(
        "release",
        BAD,
        says,
        f"helm -n {values.namespace} history {values.release}; mend what follows, then `helm upgrade` again",
    )


def check(cluster: Cluster, values: SiteValues, workloads: list[dict[str, Any]]) -> Iterator[Finding]:
    """Each workload with its pods, the preparation, the volumes and the receiver's Service."""
    selector = ",".join(f"{key}={value}" for key, value in values.selector().items())
    base = f"/api/v1/namespaces/{values.namespace}"
    pods = cluster.items(f"{base}/pods", labelSelector=selector)
    events = cluster.items(f"{base}/events", fieldSelector="type=Warning")
    for item in workloads:
        name = item["metadata"]["labels"]["app.kubernetes.io/component"]
        own = [pod for pod in pods if pod["metadata"].get("labels", {}).get("app.kubernetes.io/component") == name]
        yield workload_finding(item, own, events, values.namespace)
    for job in cluster.items(f"/apis/batch/v1/namespaces/{values.namespace}/jobs", labelSelector=selector):
        if job["metadata"]["labels"].get("app.kubernetes.io/component") in PREPARATION:
            yield job_finding(job, values.namespace)
    for volume in values.volumes():
        claim = cluster.get(f"{base}/persistentvolumeclaims/{volume.claim}")
        phase = claim["status"].get("phase") if claim is not None else "not there"
        if phase == "Bound":
            yield Finding(f"volume {volume.server}", OK, f"{volume.claim} is bound")
        else:
            yield Finding(
                f"volume {volume.server}", BAD, f"{volume.claim} is {phase}",
                f"kubectl -n {values.namespace} describe pvc {volume.claim}: name a storage class by {volume.value}.storageClassName",
            )  # fmt: skip
    service = cluster.get(f"{base}/services/{values.name}-receiver")
    if service is not None:
        yield service_finding(service)


def workload_finding(
    item: Mapping[str, Any], pods: list[dict[str, Any]], events: list[dict[str, Any]], namespace: str
) -> Finding:
    """How the pods of one Deployment or StatefulSet are; where they are not ready, why. Pure."""
    check = str(item["metadata"]["labels"]["app.kubernetes.io/component"])
    wanted = int(item["spec"].get("replicas", 1))
    ready = int((item.get("status") or {}).get("readyReplicas") or 0)
    restarts = sum(int(status.get("restartCount", 0)) for pod in pods for status in statuses(pod))
    died = next((why for pod in pods if (why := last_death(pod))), "")
    says = f"{ready} of {wanted} ready" + (
        f", {restarts} restarts{f', the last: {died}' if died else ''}" if restarts else ""
    )
    if ready >= wanted:
        many = restarts >= MANY_RESTARTS
        return Finding(
            check,
            NOTE if many else OK,
            says,
            f"kubectl -n {namespace} logs --previous {kind_name(item)}" if many else "",
        )
    reasons = list(dict.fromkeys(reason for pod in pods if (reason := trouble(pod))))
    names = {pod["metadata"]["name"] for pod in pods} | {item["metadata"]["name"]}
    told = [
        str(event.get("message"))
        for event in sorted(events, key=lambda event: str(event.get("lastTimestamp") or ""))
        if event.get("involvedObject", {}).get("name", "").startswith(tuple(names))
    ]
    why = "; ".join([*reasons, *dict.fromkeys(told[-NEWEST_EVENTS:])]) or "no reason is told"
    return Finding(
        check, BAD, f"{says}: {why[:1000]}",
        f"kubectl -n {namespace} describe pod -l app.kubernetes.io/component={check}; docs/kubernetes.md, \"Troubleshooting\"",
    )  # fmt: skip


def kind_name(item: Mapping[str, Any]) -> str:
    """A workload as kubectl takes it. Pure."""
    return f"{str(item['kind']).removesuffix('s')}/{item['metadata']['name']}"


def statuses(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """States of a pod's containers, in the order in which they start. Pure."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def last_death(pod: Mapping[str, Any]) -> str:
    """How a container ended before it was started again; empty where none did. Pure."""
    for status in statuses(pod):
        ended = (status.get("lastState") or {}).get("terminated")
        if ended:
            return f"{status['name']}: {ended.get('reason') or 'ended'}, exit code {ended.get('exitCode')}"
    return ""


def trouble(pod: Mapping[str, Any]) -> str:
    """Why a pod is not ready; empty where it is. Pure."""
    waits = homeless(pod)
    if waits:
        return f"no node takes it: {waits}"
    for status in statuses(pod):
        state = status.get("state") or {}
        waiting, ended = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
            return f"{status['name']}: {waiting.get('reason')}" + (
                f": {waiting['message']}" if waiting.get("message") else ""
            )
        if ended and ended.get("exitCode"):
            return f"{status['name']}: {ended.get('reason')}, exit code {ended['exitCode']}"
        if "running" in state and not status.get("ready"):
            return f"{status['name']} runs and is not ready"
        if waiting:
            return f"{status['name']}: {waiting['reason']}"
    return "" if statuses(pod) else str((pod.get("status") or {}).get("phase"))


def job_finding(job: Mapping[str, Any], namespace: str) -> Finding:
    """A Job that brings a schema up to date. Pure."""
    check = str(job["metadata"]["labels"]["app.kubernetes.io/component"])
    status = job.get("status") or {}
    name = job["metadata"]["name"]
    if status.get("succeeded"):
        return Finding(check, OK, f"{name} has ended well")
    logs = f"kubectl -n {namespace} logs job/{name}"
    if any(each["type"] == "Failed" and each["status"] == "True" for each in status.get("conditions") or ()):
        return Finding(check, BAD, f"{name} has failed: every other pod waits for it", logs)
    return Finding(check, NOTE, f"{name} has not ended yet: the other pods wait for it", logs)


def service_finding(service: Mapping[str, Any]) -> Finding:
    """How senders reach the receiver. Pure."""
    kind = service["spec"]["type"]
    ports = ", ".join(str(port["nodePort" if kind == "NodePort" else "port"]) for port in service["spec"]["ports"])
    if kind == "LoadBalancer":
        given = (service["status"].get("loadBalancer") or {}).get("ingress") or []
        addresses = ", ".join(str(each.get("ip") or each.get("hostname")) for each in given)
        if not addresses:
            return Finding(
                "dicom port", BAD, "the load balancer has given no address to insitu-receiver",
                "Look at the load balancer, or set receiver.service.type: NodePort",
            )  # fmt: skip
        return Finding("dicom port", OK, f"{addresses}, port {ports}")
    if kind == "NodePort":
        return Finding("dicom port", OK, f"port {ports} of every node")
    return Finding(
        "dicom port", NOTE, f"ClusterIP, port {ports}: senders outside the cluster do not reach it",
        "Set receiver.service.type to LoadBalancer or NodePort",
    )  # fmt: skip


def policies(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """Whether both namespaces have their default deny, and whether a foreign image is refused in the algorithms'."""
    for namespace in (values.namespace, values.algorithms):
        found = cluster.items(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies")
        denied = {
            kind
            for item in found
            if not item["spec"].get("podSelector")
            for kind in item["spec"].get("policyTypes", ())
            if not item["spec"].get(kind.lower())
        }
        if denied >= {"Ingress", "Egress"}:
            yield Finding("default deny", OK, f"{namespace} has it, in both directions")
        else:
            yield Finding(
                "default deny", BAD, f"{namespace} has no policy that denies everything in both directions",
                "Set networkPolicy.create: true, or make one yourself",
            )  # fmt: skip
    yield foreign_image(cluster, values)


def foreign_image(cluster: Cluster, values: SiteValues) -> Finding:
    """Whether the API server refuses a pod whose image nobody has allowed; nothing is made."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "not-allowed"},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "c",
                    "image": FOREIGN,
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
                }
            ],
        },
    }
    try:
        cluster.create(f"/api/v1/namespaces/{values.algorithms}/pods", body, dry=True)
    except ApiRefused as error:
        if "not allowed" in error.message or "denied" in error.message:
            return Finding(
                "admission policy", OK, f"an image that nobody has allowed is refused in {values.algorithms}"
            )
        return Finding("admission policy", NOTE, f"not checked: {error.message}")
    return Finding(
        "admission policy", BAD, f"an image that nobody has allowed may run in {values.algorithms}",
        "Set admissionPolicy.create: true, or let the cluster's owner make the policy (docs/kubernetes.md)",
    )  # fmt: skip

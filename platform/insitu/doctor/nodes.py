"""The nodes: which have a GPU, whether there is room on them, how many processes a pod may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .classes import there
from .cluster import Cluster
from .finding import BAD, NOTE, OK, Finding
from .quantities import bytes_said, quantity
from .values import Need, SiteValues

TAINTS = ("NoSchedule", "NoExecute")


def gpu(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """Nodes that offer the GPU resource and take algorithm pods; runtime and priority class of these."""
    launcher = values.launcher
    resource = launcher.gpu_resource
    nodes = cluster.items("/api/v1/nodes")
    offering = [node for node in nodes if quantity(node["status"].get("allocatable", {}).get(resource, 0)) >= 1]
    if offering:
        numbers = ", ".join(
            f"{node['metadata']['name']} ({node['status']['allocatable'][resource]})" for node in offering
        )
        closed = [node for node in offering if not takes(node, launcher.node_selector, launcher.tolerations)]
        if len(closed) == len(offering):
            yield Finding(
                "gpu", BAD, f"{resource}: {numbers}; but none of them takes the algorithms' pods",
                "Set algorithms.launcher.tolerations to their taints, and algorithms.launcher.node_selector to their labels",
            )  # fmt: skip
        else:
            yield Finding("gpu", OK, f"{resource}: {numbers}")
    else:
        yield Finding(
            "gpu", NOTE, f"no node offers {resource}: algorithms that need a GPU will wait for one and fail",
            "Install the GPU's device plugin on its nodes; or name the resource it gives by algorithms.launcher.gpu_resource",
        )  # fmt: skip
    if not any(takes(node, launcher.node_selector, launcher.tolerations) for node in nodes):
        yield Finding(
            "algorithms' nodes", BAD,
            f"no node takes algorithm pods: none has the labels {dict(launcher.node_selector)} without a taint in the way",
            "Correct algorithms.launcher.node_selector and algorithms.launcher.tolerations",
        )  # fmt: skip
    priorities = "/apis/scheduling.k8s.io/v1/priorityclasses"
    of_platform = None if values["priorityClass.create"] else values["priorityClass.name"]
    for value, kind, name in (
        ("algorithms.launcher.runtime_class", "/apis/node.k8s.io/v1/runtimeclasses", launcher.runtime_class),
        ("algorithms.launcher.priority_class", priorities, launcher.priority_class),
        ("priorityClass.name", priorities, of_platform),
    ):
        if name:
            yield there(cluster, value, kind, name)


def takes(node: Mapping[str, Any], selector: Mapping[str, str], tolerations: list[dict[str, Any]]) -> bool:
    """Whether a node runs new pods with this selector and these tolerations. Pure."""
    labels = node["metadata"].get("labels") or {}
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions", ()))
    if not ready or any(labels.get(key) != value for key, value in selector.items()):
        return False
    taints = [taint for taint in node["spec"].get("taints") or () if taint.get("effect") in TAINTS]
    return all(any(_tolerates(each, taint) for each in tolerations) for taint in taints)


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return bool(toleration.get("key") == taint["key"]) and toleration.get("value", "") == taint.get("value", "")


def room(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """Whether what the platform's pods ask for is free on the nodes."""
    nodes = cluster.items("/api/v1/nodes")
    own = values.selector().items()
    others = [
        pod
        for pod in cluster.items("/api/v1/pods")
        if pod["metadata"]["namespace"] != values.namespace or not own <= (pod["metadata"].get("labels") or {}).items()
    ]
    yield room_finding(nodes, others, list(values.needs()))


def room_finding(nodes: list[dict[str, Any]], pods: list[dict[str, Any]], needs: list[Need]) -> Finding:
    """Whether the pods fit, the largest first, each on the node with most memory left. Pure."""
    free = {
        node["metadata"]["name"]: [
            quantity(node["status"]["allocatable"].get(kind, 0)) for kind in ("cpu", "memory", "pods")
        ]
        for node in nodes
    }
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node in free and pod["status"].get("phase") not in ("Succeeded", "Failed"):
            cpu, memory = asked(pod["spec"])
            for place, taken in enumerate((cpu, memory, 1)):
                free[node][place] -= taken
    cpu, memory = sum(need.cpu for need in needs), sum(need.memory for need in needs)
    total = f"{cpu:.1f} cores and {bytes_said(memory)} asked for by {len(needs)} pods"
    free_cpu, free_memory = (sum(max(each[place], 0) for each in free.values()) for place in (0, 1))
    left = f"{free_cpu:.1f} cores and {bytes_said(free_memory)} are free"
    homeless = []
    for need in sorted(needs, key=lambda each: -each.memory):
        selector, tolerations = need.scheduling.get("nodeSelector") or {}, need.scheduling.get("tolerations") or []
        able = [
            free[node["metadata"]["name"]]
            for node in nodes
            if takes(node, selector, tolerations)
            and all(
                have >= want
                for have, want in zip(free[node["metadata"]["name"]], (need.cpu, need.memory, 1), strict=True)
            )
        ]
        if not able:
            homeless.append(need.name)
            continue
        chosen = max(able, key=lambda each: each[1])
        for place, taken in enumerate((need.cpu, need.memory, 1)):
            chosen[place] -= taken
    if homeless:
        return Finding(
            "room", BAD, f"{total}, {left}; no room for {', '.join(homeless)}",
            "Add a node, move other work away, lower `resources`, or mend nodeSelector and tolerations of `scheduling`",
        )  # fmt: skip
    return Finding("room", OK, f"{total}, {left}; algorithms come on top")


def asked(spec: Mapping[str, Any]) -> tuple[float, float]:
    """Cores and bytes that a pod holds: the sum of its containers, or its largest init container. Pure."""

    def requests(container: Mapping[str, Any], kind: str) -> float:
        return quantity(((container.get("resources") or {}).get("requests") or {}).get(kind, 0))

    kinds = ("cpu", "memory")
    together = [sum(requests(each, kind) for each in spec.get("containers", ())) for kind in kinds]
    first = [max((requests(each, kind) for each in spec.get("initContainers") or ()), default=0.0) for kind in kinds]
    return max(together[0], first[0]), max(together[1], first[1])


def pids(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """How many processes a pod may have, by the kubelet's configuration."""
    limits: dict[str, int] = {}
    for node in cluster.items("/api/v1/nodes"):
        name = node["metadata"]["name"]
        found = (cluster.get(f"/api/v1/nodes/{name}/proxy/configz") or {}).get("kubeletconfig") or {}
        limits[name] = int(found.get("podPidsLimit", -1))
    yield pids_finding(limits)


def pids_finding(limits: Mapping[str, int]) -> Finding:
    """The kubelets' podPidsLimit by node; -1 is none. Pure."""
    open_ended = sorted(name for name, limit in limits.items() if limit <= 0)
    if open_ended:
        return Finding(
            "processes per pod", NOTE,
            f"no limit on {', '.join(open_ended)}: an algorithm that forks without end can bring the node to a halt",
            "Let the cluster's owner set podPidsLimit in the kubelet's configuration, for example to 4096",
        )  # fmt: skip
    return Finding("processes per pod", OK, f"at most {max(limits.values(), default=0)}")

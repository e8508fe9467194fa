"""Whether the caller may make what the chart makes; a test compares the list with the rendered chart.

Not here: what the platform itself may do (the chart's roles), apart from that whoever makes a role must hold what it gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .cluster import Cluster
from .finding import BAD, OK, Finding
from .values import SiteValues

CHANGE = ("create", "get", "patch", "delete")  # helm install, upgrade and uninstall


@dataclass(frozen=True)
class Kind:
    """A kind of object: its resource and group."""

    resource: str
    group: str = ""


KINDS = {
    "ConfigMap": Kind("configmaps"),
    "Secret": Kind("secrets"),
    "Service": Kind("services"),
    "ServiceAccount": Kind("serviceaccounts"),
    "Pod": Kind("pods"),
    "LimitRange": Kind("limitranges"),
    "ResourceQuota": Kind("resourcequotas"),
    "Deployment": Kind("deployments", "apps"),
    "StatefulSet": Kind("statefulsets", "apps"),
    "Job": Kind("jobs", "batch"),
    "PodDisruptionBudget": Kind("poddisruptionbudgets", "policy"),
    "NetworkPolicy": Kind("networkpolicies", "networking.k8s.io"),
    "Ingress": Kind("ingresses", "networking.k8s.io"),
    "HTTPRoute": Kind("httproutes", "gateway.networking.k8s.io"),
    "Role": Kind("roles", "rbac.authorization.k8s.io"),
    "RoleBinding": Kind("rolebindings", "rbac.authorization.k8s.io"),
    "Certificate": Kind("certificates", "cert-manager.io"),
    "Namespace": Kind("namespaces"),
    "PriorityClass": Kind("priorityclasses", "scheduling.k8s.io"),
    "ValidatingAdmissionPolicy": Kind("validatingadmissionpolicies", "admissionregistration.k8s.io"),
    "ValidatingAdmissionPolicyBinding": Kind("validatingadmissionpolicybindings", "admissionregistration.k8s.io"),
}
GRANTED = {
    True: (  # in the algorithms' namespace, by the roles of launcher and reconciler
        (Kind("jobs", "batch"), ("create", "get", "list", "watch", "patch", "delete")),
        (Kind("pods"), ("get", "list", "watch", "patch")),
        (Kind("pods/log"), ("get",)),
        (Kind("secrets"), ("create", "get", "delete")),
        (Kind("events"), ("list", "watch")),
    ),
    False: ((Kind("services"), ("get",)),),
}


def namespaced(values: SiteValues) -> dict[str, set[str]]:
    """Kinds that the chart makes, by namespace."""
    platform = {"ConfigMap", "Service", "ServiceAccount", "Deployment", "Job", "Role", "RoleBinding"}
    algorithms = {"Role", "RoleBinding"}
    if values["database.bundled.enabled"] or values["objectStore.bundled.enabled"]:
        platform.add("StatefulSet")
    if any(values[f"{part}.podDisruptionBudget.enabled"] for part in ("receiver", "api", "gateway", "dispatcher")):
        platform.add("PodDisruptionBudget")
    if values["networkPolicy.create"]:
        platform.add("NetworkPolicy")
        algorithms.add("NetworkPolicy")
    if values["tests.enabled"]:
        platform.add("Pod")
    if values["ingress.enabled"]:
        platform.add("Ingress")
    if values["gatewayRoute.enabled"]:
        platform.add("HTTPRoute")
    if values["certManager.enabled"]:
        web = values["ingress.enabled"] and not values["ingress.tls.existingSecret"]
        dicom = values["receiver.tls.enabled"] and not values["receiver.tls.existingSecret"]
        if web or dicom:
            platform.add("Certificate")
    platform.add("Secret")  # Helm's own record, beside the generated secrets
    if values["algorithms.quota.enabled"]:
        algorithms.add("ResourceQuota")
    if values["algorithms.limitRange.enabled"]:
        algorithms.add("LimitRange")
    return {values.namespace: platform, values.algorithms: algorithms}


def cluster_scoped(values: SiteValues) -> dict[str, str]:
    """Kinds without a namespace that the chart makes, and the value that leaves each out."""
    found = {}
    if values["algorithms.createNamespace"]:
        found["Namespace"] = "algorithms.createNamespace: false"
    if values["admissionPolicy.create"]:
        found["ValidatingAdmissionPolicy"] = "admissionPolicy.create: false"
        found["ValidatingAdmissionPolicyBinding"] = "admissionPolicy.create: false"
    classes = [key for key in ("priorityClass.create", "priorityClass.trainings.create") if values[key]]
    if classes:
        found["PriorityClass"] = ", ".join(f"{key}: false" for key in classes)
    return found


def check(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """Rights in both namespaces, then those without a namespace."""
    for namespace, kinds in namespaced(values).items():
        lacking: dict[str, list[str]] = {}
        for kind, verbs in _wanted(kinds, algorithms=namespace == values.algorithms):
            refused = [verb for verb in verbs if not cluster.may(verb, kind.resource, kind.group, namespace)]
            if refused:
                lacking.setdefault(", ".join(refused), []).append(kind.resource)
        if lacking:
            yield Finding(
                "rights", BAD,
                f"in {namespace} you may not "
                + "; nor ".join(f"{verbs}: {', '.join(resources)}" for verbs, resources in lacking.items()),
                "Ask the cluster's owner for the role `admin` in this namespace: kubectl create rolebinding"
                f" -n {namespace} --clusterrole=admin ...; for what that role lacks, ask for one of its own",
            )  # fmt: skip
        else:
            yield Finding("rights", OK, f"you may make everything that the chart makes in {namespace}")
    yield from _without_namespace(cluster, values)


def _wanted(kinds: Iterable[str], *, algorithms: bool) -> Iterator[tuple[Kind, tuple[str, ...]]]:
    known: dict[Kind, set[str]] = {KINDS[kind]: set(CHANGE) for kind in sorted(kinds)}
    for kind, verbs in GRANTED[algorithms]:
        known.setdefault(kind, set()).update(verbs)
    if not algorithms:
        known[KINDS["Secret"]] |= {"list", "update"}  # Helm keeps its record of releases in Secrets
    for kind, wanted in known.items():
        yield kind, tuple(sorted(wanted))


def _without_namespace(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    made = cluster_scoped(values)
    for kind, value in made.items():
        resource = KINDS[kind]
        lacking = [verb for verb in CHANGE if not cluster.may(verb, resource.resource, resource.group)]
        if lacking:
            yield Finding(
                "rights", BAD, f"you may not {', '.join(lacking)} {resource.resource}, which belong to no namespace",
                f"Let the cluster's owner make it beforehand (docs/kubernetes.md) and set {value}",
            )  # fmt: skip
        else:
            yield Finding("rights", OK, f"you may make {resource.resource}")
    if values["networkPolicy.create"] and not values["networkPolicy.apiServer.cidrs"]:
        if cluster.may("list", "endpointslices", "discovery.k8s.io", "default"):
            yield Finding("rights", OK, "you may look the API server's address up")
        else:
            yield Finding(
                "rights", BAD, "you may not list endpointslices in default, where Helm looks the API server up",
                "Set networkPolicy.apiServer.cidrs to its addresses; the owner sees them by"
                " `kubectl get endpointslices -n default kubernetes`",
            )  # fmt: skip
    if not made and values["networkPolicy.apiServer.cidrs"]:
        yield Finding(
            "rights", OK, "none is needed outside the two namespaces: the cluster's owner makes what has none"
        )

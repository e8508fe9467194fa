"""The two namespaces: whether they are there as the values say, under Pod Security, with somebody who keeps other images out.

Not here: whether Pod Security is enforced at all (probing).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .cluster import Cluster
from .finding import BAD, NOTE, OK, Finding
from .values import SiteValues

ENFORCE = "pod-security.kubernetes.io/enforce"


def namespaces(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """Both namespaces: whether they are there as the values say, under Pod Security "restricted"."""
    own = cluster.get(f"/api/v1/namespaces/{values.namespace}")
    if own is None:
        yield Finding(
            "namespace", NOTE, f"{values.namespace} is not there yet",
            f"kubectl create namespace {values.namespace}; kubectl label namespace {values.namespace} {ENFORCE}=restricted",
        )  # fmt: skip
    else:
        yield _enforced(own, "the platform's pods conform to it")
    name = values.algorithms
    if name == values.namespace:
        yield Finding(
            "namespace", BAD, f"algorithms.namespace: {name} is the platform's own", "Name another, or leave it empty"
        )
        return
    theirs = cluster.get(f"/api/v1/namespaces/{name}")
    made_by_chart = values["algorithms.createNamespace"]
    if theirs is None:
        if made_by_chart:
            yield Finding("namespace", OK, f"{name} will be made by the chart, with its label")
        else:
            yield Finding(
                "namespace", BAD, f"{name} is not there, and algorithms.createNamespace is false",
                f"Let the cluster's owner make it: kubectl create namespace {name};"
                f" kubectl label namespace {name} {ENFORCE}=restricted",
            )  # fmt: skip
        return
    annotations = theirs["metadata"].get("annotations") or {}
    ours = (annotations.get("meta.helm.sh/release-name"), annotations.get("meta.helm.sh/release-namespace")) == (
        values.release, values.namespace,
    )  # fmt: skip
    if made_by_chart and not ours:
        yield Finding(
            "namespace", BAD, f"{name} is there already, and Helm does not take over what it has not made",
            "Set algorithms.createNamespace: false, or name another by algorithms.namespace",
        )  # fmt: skip
    yield _enforced(theirs, "algorithms must conform to it")


def _enforced(namespace: Mapping[str, Any], why: str) -> Finding:
    name = namespace["metadata"]["name"]
    level = (namespace["metadata"].get("labels") or {}).get(ENFORCE)
    if level == "restricted":
        return Finding("namespace", OK, f"{name} enforces Pod Security restricted")
    return Finding(
        "namespace", BAD, f"{name} does not enforce Pod Security restricted, but {level or 'nothing'}; {why}",
        f"kubectl label --overwrite namespace {name} {ENFORCE}=restricted",
    )  # fmt: skip


def admission(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """Who keeps other images out where the chart does not make the policy."""
    if values["admissionPolicy.create"]:
        return
    kind = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
    label = {"kubernetes.io/metadata.name": values.algorithms}
    bound = [
        item["metadata"]["name"]
        for item in cluster.items(kind)
        if ((item["spec"].get("matchResources") or {}).get("namespaceSelector") or {}).get("matchLabels") == label
        and "Deny" in item["spec"].get("validationActions", ())
    ]
    if bound:
        yield Finding("admission policy", OK, f"{bound[0]} holds in {values.algorithms}")
    else:
        yield Finding(
            "admission policy", BAD,
            f"admissionPolicy.create is false, and no policy is bound to {values.algorithms}: any image runs there",
            "Let the cluster's owner make it: helm template ... --show-only templates/admission-policy.yaml (docs/kubernetes.md)",
        )  # fmt: skip

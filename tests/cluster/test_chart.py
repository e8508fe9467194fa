"""The chart against a real API server: every object is taken, policies do what they say, data outlives the release.

No image is needed for it: nothing that these tests install ever starts. The installation that runs stands in test_installation.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster, CommandFailed, Namespace
from tests.helm import CHART, merge, of_kind, render

ALLOWED = "sha256:" + 64 * "a"
STEP = "registry.example/insitu/platform@sha256:" + 64 * "b"
NOWHERE = {
    "scheduling": {"nodeSelector": {"insitu.internal/no-such-node": "true"}}
}  # nothing starts: that would cost minutes
VALUES: dict[str, Any] = {
    "images": {"platform": {"repository": "registry.example/insitu/platform", "digest": STEP[-71:]}},
    "algorithms": {"allowedDigests": [ALLOWED]},
    **dict.fromkeys(("receiver", "api", "gateway", "dispatcher"), NOWHERE),
    "preparation": NOWHERE | {"tryImages": False},
    "airflow": dict.fromkeys(("apiServer", "scheduler", "dagProcessor"), NOWHERE),
    "database": {"bundled": NOWHERE},
    "objectStore": {"bundled": NOWHERE},
}


@pytest.fixture
def place(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace for a release; what the release makes beside it is removed with it."""
    with cluster.namespace("chart") as namespace:
        yield namespace
        cluster.helm("uninstall", "insitu", "--namespace", namespace.name, "--ignore-not-found")
        cluster.kubectl("delete", "namespace", f"{namespace.name}-algorithms", "--ignore-not-found", "--wait=false")


def install(cluster: Cluster, place: Namespace, values: dict[str, Any], command: str = "install") -> str:
    """Install or upgrade the release without waiting."""
    line = ("helm", command, "insitu", str(CHART), "--namespace", place.name, "--values", "-")
    return cluster.run(*line, stdin=yaml.safe_dump(merge(VALUES, values)))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "receiver": {
                "replicas": 2,
                "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]},
                "tls": {"enabled": True, "existingSecret": "dicom", "clientAuthoritiesSecret": "clients"},
            },
            "priorityClass": {"create": True},
            "certificateAuthorities": {"configMap": "hospital-ca"},
            "ingress": {"enabled": True, "host": "insitu.example", "tls": {"existingSecret": "web"}},
            "algorithms": {"quota": {"enabled": True, "hard": {"pods": 20}}, "limitRange": {"max": {"memory": "8Gi"}}},
            "networkPolicy": {
                "receiverFrom": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.7/32"]}],
                "apiFrom": [{"namespaceLabels": {"a": "b"}, "podLabels": {"c": "d"}}],
                "nodes": [{"cidr": "198.51.100.0/24"}],
                "nodePorts": [104],
            },
        },
    ],
    ids=["defaults", "everything"],
)
def test_the_api_server_takes_every_object(cluster: Cluster, place: Namespace, values: dict[str, Any]) -> None:
    documents = render(merge(VALUES, values), namespace=place.name)
    # Those of the second namespace can only be tried where it is there; a pod only where its account is.
    for document in documents:
        if document["metadata"].get("namespace") == f"{place.name}-algorithms":
            document["metadata"]["namespace"] = place.name
    tried = [document for document in documents if document["kind"] != "Pod"]
    said = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(tried))
    assert len(said.splitlines()) == len(tried)


def test_secrets_are_made_once_and_outlive_upgrade_and_release(cluster: Cluster, place: Namespace) -> None:
    def secrets() -> dict[str, str]:
        found: dict[str, str] = place.get("secret", "insitu-secrets")["data"]
        return found

    install(cluster, place, {})
    first = secrets()
    assert set(of_kind(render(), "Secret")["insitu-secrets"]["data"]) == set(first)
    install(cluster, place, {"settings": {"ae_title": "OTHER"}}, "upgrade")
    assert secrets() == first
    cluster.helm("uninstall", "insitu", "--namespace", place.name)
    assert secrets() == first
    claims = {item["metadata"]["name"] for item in place.get("pvc")["items"]}
    assert claims == {"data-insitu-database-0", "data-insitu-object-store-0"}
    cluster.kubectl("wait", "--for=delete", f"namespace/{place.name}-algorithms", "--timeout=120s")
    install(cluster, place, {})
    assert secrets() == first


def test_a_release_that_keeps_no_data_leaves_nothing(cluster: Cluster, place: Namespace) -> None:
    install(cluster, place, {"keepData": False})
    cluster.helm("uninstall", "insitu", "--namespace", place.name)
    deadline = time.monotonic() + 60
    while left := place.kubectl("get", "secrets,pvc", "-o", "name").split():
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def test_only_allowed_images_run_and_nothing_of_the_node_is_given(cluster: Cluster, place: Namespace) -> None:
    install(cluster, place, {})
    algorithms = Namespace(cluster, f"{place.name}-algorithms")

    def attempt(image: str, **fields: Any) -> str:
        """Why a pod is refused; empty where it is not."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "attempt"},
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65534,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "c",
                        "image": image,
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    }
                ],
                **fields,
            },
        }
        try:
            algorithms.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
        except CommandFailed as error:
            return str(error)
        return ""

    mirrored = f"mirror.example/other/name@{ALLOWED}"
    _eventually(lambda: "image digest not allowed" in attempt("registry.example/lung:1"))
    assert attempt(mirrored) == ""
    assert attempt(STEP) == ""
    assert "image digest not allowed" in attempt("registry.example/insitu/platform:1")
    assert "image digest not allowed" in attempt("registry.example/lung@sha256:" + 64 * "c")
    assert "image digest not allowed" in attempt(f"lung:{ALLOWED.replace(':', '-')}")
    shut = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    second = {"name": "d", "image": "busybox", "securityContext": shut}
    assert "busybox" in attempt(mirrored, initContainers=[second])
    assert "service account token" in attempt(mirrored, automountServiceAccountToken=True)
    token = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    assert "service account token" in attempt(mirrored, volumes=[token])
    # Pod Security refuses these before; the policy would too.
    assert "hostPath" in attempt(mirrored, volumes=[{"name": "h", "hostPath": {"path": "/"}}])
    assert "hostNetwork" in attempt(mirrored, hostNetwork=True)
    assert "host namespaces" in attempt(mirrored, hostPID=True)


def test_a_job_with_an_image_that_is_not_allowed_is_refused_itself(cluster: Cluster, place: Namespace) -> None:
    """Refused later, its pods would fail to appear again and again, and nobody would be told."""
    install(cluster, place, {})
    algorithms = Namespace(cluster, f"{place.name}-algorithms")

    def refused() -> bool:
        line = ("create", "job", "attempt", "--image=registry.example/lung:1", "--dry-run=server")
        try:
            algorithms.kubectl(*line)
        except CommandFailed as error:
            return "image digest not allowed" in str(error)
        return False

    _eventually(refused)


def _eventually(condition: Any) -> None:
    """A new policy comes into force within seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)

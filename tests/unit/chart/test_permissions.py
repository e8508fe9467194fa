"""What the release may do with Kubernetes, and who may reach whom: both as docs/kubernetes.md says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm import of_kind, render
from tests.unit.chart.guide import table

CLUSTER_SCOPED = {"Namespace", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "PriorityClass"}


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return render()


def test_roles_are_those_of_the_guide(documents: list[Any]) -> None:
    rendered = {
        (role["metadata"]["name"].removeprefix("insitu-"), resource, tuple(sorted(rule["verbs"])))
        for role in of_kind(documents, "Role").values()
        for rule in role["rules"]
        for resource in rule["resources"]
    }
    said = {
        (role, resource, tuple(sorted(verbs.replace(",", " ").split())))
        for role, _, resource, verbs in ([cell.strip("`") for cell in row] for row in table("Roles"))
    }
    assert rendered == said


def test_each_role_has_one_account_and_no_role_is_the_clusters(documents: list[Any]) -> None:
    assert not of_kind(documents, "ClusterRole")
    assert not of_kind(documents, "ClusterRoleBinding")
    accounts = {
        name: [subject["name"] for subject in binding["subjects"]]
        for name, binding in of_kind(documents, "RoleBinding").items()
    }
    assert accounts == {
        "insitu-launcher": ["insitu-airflow-scheduler"],
        "insitu-reconciler": ["insitu-dispatcher"],
        "insitu-gateway-address": ["insitu-airflow-scheduler"],
    }


def test_what_is_cluster_scoped_can_be_left_to_the_clusters_owner() -> None:
    assert {item["kind"] for item in render({"priorityClass": {"create": True}})} >= CLUSTER_SCOPED
    left = render(
        {
            "admissionPolicy": {"create": False},
            "algorithms": {"createNamespace": False},
            "priorityClass": {"trainings": {"create": False}},
        }
    )
    assert not {item["kind"] for item in left} & CLUSTER_SCOPED


def test_the_namespace_of_the_algorithms_is_restricted(documents: list[Any]) -> None:
    labels = of_kind(documents, "Namespace")["imaging-algorithms"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_everything_is_denied_first_in_both_namespaces(documents: list[Any]) -> None:
    denied = {
        item["metadata"]["namespace"]
        for item in documents
        if item["kind"] == "NetworkPolicy" and item["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    }
    assert denied == {"imaging", "imaging-algorithms"}


def test_namespace_and_pod_are_never_alternatives(documents: list[Any]) -> None:
    """Two list items would let in every pod of the namespace, or the pods of that label in every one."""
    for policy in of_kind(documents, "NetworkPolicy").values():
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, ()):
                assert rule[peers], "an empty list of peers means everybody"
                for peer in rule[peers]:
                    assert set(peer) in ({"ipBlock"}, {"namespaceSelector", "podSelector"}), policy["metadata"]["name"]
                    if "podSelector" in peer:
                        assert peer["podSelector"]["matchLabels"]
                        assert peer["namespaceSelector"]["matchLabels"]


COMPONENTS = (
    "receiver", "api", "gateway", "dispatcher", "airflow-api", "airflow-scheduler", "airflow-dag-processor", "preparation",
    "airflow-migration", "database", "object-store", "test", "algorithm",
)  # fmt: skip


def pod(component: str) -> tuple[dict[str, str], dict[str, str]]:
    """Labels of a component's pods, and of their namespace."""
    labels = {
        "app.kubernetes.io/name": "insitu",
        "app.kubernetes.io/instance": "insitu",
        "app.kubernetes.io/component": component,
    }
    namespace = "imaging-algorithms" if component == "algorithm" else "imaging"
    return labels, {"kubernetes.io/metadata.name": namespace}


def fits(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether labels have what a selector asks for."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def allowed(documents: list[Any], component: str, direction: str, peer: str, port: int) -> bool:
    """Whether the policies on `component` let it speak with `peer` in that direction."""
    labels, namespace = pod(component)
    peer_labels, peer_namespace = pod(peer)
    for item in documents:
        if item["kind"] != "NetworkPolicy" or item["metadata"]["namespace"] != namespace["kubernetes.io/metadata.name"]:
            continue
        if not fits(item["spec"]["podSelector"], labels):
            continue
        for rule in item["spec"].get(direction, ()):
            peers = rule["from" if direction == "ingress" else "to"]
            ports = {entry["port"] for entry in rule.get("ports", ())}
            if ports and port not in ports:
                continue
            for found in peers:
                if (
                    "podSelector" in found
                    and fits(found["podSelector"], peer_labels)
                    and fits(found["namespaceSelector"], peer_namespace)
                ):
                    return True
    return False


def test_who_may_reach_whom_is_the_matrix_of_the_guide(documents: list[Any]) -> None:
    ports = {8080, 8090, 11112, 2762, 5432, 7070, 8793, 53, 443, 6443}
    computed = {
        (one, other, port)
        for one in COMPONENTS
        for other in COMPONENTS
        for port in ports
        if allowed(documents, one, "egress", other, port) and allowed(documents, other, "ingress", one, port)
    }
    said = set()
    for source, target, port in ([cell.strip("`") for cell in row] for row in table("Inside")):
        said |= {(one.strip(" `"), target, int(port)) for one in source.split(",")}
    assert computed == said


def test_nothing_is_let_out_that_nobody_lets_in_and_the_reverse(documents: list[Any]) -> None:
    """An arrow with one end only is a mistake: it does nothing, or waits to be completed by another policy."""
    for one in COMPONENTS:
        for other in COMPONENTS:
            for port in (8080, 8090, 5432, 7070, 8793):
                out = allowed(documents, one, "egress", other, port)
                into = allowed(documents, other, "ingress", one, port)
                assert out == into, (one, other, port)


def test_who_reaches_what_outside_is_the_matrix_of_the_guide() -> None:
    documents = render({"networkPolicy": {"nodes": [{"cidr": "203.0.113.0/24"}]}})
    places = {"192.0.2.1/32": "Kubernetes' API server", "203.0.113.0/24": "DICOM nodes"}
    computed = set()
    for component in COMPONENTS:
        labels, namespace = pod(component)
        for item in documents:
            if (
                item["kind"] != "NetworkPolicy"
                or item["metadata"]["namespace"] != namespace["kubernetes.io/metadata.name"]
            ):
                continue
            if fits(item["spec"]["podSelector"], labels):
                for rule in item["spec"].get("egress", ()):
                    for peer in rule["to"]:
                        if "ipBlock" in peer:
                            computed.add((component, places[peer["ipBlock"]["cidr"]]))
                        elif peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == "kube-system":
                            assert {entry["port"] for entry in rule["ports"]} == {53}
                            computed.add((component, "DNS"))
    said = set()
    for source, place in ([cell.strip("`") for cell in row] for row in table("To the outside")):
        said |= {(one.strip(" `"), place) for one in source.split(",")}
    assert computed == said


def test_algorithm_pods_reach_the_gateway_and_nothing_else(documents: list[Any]) -> None:
    namespace = "imaging-algorithms"
    policies = [
        item for item in documents if item["kind"] == "NetworkPolicy" and item["metadata"]["namespace"] == namespace
    ]
    rules = [rule for item in policies for rule in item["spec"].get("egress", ())]
    assert len(rules) == 1
    assert rules[0]["ports"] == [{"protocol": "TCP", "port": 8090}]
    assert rules[0]["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    assert not [rule for item in policies for rule in item["spec"].get("ingress", ())]

"""What accounts and pods of a release may do: the API server is asked about the installed platform; docs/kubernetes.md says the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.unit.chart.guide import table

from .cluster import CommandFailed, Namespace
from .site import ClusterSite

HELD = {"airflow-scheduler": {"launcher", "gateway-address"}, "dispatcher": {"reconciler"}}
NAMED = {("gateway-address", "services"): "insitu-gateway"}
GROUPED = {"jobs": "jobs.batch"}
ELSEWHERE = ("default",)  # what is bound for the whole cluster is listed in every namespace
SHUT = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
REFUSALS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a digest that is not on the list": ("image digest not allowed", {}, {"image": "registry.example/lung@sha256:" + 64 * "c"}),
    "a tag": ("image digest not allowed", {}, {"image": "registry.example/lung:1"}),
    "a folder of the node": ("hostPath", {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}, {}),
    "the node's network": ("hostNetwork", {"hostNetwork": True}, {}),
    "the node's processes": ("hostPID", {"hostPID": True}, {}),
    "the node's shared memory": ("hostIPC", {"hostIPC": True}, {}),
    "a privileged container": ("privileged", {}, {"securityContext": {"privileged": True}}),
    "new privileges": ("allowPrivilegeEscalation", {}, {"securityContext": {"allowPrivilegeEscalation": True}}),
    "a capability": ("capabilities", {}, {"securityContext": SHUT | {"capabilities": {"add": ["SYS_ADMIN"]}}}),
    "root": ("runAsUser", {}, {"securityContext": SHUT | {"runAsUser": 0}}),
    "a token": ("service account token", {"automountServiceAccountToken": True}, {}),
    "a token by projection": (
        "service account token",
        {"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]},
        {},
    ),
}  # fmt: skip


def rules(site: ClusterSite, account: str, namespace: str) -> dict[str, set[str]]:
    """What `kubectl auth can-i --list` says of an account, by resource (with its names) or address."""
    said = site.cluster.kubectl("auth", "can-i", "--list", "-n", namespace, f"--as=system:serviceaccount:{account}")
    found: dict[str, set[str]] = {}
    for line in said.splitlines()[1:]:
        match = re.match(r"(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]$", line)
        assert match, line
        resource, addresses, names, verbs = match.groups()
        key = f"{resource or addresses} [{names}]" if names else resource or addresses
        found.setdefault(key, set()).update(verbs.split())
    return found


def said_of(site: ClusterSite, account: str, namespace: str) -> dict[str, set[str]]:
    """The same as the guide's table has it."""
    place = {site.namespace.name: "platform", site.algorithms.name: "algorithms"}.get(namespace)
    expected = {}
    for role, where, resource, verbs in ([cell.strip("`") for cell in row] for row in table("Roles")):
        if where == place and role in HELD.get(account, ()):
            name = NAMED.get((role, resource))
            resource = GROUPED.get(resource, resource)
            expected[f"{resource} [{name}]" if name else resource] = set(verbs.replace(",", " ").split())
    return expected


def test_each_account_may_do_what_the_guide_says_and_no_more(site: ClusterSite) -> None:
    """Every account of both namespaces, the default ones too, in both namespaces and in one of others."""
    accounts = [
        (namespace.name, item["metadata"]["name"])
        for namespace in (site.namespace, site.algorithms)
        for item in namespace.get("serviceaccounts")["items"]
    ]
    assert len(accounts) > 10
    everybody = rules(site, "default:nobody", "default")  # what each account of this cluster may do
    asked = [
        (*account, where) for account in accounts for where in (site.namespace.name, site.algorithms.name, *ELSEWHERE)
    ]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda item: rules(site, f"{item[0]}:{item[1]}", item[2]), asked))
    for (home, account, where), answer in zip(asked, answers, strict=True):
        beyond = {key: verbs for key, verbs in answer.items() if verbs != everybody.get(key)}
        name = account.removeprefix("insitu-") if home == site.namespace.name else account
        assert beyond == said_of(site, name, where), (home, account, where)


def test_nothing_is_bound_for_the_cluster_or_in_another_namespace(site: ClusterSite) -> None:
    ours = {site.namespace.name, site.algorithms.name}
    groups = {f"system:serviceaccounts:{name}" for name in ours}
    for kind in ("clusterrolebindings", "rolebindings"):
        for binding in site.cluster.get(kind, "--all-namespaces")["items"]:
            mine = [
                subject
                for subject in binding.get("subjects") or []
                if (subject.get("namespace") in ours and subject["kind"] == "ServiceAccount")
                or subject["name"] in groups
            ]
            assert not mine or binding["metadata"].get("namespace") in ours, binding["metadata"]


def test_only_two_kinds_of_pods_have_a_token(site: ClusterSite) -> None:
    holders = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for pod in site.namespace.get("pods")["items"]
        for volume in pod["spec"]["volumes"]
        if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", ()))
    }
    assert holders == {"airflow-scheduler", "dispatcher"}


@pytest.mark.parametrize("where", ["namespace", "algorithms"])
def test_both_namespaces_are_restricted(site: ClusterSite, where: str) -> None:
    namespace: Namespace = getattr(site, where)
    labels = site.cluster.get("namespace", namespace.name)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    container = {"name": "c", "image": allowed(site)}
    with pytest.raises(CommandFailed, match='violates PodSecurity "restricted'):
        create(namespace, pod({}, container))


def allowed(site: ClusterSite) -> str:
    """An image that may run."""
    found: str = site.namespace.get("deployment", "insitu-gateway")["spec"]["template"]["spec"]["containers"][0][
        "image"
    ]
    return found


def pod(fields: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """A pod with these fields and one container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "attempt"},
        "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container], **fields},
    }


def job(fields: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """A Job of such a pod: Pod Security lets it pass, so that the policy alone can refuse it."""
    template = {"spec": pod(fields, container)["spec"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "attempt"},
        "spec": {"suspend": True, "template": template},
    }


def create(namespace: Namespace, item: dict[str, Any]) -> None:
    """Have the API server judge an object without keeping it."""
    namespace.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(item))


def restricted(site: ClusterSite, **changes: Any) -> dict[str, Any]:
    """A container that may run, but for the changes."""
    return {"name": "c", "image": allowed(site), "securityContext": SHUT, **changes}


@pytest.mark.parametrize("attempt", REFUSALS)
def test_the_policy_refuses_by_itself(site: ClusterSite, attempt: str) -> None:
    words, fields, container = REFUSALS[attempt]
    with pytest.raises(CommandFailed, match="ValidatingAdmissionPolicy") as refusal:
        create(site.algorithms, job(fields, restricted(site, **container)))
    assert words in str(refusal.value)


@pytest.fixture
def waiting(site: ClusterSite) -> Iterator[str]:
    """A pod that may run and never does: no node fits it."""
    fields = {
        "nodeSelector": {"insitu.internal/no-such-node": "true"},
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    site.algorithms.apply(pod(fields, restricted(site)))
    yield "attempt"
    site.algorithms.kubectl("delete", "pod", "attempt", "--grace-period=0", "--force")


def test_a_pod_that_is_there_gets_no_other_image_and_no_further_container(site: ClusterSite, waiting: str) -> None:
    create(site.algorithms, job({}, restricted(site)))  # what is right is let through
    with pytest.raises(CommandFailed, match="image digest not allowed"):
        site.algorithms.kubectl("set", "image", f"pod/{waiting}", "c=registry.example/lung:1")
    with pytest.raises(CommandFailed, match="ephemeralContainers"):
        site.algorithms.kubectl(
            "debug",
            waiting,
            f"--image={allowed(site)}",
            "--image-pull-policy=IfNotPresent",
            "--profile=restricted",
            "--attach=false",
        )

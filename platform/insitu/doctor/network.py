"""What two pods found out about the cluster's network: whether policies hold, in both directions, and what they do not cover.

The rules of the trial name ports, so that three connections to one pod tell everything at the same time: one that both sides
allow, which must get through or nothing is proved; one that only the receiving side forbids; one that only the sending side does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from .apiserver import clock_finding
from .finding import BAD, NOTE, OK, Finding
from .values import SiteValues

CONTROL, INGRESS, EGRESS = 8101, 8102, 8103  # ports of the pod that serves


def policies(label: str, values: SiteValues) -> list[dict[str, Any]]:
    """The policies of the trial: on the pod `serve` what comes in, on the pod `ask` what goes out; to DNS as the chart lets it."""
    dns = values["networkPolicy.dns"]
    resolver = [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": dns["namespace"]}},
            "podSelector": {"matchLabels": dns["podLabels"]},
        },
        *({"ipBlock": {"cidr": cidr}} for cidr in dns["cidrs"]),
    ]
    every = {"insitu/doctor": label}
    serve, ask = ({**every, "insitu/doctor-role": role} for role in ("serve", "ask"))
    return [
        _policy(
            "serve", serve, "Ingress",
            ingress=[{"from": [{"podSelector": {"matchLabels": ask}}], "ports": [_tcp(CONTROL), _tcp(EGRESS)]}],
        ),
        _policy(
            "ask", ask, "Egress",
            egress=[
                {"to": [{"podSelector": {"matchLabels": serve}}], "ports": [_tcp(CONTROL), _tcp(INGRESS)]},
                {"to": resolver, "ports": [{"protocol": "UDP", "port": 53}, _tcp(53)]},
            ],
        ),
    ]  # fmt: skip


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}


def _policy(name: str, labels: Mapping[str, str], direction: str, **rules: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": dict(labels)}, "policyTypes": [direction], **rules},
    }


def places(values: SiteValues) -> list[dict[str, Any]]:
    """Servers of the site that the values name, which pods must reach."""
    found = []
    if not values["database.bundled.enabled"] and values["database.external.host"]:
        external = values["database.external"]
        found.append({"value": "database.external", "host": external["host"], "port": int(external["port"])})
    if not values["objectStore.bundled.enabled"] and values["objectStore.external.url"]:
        url = urlsplit(values["objectStore.external.url"])
        port = url.port or (443 if url.scheme == "https" else 80)
        found.append({"value": "objectStore.external", "host": url.hostname or "", "port": port})
    return found


def judge(serve: Mapping[str, Any], ask: Mapping[str, Any], *, nodes: int, own: bool) -> Iterator[Finding]:
    """What both pods said about policies.

    Parameters
    ----------
    serve, ask : mapping
        What their programs printed.
    nodes : int
        On how many nodes they were.
    own : bool
        Whether no other policy can be in their namespace.
    """
    control = ask["control"]["last"]
    if control != "open":
        if own:
            yield Finding(
                "pod to pod", BAD, f"a pod does not reach another one on TCP {CONTROL}, although policies let it ({control})",
                "Look at the network plugin's pods and logs: the platform's pods would not reach each other either",
            )  # fmt: skip
        else:
            yield Finding(
                "network policies", NOTE, f"not checked: policies that are in this namespace already forbid the trial itself ({control})",
                "Let somebody run the doctor who may create namespaces, then it uses one of its own",
            )  # fmt: skip
        return
    where = "on one node" if nodes == 1 else f"between {nodes} nodes"
    for direction, words in (("ingress", "what comes in"), ("egress", "what goes out")):
        yield _direction(ask[direction], words, where)
    yield _own_node(serve["node"], ask["node"])
    yield _api_server(serve["api"], ask["api"])


def _direction(found: Mapping[str, Any], words: str, where: str) -> Finding:
    if found["last"] == "open":
        return Finding(
            "network policies", BAD, f"default deny does not hold for {words}: a connection that no policy allows got through, {where}",
            "Install a network plugin that enforces NetworkPolicies in both directions (Calico, Cilium, Antrea, kube-router);"
            " without one an algorithm reaches whatever it likes",
        )  # fmt: skip
    if found["first"] == "open":
        return Finding(
            "network policies", NOTE, f"default deny holds for {words}, but only from {found['seconds']:.1f} s after a pod's start",
            "Let the network plugin hold a pod's start until its rules are there; otherwise an algorithm's first connections get out",
        )  # fmt: skip
    return Finding(
        "network policies",
        OK,
        f"default deny holds for {words}: what no policy allows did not get through, what one allows did, {where}",
    )


def _own_node(free: str, bound: str) -> Finding:
    """Whether a pod under default deny reaches the kubelet of its node."""
    if bound in ("open", "refused") and free in ("open", "refused"):
        return Finding(
            "own node", NOTE, "a pod reaches its own node in spite of default deny (tried: the kubelet, TCP 10250); Kubernetes allows that",
            "See to it that nothing on the nodes serves without a login: the kubelet with anonymous access off, nothing else listening for"
            " pods; or let the network plugin guard the hosts (Cilium host policies, Calico host endpoints) or a firewall on the nodes",
        )  # fmt: skip
    if free in ("open", "refused"):
        return Finding("own node", OK, "default deny keeps a pod from its own node too (tried: the kubelet, TCP 10250)")
    return Finding("own node", OK, "a pod does not reach its own node's kubelet (TCP 10250), with a policy or without")


def _api_server(free: str, bound: str) -> Finding:
    if free != "open":
        return Finding(
            "api server", BAD, f"a pod does not reach the API server although no policy forbids it ({free})",
            "Look at the network plugin and kube-proxy: the launcher could not start a Job",
        )  # fmt: skip
    if bound in ("open", "refused"):
        return Finding(
            "api server", NOTE, "a pod reaches the API server in spite of default deny, as happens where it runs on the pod's own node",
            "An algorithm's pod has no token to show there; keep algorithms off the control plane's nodes"
            " (algorithms.launcher.node_selector)",
        )  # fmt: skip
    return Finding("api server", OK, "a pod reaches it, and not under default deny")


def dns(serve: Mapping[str, Any], ask: Mapping[str, Any] | None) -> Finding:
    """Whether names are resolved in a pod, and under the chart's policy. Pure."""
    if not serve["dns"]:
        return Finding(
            "dns", BAD, "a pod does not resolve kubernetes.default.svc, though no policy forbids it",
            "Look at the cluster's DNS: kubectl -n kube-system get pods -l k8s-app=kube-dns",
        )  # fmt: skip
    if ask is None:
        return Finding("dns", OK, "a pod resolves names")
    if not ask["dns"]:
        return Finding(
            "dns", BAD, "a pod resolves names, but not where policies let it reach only the DNS of networkPolicy.dns",
            "Set networkPolicy.dns.namespace and podLabels to those of the cluster's DNS pods, and networkPolicy.dns.cidrs to the address"
            " in a pod's /etc/resolv.conf where a cache on the nodes answers",
        )  # fmt: skip
    return Finding("dns", OK, "a pod resolves names, also under the chart's policy")


def site_servers(serve: Mapping[str, Any], values: SiteValues) -> Iterator[Finding]:
    """Servers of the site: whether a pod finds and reaches them, and whether the chart's policy will let it. Pure."""
    for place in serve["places"]:
        check, value = str(place["value"]).partition(".")[0], place["value"]
        name = f"{place['host']}:{place['port']} ({value})"
        if not place["address"]:
            yield Finding(
                check,
                BAD,
                f"a pod does not resolve {name}",
                "Correct the name, or let the cluster's DNS forward to the site's",
            )
        elif place["state"] != "open":
            yield Finding(
                check,
                BAD,
                f"a pod does not reach {name}: {place['state']}",
                "Look at the server and at firewalls before it",
            )
        elif not inside(place["address"], values[f"{value}.cidrs"]):
            yield Finding(
                check, BAD, f"{name} is {place['address']}, which is not in {value}.cidrs: the chart's policy will keep pods from it",
                f"Add {place['address']}/{32 if '.' in place['address'] else 128} there",
            )  # fmt: skip
        else:
            yield Finding(check, OK, f"a pod reaches {name}")


def inside(address: str, networks: list[str]) -> bool:
    """Whether an address is in one of the networks. Pure."""
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False) for network in networks)


def node_clock(serve: Mapping[str, Any], node: str) -> Iterator[Finding]:
    """The clock of the node a pod was on."""
    if serve["ahead"] is not None:
        yield clock_finding(f"node {node}", serve["ahead"])

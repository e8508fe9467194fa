"""How the outside comes in: ingress class or Gateway, load balancer, and who issues certificates.

Not here: the certificates themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

from .classes import there
from .cluster import Cluster
from .finding import BAD, NOTE, OK, Finding
from .values import SiteValues

DEFAULT_INGRESS = "ingressclass.kubernetes.io/is-default-class"


def doors(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """How the outside comes in: ingress class or gateway, load balancer."""
    if values["ingress.enabled"]:
        kind = "/apis/networking.k8s.io/v1/ingressclasses"
        if values["ingress.className"]:
            yield there(cluster, "ingress.className", kind, values["ingress.className"])
        else:
            classes = cluster.items(kind)
            default = [
                each["metadata"]["name"]
                for each in classes
                if (each["metadata"].get("annotations") or {}).get(DEFAULT_INGRESS) == "true"
            ]
            if default:
                yield Finding("ingress class", OK, f"{default[0]}, the cluster's default")
            else:
                known = ", ".join(each["metadata"]["name"] for each in classes) or "none"
                yield Finding(
                    "ingress class",
                    BAD,
                    f"ingress.className is empty, and no class is the default; there is: {known}",
                    "Set ingress.className",
                )
    if values["gatewayRoute.enabled"]:
        yield _gateway(cluster, values)
    if (
        (values["ingress.enabled"] or values["gatewayRoute.enabled"])
        and values["networkPolicy.create"]
        and not values["networkPolicy.apiFrom"]
    ):
        yield Finding(
            "web pages", BAD, "networkPolicy.apiFrom is empty, so that the ingress controller will not reach the api",
            "Name the namespace and the pods of the ingress controller there",
        )  # fmt: skip
    kind = values["receiver.service.type"]
    if kind == "LoadBalancer":
        yield _load_balancer(cluster)
    elif kind == "ClusterIP":
        yield Finding(
            "dicom port", NOTE, "receiver.service.type is ClusterIP: senders outside the cluster do not reach it",
            "Set it to LoadBalancer or NodePort",
        )  # fmt: skip
    if values["certManager.enabled"]:
        yield _issuer(cluster, values)


def _gateway(cluster: Cluster, values: SiteValues) -> Finding:
    parent = values["gatewayRoute.parent"]
    place = parent["namespace"] or values.namespace
    if cluster.get("/apis/gateway.networking.k8s.io/v1") is None:
        return Finding(
            "gateway",
            BAD,
            "gatewayRoute.enabled is true, and the cluster has no Gateway API",
            "Install it, or use an Ingress",
        )
    if cluster.get(f"/apis/gateway.networking.k8s.io/v1/namespaces/{place}/gateways/{parent['name']}") is None:
        return Finding(
            "gateway",
            BAD,
            f"gatewayRoute.parent: there is no Gateway {parent['name']} in {place}",
            "Correct gatewayRoute.parent",
        )
    return Finding("gateway", OK, f"{parent['name']} in {place} is there")


def _issuer(cluster: Cluster, values: SiteValues) -> Finding:
    issuer = values["certManager.issuer"]
    base = f"/apis/{issuer['group']}/v1"
    kinds = {"ClusterIssuer": f"{base}/clusterissuers", "Issuer": f"{base}/namespaces/{values.namespace}/issuers"}
    if issuer["group"] == "cert-manager.io" and cluster.get(base) is None:
        return Finding(
            "cert-manager",
            BAD,
            "certManager.enabled is true, and the cluster has no cert-manager",
            "Install it, or name Secrets",
        )
    if issuer["kind"] in kinds and cluster.get(f"{kinds[issuer['kind']]}/{issuer['name']}") is None:
        return Finding(
            "cert-manager",
            BAD,
            f"certManager.issuer: there is no {issuer['kind']} {issuer['name']}",
            "Correct certManager.issuer",
        )
    return Finding("cert-manager", OK, f"{issuer['kind']} {issuer['name']} is there")


def _load_balancer(cluster: Cluster) -> Finding:
    services = [item for item in cluster.items("/api/v1/services") if item["spec"].get("type") == "LoadBalancer"]
    served = [item for item in services if (item["status"].get("loadBalancer") or {}).get("ingress")]
    if served:
        return Finding("load balancer", OK, f"{len(served)} other Services have got an address")
    if any(node["spec"].get("providerID") for node in cluster.items("/api/v1/nodes")):
        return Finding("load balancer", OK, "the nodes are known to a cloud, which usually gives addresses")
    return Finding(
        "load balancer", NOTE, "no Service has got an address so far, and the nodes belong to no cloud",
        "Install a load balancer (MetalLB or the like), or set receiver.service.type: NodePort; otherwise the address stays <pending>",
    )  # fmt: skip

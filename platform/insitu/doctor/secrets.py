"""Secrets that the values name: whether they are there with all their keys. No value of one is ever shown.

Not here: certificates.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .cluster import Cluster
from .finding import BAD, NOTE, OK, Finding
from .values import SiteValues, WantedSecret

REGISTRY_LOGIN = ".dockerconfigjson"


def check(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """Every Secret that must be there before the installation, but for certificates."""
    for wanted in values.secrets():
        found = cluster.get(f"/api/v1/namespaces/{wanted.where}/secrets/{wanted.name}")
        yield finding(wanted, found, registries(values))


def registries(values: SiteValues) -> set[str]:
    """Hosts of the registries that the images come from; those without a host come from the container runtime's default. Pure."""
    hosts = {image.reference.split("/")[0] for image in values.images() if "/" in image.reference}
    return {host for host in hosts if "." in host or ":" in host or host == "localhost"}


def finding(wanted: WantedSecret, found: Mapping[str, Any] | None, hosts: set[str]) -> Finding:
    """How one Secret is; None: it is not there. Pure."""
    name = f"{wanted.name} in {wanted.where}"
    if found is None:
        return Finding(
            "secret", BAD, f"{wanted.value} names {name}, and there is no such Secret",
            f"kubectl -n {wanted.where} create secret ... {wanted.name}, with: {', '.join(wanted.keys)}",
        )  # fmt: skip
    data = found.get("data") or {}
    lacking = [key for key in wanted.keys if not data.get(key)]
    if lacking:
        return Finding(
            "secret", BAD, f"{name} ({wanted.value}) lacks {', '.join(lacking)}",
            "Add these keys; docs/kubernetes.md, \"Secret files\", says who reads which",
        )  # fmt: skip
    if REGISTRY_LOGIN in wanted.keys:
        unknown = sorted(host for host in hosts if host not in logins(data[REGISTRY_LOGIN]))
        if unknown:
            return Finding(
                "secret", NOTE, f"{name} has no login for {', '.join(unknown)}, where images come from",
                "Fine for a registry that asks nobody; otherwise make it anew by `kubectl create secret docker-registry`",
            )  # fmt: skip
    return Finding("secret", OK, f"{name} has all its keys")


def logins(encoded: str) -> set[str]:
    """Hosts that a registry login of Kubernetes is for; none where it cannot be read. Pure."""
    try:
        names = json.loads(base64.b64decode(encoded))["auths"]
        return {name.partition("://")[2].split("/")[0] if "://" in name else name.split("/")[0] for name in names}
    except (ValueError, KeyError, TypeError):
        return set()

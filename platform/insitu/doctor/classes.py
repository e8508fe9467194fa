"""A class of the cluster by its name: runtime class, priority class, ingress class."""

from __future__ import annotations

from .cluster import Cluster
from .finding import BAD, OK, Finding


def there(cluster: Cluster, value: str, kind: str, name: str) -> Finding:
    """Whether the class that `value` names is there; `kind` is the path of its kind."""
    check = {"runtimeclasses": "runtime class", "priorityclasses": "priority class", "ingressclasses": "ingress class"}[
        kind.rpartition("/")[2]
    ]
    if cluster.get(f"{kind}/{name}") is not None:
        return Finding(check, OK, f"{name} is there")
    known = ", ".join(item["metadata"]["name"] for item in cluster.items(kind)) or "none"
    return Finding(
        check,
        BAD,
        f"{value}: there is no {check} {name}; there is: {known}",
        f"Correct {value}, or let the cluster's owner make it",
    )

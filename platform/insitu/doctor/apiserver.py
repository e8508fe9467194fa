"""The API server: its version, the API that admission policies need, its clock.

Not here: the caller's rights (permissions).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from .cluster import Cluster
from .finding import BAD, NOTE, OK, Finding
from .values import SiteValues

OLDEST = (1, 30)
OFF, FAR_OFF = 5.0, 60.0  # seconds of a clock


def version(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """Version of the API server, and the API that admission policies need."""
    said = cluster.get("/version") or {}
    found = tuple(int("".join(filter(str.isdigit, str(said.get(part)))) or 0) for part in ("major", "minor"))
    text = str(said.get("gitVersion"))
    if found < OLDEST:
        yield Finding(
            "version",
            BAD,
            f"Kubernetes {text}; the chart needs 1.30",
            "Upgrade the cluster: admission policies are in it since 1.30",
        )
    else:
        yield Finding("version", OK, f"Kubernetes {text}")
    group = cluster.get("/apis/admissionregistration.k8s.io/v1") or {}
    if "validatingadmissionpolicies" in {item["name"] for item in group.get("resources") or []}:
        yield Finding("admission policies", OK, "the API server has them")
    else:
        yield Finding(
            "admission policies", BAD, "the API server has no ValidatingAdmissionPolicy, which lets only allowed images run",
            "Turn admissionregistration.k8s.io/v1 on at the API server; or set admissionPolicy.create: false and let another"
            " policy engine allow the digests of algorithms.images only",
        )  # fmt: skip


def clock(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """The API server's clock by the Date of its answer, against this machine's."""
    began = time.time()
    date = cluster.date()
    middle = (began + time.time()) / 2
    if date is None:
        yield Finding("clock", NOTE, "not checked: the API server's answer has no Date")
        return
    yield clock_finding("this machine", middle - (parsedate_to_datetime(date).timestamp() + 0.5))


def clock_finding(whose: str, ahead: float) -> Finding:
    """A clock that is `ahead` seconds before the API server's; the server's own says whole seconds. Pure."""
    off = max(0.0, abs(ahead) - 0.5)
    if off <= OFF:
        return Finding("clock", OK, f"{whose} and the API server agree")
    says = f"{whose} is {off:.0f} s {'ahead of' if ahead > 0 else 'behind'} the API server"
    return Finding(
        "clock", BAD if off > FAR_OFF else NOTE, says,
        "Synchronize the clocks (chrony, NTP): certificates and tokens are judged by them, and times in the audit trail are theirs",
    )  # fmt: skip

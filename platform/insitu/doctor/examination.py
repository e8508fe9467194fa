"""Everything the doctor looks at on a cluster, in order: before the installation, and after it.

A check for which the caller has no right is a finding that says so. Not here: the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from insitu.errors import InsituError
from insitu.runs.launch.kubernetes.api import ApiRefused

from . import apiserver, certificates, doors, namespaces, nodes, permissions, probing, release, secrets, storage, visit
from .cluster import Cluster, NoRight
from .finding import BAD, NOTE, Finding
from .values import SiteValues

Check = Callable[[Cluster, SiteValues], Iterator[Finding]]
BEFORE: dict[str, Check] = {
    "version": apiserver.version,
    "clock": apiserver.clock,
    "rights": permissions.check,
    "namespace": namespaces.namespaces,
    "admission policy": namespaces.admission,
    "volume": storage.storage,
    "room": nodes.room,
    "gpu": nodes.gpu,
    "processes per pod": nodes.pids,
    "doors": doors.doors,
    "secret": secrets.check,
    "certificate": certificates.check,
}
AFTER: dict[str, Check] = {
    "version": apiserver.version,
    "clock": apiserver.clock,
    "namespace": namespaces.namespaces,
    "default deny": release.policies,
    "secret": secrets.check,
    "certificate": certificates.check,
}


@dataclass(frozen=True)
class Wishes:
    """What is to be looked at.

    Attributes
    ----------
    before : bool
        What an installation needs, although it is there.
    pods : bool
        With pods of the doctor's own.
    token : str, optional
        For the round trip.
    calling : str
        AE title of the doctor.
    run : str, optional
        Algorithm to run on a phantom.
    """

    before: bool = False
    pods: bool = True
    token: str | None = None
    calling: str = "INSITU_DOCTOR"
    run: str | None = None


def examine(
    cluster: Cluster, given: Mapping[str, Any] | None, namespace: str, name: str, wishes: Wishes
) -> Iterator[Finding]:
    """Before the installation or, where the release is there, after it.

    Parameters
    ----------
    cluster : Cluster
    given : mapping, optional
        The site's values; None: those that Helm has noted, else the chart's defaults.
    namespace, name : str
        Of the release.
    wishes : Wishes
    """
    try:
        known = release.record(cluster, namespace, name)
        readable = True
    except NoRight:
        known, readable = None, False
    values = SiteValues(given if given is not None else (known or {}).get("values") or {}, namespace, name)
    try:
        workloads = release.installed(cluster, values)
    except NoRight as error:
        workloads = []
        yield Finding("release", NOTE, f"not checked: {error}", "Let somebody look who has it, or ask for it")
    there = workloads or (known is not None and known["status"] != "uninstalled")
    if wishes.before or not there:
        if given is None and known is None:
            yield Finding(
                "values", NOTE, "the chart's defaults, as no values are given", "Name the site's values by --values"
            )
        yield from before(cluster, values, pods=wishes.pods)
        return
    if readable:
        yield release.status_finding(known, values)
    elif given is None:
        yield Finding(
            "values",
            NOTE,
            f"the chart's defaults: no right to read Helm's record in {namespace}",
            "Name the site's values by --values",
        )
    yield from after(cluster, values, workloads, wishes)


def before(cluster: Cluster, values: SiteValues, *, pods: bool = True) -> Iterator[Finding]:
    """What the installation needs; with pods of the doctor's own, unless told otherwise."""
    for name, check in BEFORE.items():
        yield from guarded(name, check(cluster, values))
    if pods:
        yield from guarded("pods", probing.check(cluster, values))


def after(cluster: Cluster, values: SiteValues, workloads: list[dict[str, Any]], wishes: Wishes) -> Iterator[Finding]:
    """How the release is, and what still must hold around it."""
    for name, check in AFTER.items():
        yield from guarded(name, check(cluster, values))
    yield from guarded("workloads", release.check(cluster, values, workloads))
    image = release.platform_image(workloads) or values.image("platform").reference
    if wishes.pods:
        found = visit.check(cluster, values, image, token=wishes.token, calling=wishes.calling, run=wishes.run)
        yield from guarded("visit", found)


def guarded(name: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings of a check; what keeps it from going on is one too."""
    try:
        yield from findings
    except NoRight as error:
        yield Finding(name, NOTE, f"not checked: {error}", "Let somebody look who has it, or ask for it")
    except ApiRefused as error:
        yield Finding(name, NOTE, f"not checked: the API server answers {error}")
    except InsituError as error:
        details = "".join((f": {error.value}" if error.value else "", f" ({error.why})" if error.why else ""))
        yield Finding(name, BAD, error.what + details, error.remedy or "")

"""Deleting, where a server offers it. PS3.18 has no Delete transaction for studies, so RFC 9110 9.3.5 counts.

These checks come last: they take away what the others look at.
"""

from __future__ import annotations

from .. import objects
from ..check import MAY, MUST, NotOffered, Skipped, check
from ..objects import Sample
from ..visit import ABSENT, Visit, demand, said, status
from .retrieve import AS_STORED

DONE = (200, 202, 204)


def _victim(visit: Visit) -> Sample:
    """A series of its own in the first study, stored for being deleted."""

    def store() -> Sample:
        sample = objects.another(visit.samples)
        status(visit.store([sample.file]), 200, 202)
        return sample

    return visit.once("victim", store)


def _deleted(visit: Visit, path: str) -> int:
    """Delete once; the status.

    Raises
    ------
    NotOffered
        The server does not delete.
    """
    response = visit.once(f"delete {path}", lambda: visit.server.request("DELETE", path, accept="*/*"))
    if response.status_code in (*ABSENT, 400, 401, 403):
        raise NotOffered(said(response))
    return response.status_code


@check(
    "delete.instance", MAY, "RFC 9110 9.3.5", "DELETE of an instance is done (200, 202 or 204)", own=True, writes=True
)
def instance(visit: Visit) -> str:
    path = _victim(visit).path
    came = _deleted(visit, path)
    demand(came in DONE, str(came))
    return str(came)


@check(
    "delete.instance-gone",
    MUST,
    "RFC 9110 9.3.5, Table 10.4.3-1",
    "An instance that was deleted is answered with 404 or 410",
    own=True,
    writes=True,
)
def instance_gone(visit: Visit) -> str:
    path = _victim(visit).path
    if _deleted(visit, path) not in DONE:
        raise Skipped("it was not deleted")
    return status(visit.server.get(path, AS_STORED), 404, 410)


@check(
    "delete.instance-not-found",
    MUST,
    "RFC 9110 9.3.5",
    "A search does not find an instance that was deleted",
    own=True,
    writes=True,
)
def instance_not_found(visit: Visit) -> str:
    sample = _victim(visit)
    if _deleted(visit, sample.path) not in DONE:
        raise Skipped("it was not deleted")
    found = visit.search(f"/studies/{sample.study}/instances", SOPInstanceUID=sample.instance)
    demand(not found, f"{len(found)} results")
    return "it does not"


@check(
    "delete.others-stay",
    MUST,
    "RFC 9110 9.3.5",
    "The other instances of the study are still there",
    own=True,
    writes=True,
)
def others_stay(visit: Visit) -> str:
    sample = _victim(visit)
    if _deleted(visit, sample.path) not in DONE:
        raise Skipped("nothing was deleted")
    found, wanted = visit.search(f"/studies/{sample.study}/instances"), len(visit.samples.of_study(sample.study))
    demand(len(found) == wanted, f"{len(found)} instances, not {wanted}")
    return f"{len(found)} instances"


@check(
    "delete.again",
    MUST,
    "RFC 9110 9.2.2, 15.5.5",
    "What was deleted can be asked to be deleted again (404, 410 or success)",
    own=True,
    writes=True,
)
def again(visit: Visit) -> str:
    path = _victim(visit).path
    if _deleted(visit, path) not in DONE:
        raise Skipped("nothing was deleted")
    return status(visit.server.request("DELETE", path), *DONE, 404, 410)


@check(
    "delete.unknown",
    MUST,
    "RFC 9110 15.5.5",
    "DELETE of a study that does not exist is answered with 404",
    own=True,
    writes=True,
)
def unknown(visit: Visit) -> str:
    _deleted(visit, _victim(visit).path)
    return status(visit.server.request("DELETE", "/studies/2.25.1"), 404, 410)


@check("delete.stored-again", MUST, "10.5.2", "What was deleted can be stored again", own=True, writes=True)
def stored_again(visit: Visit) -> str:
    sample = _victim(visit)
    if _deleted(visit, sample.path) not in DONE:
        raise Skipped("nothing was deleted")
    status(visit.store([sample.file]), 200)
    return status(visit.server.get(sample.path, AS_STORED), 200)


@check("delete.series", MAY, "RFC 9110 9.3.5", "DELETE of a series takes its instances away", own=True, writes=True)
def series(visit: Visit) -> str:
    sample = visit.samples.rle
    path = f"/studies/{sample.study}/series/{sample.series}"
    came = _deleted(visit, path)
    demand(came in DONE, str(came))
    status(visit.server.get(sample.path, AS_STORED), 404, 410)
    return str(came)


@check("delete.study", MAY, "RFC 9110 9.3.5", "DELETE of a study takes all of it away", own=True, writes=True)
def study(visit: Visit) -> str:
    sample = visit.samples.report
    came = _deleted(visit, f"/studies/{sample.study}")
    demand(came in DONE, str(came))
    status(visit.server.get(f"/studies/{sample.study}/metadata"), 404, 410)
    found = visit.search("/studies", StudyInstanceUID=sample.study)
    demand(not found, f"a search still finds it ({len(found)})")
    return str(came)

"""Searching (QIDO-RS, PS3.18 8.3.4.4): limit, offset, an order that stays, and what is said about results that are left."""

from __future__ import annotations

from ..check import MUST, SHOULD, check
from ..dicomjson import first
from ..server import JSON
from ..visit import Visit, demand, said, status

INSTANCE = "00080018"


def _uids(visit: Visit, path: str, **query: str) -> list[str]:
    return [str(first(row.get(INSTANCE))) for row in visit.search(path, **query)]


def _path(visit: Visit) -> tuple[str, int]:
    study = visit.samples.ct[0].study
    return f"/studies/{study}/instances", len(visit.samples.of_study(study))


@check("page.limit", MUST, "8.3.4.4", "limit=2 gives two results of four", own=True)
def limit(visit: Visit) -> str:
    path, _ = _path(visit)
    came = len(_uids(visit, path, limit="2"))
    demand(came == 2, f"{came} results")
    return "2 results"


@check("page.limit-beyond", MUST, "8.3.4.4.1", "A limit greater than the number of matches gives all of them", own=True)
def limit_beyond(visit: Visit) -> str:
    path, count = _path(visit)
    came = len(_uids(visit, path, limit="100"))
    demand(came == count, f"{came} results, not {count}")
    return f"{came} results"


@check(
    "page.offset", MUST, "8.3.4.4", "offset=1 leaves the first result out and gives the others in their order", own=True
)
def offset(visit: Visit) -> str:
    path, _ = _path(visit)
    every, rest = _uids(visit, path), _uids(visit, path, offset="1")
    demand(
        rest == every[1:],
        f"{len(rest)} results, of which {sum(a == b for a, b in zip(rest, every[1:], strict=False))} in place",
    )
    return f"{len(rest)} results"


@check("page.all-once", MUST, "8.3.4.4.1", "Pages of one together hold every match once", own=True)
def all_once(visit: Visit) -> str:
    path, count = _path(visit)
    came = [uid for at in range(count) for uid in _uids(visit, path, limit="1", offset=str(at))]
    demand(
        len(came) == count and len(set(came)) == count, f"{len(came)} results, {len(set(came))} different, of {count}"
    )
    return f"{count} pages"


@check("page.studies", MUST, "8.3.4.4.1", "Pages of a search of studies hold every match once", own=True)
def studies(visit: Visit) -> str:
    came = []
    for at in range(0, 5, 2):
        rows = visit.search("/studies", ReferringPhysicianName=visit.samples.physician, limit="2", offset=str(at))
        came += [str(first(row.get("0020000D"))) for row in rows]
    wanted = set(visit.samples.studies)
    demand(
        wanted <= set(came) and len(came) == len(set(came)),
        f"{len(came)} results, {len(wanted & set(came))} of {len(wanted)}",
    )
    return f"{len(came)} studies"


@check("page.beyond", MUST, "8.3.4.4.1", "An offset beyond the last match gives no result", own=True)
def beyond(visit: Visit) -> str:
    path, _ = _path(visit)
    response = visit.server.get(path, query=[("offset", "1000")])
    rows = visit.results(response)
    demand(not rows, f"{len(rows)} results")
    return said(response)


@check("page.order", MUST, "8.3.4.4.1", "Two equal searches give the same results in the same order", own=True)
def order(visit: Visit) -> str:
    path, _ = _path(visit)
    demand(_uids(visit, path) == _uids(visit, path), "another order")
    return "the same order"


@check("page.warning", MUST, "8.3.4.4.1", "Where results are left, a Warning header 299 says so", own=True)
def warning(visit: Visit) -> str:
    path, _ = _path(visit)
    response = visit.server.get(path, query=[("limit", "1")])
    status(response, 200)
    came = response.headers.get("warning", "no Warning header")
    demand(came.startswith("299"), came)
    return str(came)


@check(
    "page.no-warning",
    SHOULD,
    "8.3.4.4.1",
    "Where all results are in the answer, no Warning says that some are left",
    own=True,
)
def no_warning(visit: Visit) -> str:
    path, _ = _path(visit)
    came = visit.server.get(path).headers.get("warning", "")
    demand("additional" not in came, came)
    return came or "none"


@check("page.none", MUST, "10.6.3.1", "A search without a match is answered with 204, or with 200 and an empty list")
def none(visit: Visit) -> str:
    response = visit.server.get("/studies", query=[("StudyInstanceUID", "2.25.1")])
    rows = visit.results(response)
    demand(not rows, f"{len(rows)} results for a UID that is not there")
    return said(response)


@check("page.none-204", SHOULD, "8.3.4.4.1", "A search without a match is answered with 204 and no body")
def none_204(visit: Visit) -> str:
    response = visit.server.get("/studies", query=[("StudyInstanceUID", "2.25.1")])
    demand(response.status_code == 204 and not response.content, said(response))
    return said(response)


@check("page.limit-wrong", MUST, "8.3", "limit=abc is refused with 400")
def limit_wrong(visit: Visit) -> str:
    return status(visit.server.get("/studies", query=[("limit", "abc")]), 400)


@check("page.limit-negative", MUST, "8.3, 8.3.4.4", "limit=-1 is refused with 400")
def limit_negative(visit: Visit) -> str:
    return status(visit.server.get("/studies", query=[("limit", "-1")]), 400)


@check("page.offset-wrong", MUST, "8.3, 8.3.4.4", "offset=-1 is refused with 400")
def offset_wrong(visit: Visit) -> str:
    return status(visit.server.get("/studies", query=[("offset", "-1"), ("limit", "1")]), 400)


@check("page.fuzzy-wrong", SHOULD, "8.3, 8.3.4.2", "fuzzymatching=perhaps is refused with 400")
def fuzzy_wrong(visit: Visit) -> str:
    return status(visit.server.get("/studies", JSON, query=[("fuzzymatching", "perhaps"), ("limit", "1")]), 400)

"""What HTTP itself asks of a server (RFC 9110), and the description of its capabilities (PS3.18 8.9)."""

from __future__ import annotations

from .. import multipart
from ..check import MUST, SHOULD, NotOffered, Skipped, check
from ..server import JSON
from ..visit import ABSENT, Visit, demand, said, status
from .retrieve import AS_STORED


@check("http.head-metadata", SHOULD, "RFC 9110 9.1, 9.3.2", "HEAD of metadata is answered like GET, without a body")
def head_metadata(visit: Visit) -> str:
    return _head(visit, f"{visit.target().path}/metadata", JSON)


@check("http.head-search", SHOULD, "RFC 9110 9.1, 9.3.2", "HEAD of a search is answered like GET, without a body")
def head_search(visit: Visit) -> str:
    return _head(visit, "/studies", JSON)


@check("http.head-instance", SHOULD, "RFC 9110 9.1, 9.3.2", "HEAD of an instance is answered like GET, without a body")
def head_instance(visit: Visit) -> str:
    return _head(visit, visit.target().path, AS_STORED)


def _head(visit: Visit, path: str, accept: str) -> str:
    response = visit.server.request("HEAD", path, accept=accept)
    demand(response.status_code in (200, 204), said(response))
    demand(not response.content, f"{len(response.content)} bytes of body")
    return f"{response.status_code}, {response.headers.get('content-type', 'no Content-Type')}"


@check(
    "http.capabilities",
    MUST,
    "8.9, 10.2",
    "OPTIONS of the base is answered with a description of capabilities (WADL or JSON)",
)
def capabilities(visit: Visit) -> str:
    response = visit.server.request("OPTIONS", "/", accept="application/vnd.sun.wadl+xml, application/json")
    status(response, 200, offered=(*ABSENT, 400, 204))
    kind = multipart.media_type(response.headers.get("content-type", ""))[0]
    if not response.content:
        raise NotOffered(said(response))
    demand(kind in ("application/vnd.sun.wadl+xml", "application/json", "application/dicom+json"), said(response))
    return said(response)


@check("http.method", SHOULD, "RFC 9110 15.5.6", "A method that a resource does not have is refused with 405 (or 501)")
def method(visit: Visit) -> str:
    return status(visit.server.request("PATCH", f"{visit.target().path}/metadata", accept=JSON), 405, 501)


@check("http.allow", SHOULD, "RFC 9110 10.2.1, 15.5.6", "A refusal with 405 names the methods there are in Allow")
def allow(visit: Visit) -> str:
    response = visit.server.request("PATCH", f"{visit.target().path}/metadata", accept=JSON)
    if response.status_code != 405:
        raise Skipped(said(response))
    came = response.headers.get("allow", "no Allow header")
    demand("GET" in came, came)
    return str(came)


@check("http.unknown-path", MUST, "8.2, 8.5", "A path that is no resource is answered with 404 (or 400)")
def unknown_path(visit: Visit) -> str:
    return status(visit.server.get("/studies/2.25.1/nosuchresource"), 400, 404)


@check(
    "http.length", SHOULD, "Tables 8.4.3-1, 10.6.3-2", "Results have a Content-Length or come in chunks of a known end"
)
def length(visit: Visit) -> str:
    response = visit.server.get("/studies", query=[("limit", "1")])
    headers = response.headers
    if response.status_code == 204:
        return "204, nothing to measure"
    demand(
        "content-length" in headers or headers.get("transfer-encoding") == "chunked" or "content-encoding" in headers,
        "neither",
    )
    return str(headers.get("content-length") or headers.get("transfer-encoding") or headers.get("content-encoding"))


@check("http.date", SHOULD, "RFC 9110 6.6.1", "Answers have a Date header")
def date(visit: Visit) -> str:
    came = visit.server.get("/studies", query=[("limit", "1")]).headers.get("date", "no Date header")
    demand(came.endswith("GMT"), came)
    return str(came)

"""What HTTP itself asks of a server (RFC 9110), and the description of its capabilities (PS3.18 8.9)."""

from __future__ import annotations

import re
from collections.abc import Callable

from .. import multipart
from ..check import MAY, MUST, SHOULD, Check, NotOffered, Skipped, add, check
from ..server import JSON
from ..visit import ABSENT, Visit, demand, said, status
from .frames import OCTETS
from .retrieve import AS_STORED

HEADS = {
    "metadata": ("metadata", JSON, lambda visit: f"{visit.target().path}/metadata"),
    "search": ("a search", JSON, lambda visit: "/studies"),
    "instance": ("an instance", AS_STORED, lambda visit: visit.target().path),
    "frame": ("a frame", OCTETS, lambda visit: f"{visit.target().path}/frames/1"),
    "rendered": ("a rendered image", "image/jpeg", lambda visit: f"{visit.target().path}/rendered"),
}


def _register(name: str, what: str, accept: str, path: Callable[[Visit], str]) -> None:
    def head(visit: Visit) -> str:
        response = visit.server.request("HEAD", path(visit), accept=accept)
        demand(response.status_code in (200, 204), said(response))
        demand(not response.content, f"{len(response.content)} bytes of body")
        return f"{response.status_code}, {response.headers.get('content-type', 'no Content-Type')}"

    expects = f"HEAD of {what} is answered like GET, without a body"
    add(Check(f"http.head-{name}", SHOULD, "RFC 9110 9.1, 9.3.2", expects, head, own=False, writes=False))


for _name, _row in HEADS.items():
    _register(_name, *_row)


@check("http.head-fields", SHOULD, "RFC 9110 9.3.2", "HEAD of metadata has the Content-Type and Content-Length of GET")
def head_fields(visit: Visit) -> str:
    path = f"{visit.target().path}/metadata"
    head, got = visit.server.request("HEAD", path, accept=JSON), visit.server.get(path)
    demand(head.status_code == got.status_code, f"{head.status_code}, and {got.status_code} to GET")
    for name in ("content-type", "content-length"):
        came, wanted = head.headers.get(name), got.headers.get(name)
        demand(came == wanted or (came is None and name == "content-length"), f"{name} {came}, and {wanted} to GET")
    return str(head.headers.get("content-type"))


def _tag(visit: Visit, path: str, accept: str) -> str:
    """The entity tag of a resource.

    Raises
    ------
    NotOffered
        It has none.
    """
    response = visit.server.get(path, accept)
    status(response, 200)
    found = response.headers.get("etag")
    if not found:
        raise NotOffered("there is no ETag")
    return str(found)


@check(
    "http.etag", MAY, "RFC 9110 8.8.3", "Metadata has an entity tag of the right form, the same for the same request"
)
def etag(visit: Visit) -> str:
    path = f"{visit.target().path}/metadata"
    came = [_tag(visit, path, JSON) for _ in range(2)]
    demand(re.fullmatch(r'(W/)?"[\x21\x23-\x7e]*"', came[0]), came[0])
    demand(came[0] == came[1], f"{came[0]}, then {came[1]}")
    return came[0]


@check("http.not-modified", MAY, "RFC 9110 13.1.2, 15.4.5",
       "If-None-Match with the entity tag of metadata is answered with 304 and no body")  # fmt: skip
def not_modified(visit: Visit) -> str:
    path = f"{visit.target().path}/metadata"
    response = visit.server.get(path, headers={"If-None-Match": _tag(visit, path, JSON)})
    demand(not response.content, f"{len(response.content)} bytes of body")
    return status(response, 304)


@check("http.not-modified-instance", MAY, "RFC 9110 13.1.2, 15.4.5",
       "If-None-Match with the entity tag of an instance is answered with 304 and no body")  # fmt: skip
def not_modified_instance(visit: Visit) -> str:
    path = visit.target().path
    response = visit.server.get(path, AS_STORED, headers={"If-None-Match": _tag(visit, path, AS_STORED)})
    demand(not response.content, f"{len(response.content)} bytes of body")
    return status(response, 304)


@check(
    "http.modified",
    MUST,
    "RFC 9110 13.1.2",
    "If-None-Match with another entity tag is answered with 200 and the metadata",
)
def modified(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata", headers={"If-None-Match": '"another"'})
    demand(response.content, "no body")
    return status(response, 200)


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

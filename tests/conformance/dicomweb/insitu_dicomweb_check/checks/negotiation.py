"""Retrieving: which of several accepted representations comes (PS3.18 8.7.5 to 8.7.8, RFC 9110 12.5.1)."""

from __future__ import annotations

from .. import multipart
from ..check import MUST, SHOULD, NotOffered, check
from ..server import JSON, NO_ACCEPT
from ..visit import Visit, demand, said, status
from .retrieve import DICOM, EXPLICIT, RLE, ask, body, dataset

UNKNOWN_SYNTAX = "2.25.1"


@check("accept.not-acceptable", MUST, "8.7.8.1, Table 8.7.3-1",
       "Metadata asked for as text/csv is refused with 406, or comes in the default media type")  # fmt: skip
def not_acceptable(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata", "text/csv")
    if response.status_code == 406:
        return said(response)
    demand(multipart.media_type(response.headers.get("content-type", ""))[0] == JSON, said(response))
    return said(response)


@check("accept.unknown-syntax", MUST, "8.7.7, 8.7.8.1",
       "An instance asked for in a transfer syntax that does not exist is refused with 406, or comes in the default one")  # fmt: skip
def unknown_syntax(visit: Visit) -> str:
    response = visit.server.get(visit.target().path, f"{DICOM}; transfer-syntax={UNKNOWN_SYNTAX}")
    if response.status_code == 406:
        return said(response)
    status(response, 200)
    came = str(dataset(multipart.take_apart(response).parts[0]).file_meta.TransferSyntaxUID)
    demand(came == EXPLICIT, came)
    return came


@check("accept.anything", MUST, "8.7.7", "An instance asked for with Accept: */* comes as application/dicom")
def anything(visit: Visit) -> str:
    response = visit.server.get(visit.target().path, "*/*")
    status(response, 200)
    name, parameters = multipart.media_type(response.headers.get("content-type", ""))
    kind = parameters.get("type") if name == "multipart/related" else name
    demand(kind == "application/dicom", said(response))
    return said(response)


@check("accept.none", SHOULD, "8.7.7", "A retrieve request without an Accept header is refused with 406")
def none(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.target().path}/metadata", NO_ACCEPT), 406)


@check(
    "accept.weights",
    MUST,
    "8.7.8.1, RFC 9110 12.4.2",
    "Of two transfer syntaxes the one with the higher weight comes",
    own=True,
)
def weights(visit: Visit) -> str:
    path = visit.samples.rle.path
    if ask(visit, path, f"{DICOM}; transfer-syntax={RLE}").status_code != 200:
        raise NotOffered("the server has one transfer syntax of it only")
    for high, low in ((RLE, EXPLICIT), (EXPLICIT, RLE)):
        accept = f"{DICOM}; transfer-syntax={low}; q=0.2, {DICOM}; transfer-syntax={high}; q=0.8"
        came = str(dataset(body(visit, path, accept).parts[0]).file_meta.TransferSyntaxUID)
        demand(came == high, f"{came}, though {high} has the higher weight")
    return "it does"


@check(
    "accept.second-choice",
    MUST,
    "8.7.7, 8.7.8.1",
    "A media type the server does not have is passed over for the next accepted one",
)
def second_choice(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata", f"text/csv, {JSON};q=0.5")
    status(response, 200)
    demand(multipart.media_type(response.headers.get("content-type", ""))[0] == JSON, said(response))
    return said(response)


@check(
    "accept.second-choice-dicom", MUST, "8.7.7, 8.7.8.1",
    "A transfer syntax the server does not have is passed over for the next accepted one", own=True,
)  # fmt: skip
def second_choice_dicom(visit: Visit) -> str:
    accept = f"{DICOM}; transfer-syntax={UNKNOWN_SYNTAX}, {DICOM}; transfer-syntax={EXPLICIT}; q=0.5"
    came = str(dataset(body(visit, visit.samples.ct[0].path, accept).parts[0]).file_meta.TransferSyntaxUID)
    demand(came == EXPLICIT, came)
    return came


@check("accept.refused-weight", SHOULD, "RFC 9110 12.4.2", "A media type with q=0 does not come")
def refused_weight(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata", f"{JSON};q=0, text/csv;q=1")
    kind = multipart.media_type(response.headers.get("content-type", ""))[0]
    demand(response.status_code != 200 or kind != JSON, said(response))
    return said(response)


@check(
    "accept.case", MUST, "8.7 (type and subtype are case-insensitive)", "Media types are understood whatever their case"
)
def case(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata", "Application/DICOM+JSON")
    return status(response, 200)


@check(
    "accept.parameter",
    MUST,
    "8.3.3.1, 8.7.8.1",
    "The query parameter accept is understood, as in /metadata?accept=application/dicom+json",
)
def parameter(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata", "*/*", query=[("accept", JSON)])
    status(response, 200)
    demand(multipart.media_type(response.headers.get("content-type", ""))[0] == JSON, said(response))
    return said(response)


@check("accept.charset", MUST, "8.7.3.5.3, 8.8", "The charset parameter with utf-8 is understood")
def charset(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.target().path}/metadata", f"{JSON}; charset=utf-8"), 200)


@check("accept.unknown-parameter", MUST, "8.3", "A query parameter the standard does not know is ignored")
def unknown_parameter(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata", query=[("conformancesuite", "1")])
    return status(response, 200)

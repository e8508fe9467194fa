"""Bulk data (WADO-RS, PS3.18 10.4.1.1): the values that metadata gives by reference."""

from __future__ import annotations

from .. import multipart
from ..check import MAY, MUST, NotOffered, Skipped, check
from ..objects import BULK
from ..visit import ABSENT, Visit, demand, said, status
from .frames import OCTETS
from .metadata import PIXELS, bulk


def _address(visit: Visit, tag: str, sample_name: str = "ct") -> str:
    """The BulkDataURI of an attribute as a whole address.

    Raises
    ------
    Skipped
        The metadata has the value itself.
    """
    sample = visit.samples.document if sample_name == "document" else visit.samples.ct[0]
    uri = (visit.metadata_of(sample).get(tag) or {}).get("BulkDataURI")
    if not uri:
        raise Skipped(f"the metadata has no BulkDataURI for {tag}")
    return visit.server.absolute(f"{visit.server.url}{sample.path}/metadata", str(uri))


@check("bulk.pixels", MUST, "10.4.1.1.2, Table 8.7.3-4", "The BulkDataURI of pixel data leads to the pixels", own=True)
def pixels(visit: Visit) -> str:
    address = _address(visit, PIXELS)
    came = bulk(visit, visit.samples.ct[0], address)
    demand(came == visit.samples.ct[0].frames[0], f"{len(came)} bytes, not those that were stored")
    return f"{len(came)} bytes"


@check(
    "bulk.private",
    MUST,
    "10.4.1.1.2, F.2.6",
    "The BulkDataURI of a long private binary value leads to its bytes",
    own=True,
)
def private(visit: Visit) -> str:
    came = bulk(visit, visit.samples.ct[0], _address(visit, "00991010"))
    demand(came == BULK, f"{len(came)} bytes, not the {len(BULK)} that were stored")
    return f"{len(came)} bytes"


@check(
    "bulk.document",
    MUST,
    "10.4.1.1.2, F.2.6",
    "The BulkDataURI of an encapsulated document leads to the document",
    own=True,
)
def document(visit: Visit) -> str:
    address = _address(visit, "00420011", "document")
    response = visit.server.get(address, OCTETS)
    status(response, 200)
    came = multipart.take_apart(response).parts[0].content
    wanted = visit.samples.document.dataset.EncapsulatedDocument
    demand(came.rstrip(b"\n\0") == wanted.rstrip(b"\n\0"), f"{len(came)} bytes, not the {len(wanted)} that were stored")
    return f"{len(came)} bytes"


@check(
    "bulk.single-part",
    MAY,
    "8.7.3.3.1",
    "Bulk data comes as a plain application/octet-stream body where that is accepted",
    own=True,
)
def single_part(visit: Visit) -> str:
    response = visit.server.get(_address(visit, "00991010"), "application/octet-stream")
    kind = multipart.media_type(response.headers.get("content-type", ""))[0]
    if response.status_code in (400, 406) or kind == "multipart/related":
        raise NotOffered(said(response))
    status(response, 200)
    demand(response.content == BULK, f"{len(response.content)} bytes")
    return said(response)


@check("bulk.range", MAY, "8.4.3, RFC 9110 14", "A range of bytes comes with 206 and Content-Range", own=True)
def byte_range(visit: Visit) -> str:
    address = _address(visit, "00991010")
    response = visit.server.get(address, "application/octet-stream", headers={"Range": "bytes=256-511"})
    if response.status_code in (200, 400, 406):
        raise NotOffered(said(response))
    status(response, 206)
    demand(response.content == BULK[256:512], f"{len(response.content)} bytes, not those of the range")
    came = response.headers.get("content-range", "no Content-Range")
    demand(came == f"bytes 256-511/{len(BULK)}", came)
    return str(came)


@check("bulk.range-beyond", MAY, "RFC 9110 15.5.17", "A range beyond the end is answered with 416", own=True)
def range_beyond(visit: Visit) -> str:
    address = _address(visit, "00991010")
    first = visit.server.get(address, "application/octet-stream", headers={"Range": "bytes=0-0"})
    if first.status_code != 206:
        raise NotOffered(said(first))
    response = visit.server.get(address, "application/octet-stream", headers={"Range": "bytes=1000000-"})
    return status(response, 416)


@check(
    "bulk.unknown", MUST, "Table 10.4.3-1", "A BulkDataURI that leads nowhere is answered with 404 (or 400)", own=True
)
def unknown(visit: Visit) -> str:
    address = _address(visit, "00991010").replace(visit.samples.ct[0].instance, "2.25.1")
    return status(visit.server.get(address, OCTETS), 400, 404)


def _resource(visit: Visit, path: str) -> str:
    response = visit.server.get(path, OCTETS)
    if response.is_redirect:
        response = visit.server.get(visit.server.absolute(str(response.url), response.headers["location"]), OCTETS)
    status(response, 200, offered=(*ABSENT, 400, 406))
    return f"{len(multipart.take_apart(response).parts)} parts"


@check("bulk.study", MUST, "Table 10.3-2, 10.4.1.1.5", "All bulk data of a study comes at /studies/{study}/bulkdata")
def study(visit: Visit) -> str:
    return _resource(visit, f"{visit.target().study_path}/bulkdata")


@check(
    "bulk.series", MUST, "Table 10.3-2, 10.4.1.1.5", "All bulk data of a series comes at .../series/{series}/bulkdata"
)
def series(visit: Visit) -> str:
    return _resource(visit, f"{visit.target().series_path}/bulkdata")


@check(
    "bulk.instance",
    MUST,
    "Table 10.3-2, 10.4.1.1.5",
    "All bulk data of an instance comes at .../instances/{instance}/bulkdata",
)
def instance(visit: Visit) -> str:
    return _resource(visit, f"{visit.target().path}/bulkdata")


@check("bulk.pixeldata", MAY, "10.4.1.1.6", "The pixel data of an instance comes at .../instances/{instance}/pixeldata")
def pixeldata(visit: Visit) -> str:
    return _resource(visit, f"{visit.target().path}/pixeldata")

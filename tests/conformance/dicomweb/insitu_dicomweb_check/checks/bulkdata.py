"""Bulk data (WADO-RS, PS3.18 10.4.1.1): the values that metadata gives by reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import multipart
from ..check import MAY, MUST, SHOULD, Check, Level, NotOffered, Skipped, add, check
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


def _resource(visit: Visit, path: str, wanted: int | None = None) -> multipart.Body:
    """All bulk data below a resource; `wanted` parts where the objects are the suite's own."""
    response = visit.server.get(path, OCTETS)
    if response.is_redirect:
        response = visit.server.get(visit.server.absolute(str(response.url), response.headers["location"]), OCTETS)
    status(response, 200, offered=(*ABSENT, 400, 406))
    found = multipart.take_apart(response)
    demand(found.parts, "no part")
    demand(wanted is None or len(found.parts) == wanted, f"{len(found.parts)} parts, not {wanted}")
    return found


def _register(level_of: str, what: str, level: Level, paragraph: str, expects: str) -> None:
    def resource(visit: Visit) -> str:
        target = visit.target()
        path = {"study": target.study_path, "series": target.series_path, "instance": target.path}[level_of]
        return f"{len(_resource(visit, f'{path}/{what}').parts)} parts"

    name = level_of if what == "bulkdata" else what if level_of == "instance" else f"{level_of}-{what}"
    add(Check(f"bulk.{name}", level, paragraph, expects, resource, own=False, writes=False))


for each, where in (
    ("study", "/studies/{study}"),
    ("series", ".../series/{series}"),
    ("instance", ".../instances/{instance}"),
):
    article = "an" if each == "instance" else "a"
    _register(
        each,
        "bulkdata",
        MUST,
        "Table 10.3-2, 10.4.1.1.5",
        f"All bulk data of {article} {each} comes at {where}/bulkdata",
    )
    _register(
        each, "pixeldata", MAY, "10.4.1.1.6", f"The pixel data of {article} {each} comes at {where}/pixeldata"
    )  # fmt: skip


@check(
    "bulk.locations", MUST, "10.4.3.3.5",
    "Each part of an instance's bulk data has the Content-Location that the metadata names, and all named are there", own=True,
)  # fmt: skip
def locations(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    base = f"{visit.server.url}{sample.path}/metadata"
    named = {tag: visit.server.absolute(base, uri) for tag, uri in _named(visit.metadata_of(sample))}
    if not named:
        raise Skipped("the metadata has no BulkDataURI")
    parts = _resource(visit, f"{sample.path}/bulkdata").parts
    came = {visit.server.absolute(base, part.headers.get("content-location", "none")): part.content for part in parts}
    lacking = [tag for tag, address in named.items() if address not in came]
    demand(not lacking, f"no part of the address of {', '.join(lacking)}")
    demand(PIXELS not in named or came[named[PIXELS]] == sample.frames[0], "other pixels")
    return f"{len(parts)} parts"


def _named(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(tag, str(value["BulkDataURI"])) for tag, value in document.items() if "BulkDataURI" in value]


@check(
    "bulk.decompressed", MUST, "8.7.3.3",
    "Compressed pixel data of an instance's bulk data comes uncompressed where no transfer syntax is named", own=True,
)  # fmt: skip
def decompressed(visit: Visit) -> str:
    sample = visit.samples.rle
    parts = _resource(visit, f"{sample.path}/bulkdata").parts
    demand(any(part.content == sample.frames[0] for part in parts), f"none of {len(parts)} parts is the decoded pixels")
    return f"{len(parts)} parts"


@check(
    "bulk.part-length",
    SHOULD,
    "Table 8.6.1-1",
    "Each part of bulk data has a Content-Length, and it is right",
    own=True,
)
def part_length(visit: Visit) -> str:
    for part in _resource(visit, f"{visit.target().series_path}/bulkdata").parts:
        came = part.headers.get("content-length", "none")
        demand(came == str(len(part.content)), f"{came}, and the part has {len(part.content)} bytes")
    return "they have"

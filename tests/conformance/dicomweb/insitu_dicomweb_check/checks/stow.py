"""Storing (STOW-RS, PS3.18 10.5) where it succeeds, and what the answer says (annex I)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import httpx
import pydicom

from .. import multipart, objects
from ..check import MAY, MUST, SHOULD, Broken, NotOffered, check
from ..dicomjson import first, native
from ..objects import Sample
from ..server import JSON
from ..visit import ABSENT, Deposit, Visit, demand, said, status

XML, EXPLICIT = "application/dicom+xml", "1.2.840.10008.1.2.1"
RETRIEVE_URL, FAILURE_REASON = "00081190", "00081197"
FAILED, REFERENCED, OTHER = "00081198", "00081199", "0008119A"
REFERENCED_CLASS, REFERENCED_INSTANCE = "00081150", "00081155"


def module(response: httpx.Response) -> Mapping[str, Any]:
    """The Store Instances Response Module of an answer; some servers put it into an array of one.

    Raises
    ------
    Broken
        The body is something else.
    """
    try:
        found = response.json()
    except ValueError as error:
        raise Broken(f"{said(response)}, and the body is not JSON") from error
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        raise Broken(f"{said(response)}, and the body is not an object")
    return found


def items(document: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    """The items of a sequence; none where it is absent."""
    return list((document.get(tag) or {}).get("Value") or [])


def named(entries: list[Mapping[str, Any]]) -> list[str]:
    """Referenced SOP Instance UIDs of items."""
    return [str(first(entry.get(REFERENCED_INSTANCE))) for entry in entries]


def _stored(deposit: Deposit) -> str:
    return status(deposit.response, 200, offered=ABSENT)


@check(
    "stow.one",
    MUST,
    "10.5.1.1.1, 10.5.3.1",
    "One instance sent to /studies is stored and answered with 200",
    writes=True,
)
def one(visit: Visit) -> str:
    return _stored(visit.deposit("one"))


@check(
    "stow.study", MUST, "10.5.1.1.1, 10.5.3.1",
    "Instances of a study sent to /studies/{study} are stored and answered with 200", writes=True,
)  # fmt: skip
def study(visit: Visit) -> str:
    return _stored(visit.deposit("study"))


@check(
    "stow.many", MUST, "10.5.1.4",
    "Instances of several studies, SOP classes and character sets in one request to /studies are stored (200)", writes=True,
)  # fmt: skip
def many(visit: Visit) -> str:
    return _stored(visit.deposit("many"))


@check(
    "stow.compressed", MUST, "10.5.2",
    "An RLE compressed instance is stored: it is in the Referenced SOP Sequence", writes=True,
)  # fmt: skip
def compressed(visit: Visit) -> str:
    deposit = visit.deposit("many")
    listed = named(items(module(deposit.response), REFERENCED))
    demand(
        visit.samples.rle.instance in listed,
        f"{said(deposit.response)}, not among the {len(listed)} referenced instances",
    )
    return "it is referenced"


@check(
    "stow.answer-type", MUST, "10.5.3.2, 10.5.4",
    "The answer to a request that accepts application/dicom+json has that Content-Type", writes=True,
)  # fmt: skip
def answer_type(visit: Visit) -> str:
    response = visit.deposit("one").response
    came = response.headers.get("content-type", "no Content-Type")
    demand(multipart.media_type(came)[0] == JSON, came)
    return str(came)


@check(
    "stow.answer-default", MUST, "8.7.7, 10.5.4",
    "The answer to a request with Accept: */* is the default, application/dicom+json", own=True, writes=True,
)  # fmt: skip
def answer_default(visit: Visit) -> str:
    response = visit.store([visit.samples.ct[0].file], accept="*/*")
    came = response.headers.get("content-type", "no Content-Type")
    demand(multipart.media_type(came)[0] == JSON, said(response))
    return str(came)


@check(
    "stow.answer-xml", MUST, "10.5.4 (required), PS3.19 A.1",
    "A request that accepts application/dicom+xml is answered in the Native DICOM Model", own=True, writes=True,
)  # fmt: skip
def answer_xml(visit: Visit) -> str:
    response = visit.store([visit.samples.ct[0].file], accept="application/dicom+xml")
    if response.status_code == 406:
        raise NotOffered(said(response))
    kind = multipart.media_type(response.headers.get("content-type", ""))[0]
    if kind == JSON:
        raise NotOffered(f"{said(response)}: the default instead")
    content = response.content
    if kind == "multipart/related":
        content = multipart.take_apart(response).parts[0].content
    else:
        demand(kind in ("application/dicom+xml", "application/xml", "text/xml"), said(response))
    try:
        root = ElementTree.fromstring(content)  # noqa: S314 - the answer of the server the user chose
    except ElementTree.ParseError as error:
        raise Broken(f"{said(response)}: not well-formed ({error})") from error
    demand(root.tag.rpartition("}")[2] == "NativeDicomModel", f"the root element is {root.tag}")
    return said(response)


@check(
    "stow.referenced", MUST, "Table I.1-1",
    "The Referenced SOP Sequence names exactly the stored instances with their SOP classes", writes=True,
)  # fmt: skip
def referenced(visit: Visit) -> str:
    for name in ("one", "study", "many"):
        deposit = visit.deposit(name)
        _stored(deposit)
        came = {
            (str(first(i.get(REFERENCED_CLASS))), str(first(i.get(REFERENCED_INSTANCE))))
            for i in items(module(deposit.response), REFERENCED)
        }
        wanted = {(str(s.dataset.SOPClassUID), s.instance) for s in deposit.samples}
        demand(came == wanted, f"{len(came & wanted)} of {len(wanted)} named, {len(came - wanted)} others")
    return "all are named"


@check(
    "stow.no-failures", MUST, "Table I.1-1 (1C)",
    "Where everything was stored there are no items of failures in the answer", writes=True,
)  # fmt: skip
def no_failures(visit: Visit) -> str:
    document = module(visit.deposit("many").response)
    count = len(items(document, FAILED)) + len(items(document, OTHER))
    demand(count == 0, f"{count} items of failures")
    return "none"


@check(
    "stow.study-url",
    MUST,
    "Table I.1-1 (2)",
    "The answer has the Retrieve URL (0008,1190), which may be empty",
    writes=True,
)
def study_url(visit: Visit) -> str:
    document = module(visit.deposit("one").response)
    demand(RETRIEVE_URL in document, f"attributes {', '.join(document) or 'none'}")
    return str(first(document[RETRIEVE_URL]))


@check(
    "stow.study-url-works", MUST, "Table I.1-1",
    "The Retrieve URL of the answer is the address of the study: its metadata is below it", own=True, writes=True,
)  # fmt: skip
def study_url_works(visit: Visit) -> str:
    url = first(module(visit.deposit("one").response).get(RETRIEVE_URL))
    demand(url, "it is absent or empty")
    response = visit.server.get(visit.server.absolute(visit.server.url + "/studies", str(url)) + "/metadata")
    status(response, 200)
    return str(url)


@check(
    "stow.instance-url", MUST, "Table I.1-1 (2)",
    "Each item of the Referenced SOP Sequence has a Retrieve URL, which may be empty", writes=True,
)  # fmt: skip
def instance_url(visit: Visit) -> str:
    found = items(module(visit.deposit("many").response), REFERENCED)
    demand(found, "there is no item")
    lacking = sum(RETRIEVE_URL not in item for item in found)
    demand(not lacking, f"{lacking} of {len(found)} items are without")
    return f"{len(found)} items with one"


@check(
    "stow.instance-url-works", MUST, "Table I.1-1",
    "The Retrieve URL of an item retrieves the instance", own=True, writes=True,
)  # fmt: skip
def instance_url_works(visit: Visit) -> str:
    found = items(module(visit.deposit("one").response), REFERENCED)
    url = first(found[0].get(RETRIEVE_URL)) if found else None
    demand(url, "it is absent or empty")
    address = visit.server.absolute(visit.server.url + "/studies", str(url))
    response = visit.server.get(address, 'multipart/related; type="application/dicom"; transfer-syntax=*')
    return status(response, 200)


@check("stow.again", MUST, "10.5.3.1", "The same instance again is answered with 200, 202 or 409, and no error of the server",
       own=True, writes=True)  # fmt: skip
def again(visit: Visit) -> str:
    return status(visit.store([visit.samples.ct[0].file]), 200, 202, 409)


@check("stow.again-unchanged", MUST, "10.5.2", "After the same instance was sent again its study still has the same instances",
       own=True, writes=True)  # fmt: skip
def again_unchanged(visit: Visit) -> str:
    visit.store([visit.samples.ct[0].file])
    found = visit.search(f"/studies/{visit.samples.ct[0].study}/instances")
    wanted = len(visit.samples.of_study(visit.samples.ct[0].study))
    demand(len(found) == wanted, f"{len(found)} instances, not {wanted}")
    return f"{len(found)} instances"


def _extra(visit: Visit) -> Sample:
    sample = objects.foreign(visit.samples)
    visit.extra.append(sample.study)
    return sample


@check("stow.chunked", MUST, "RFC 9112 7.1", "A body in chunked transfer coding, without a length, is stored (200)",
       own=True, writes=True)  # fmt: skip
def chunked(visit: Visit) -> str:
    return status(visit.store([_extra(visit).file], chunked=True), 200)


@check("stow.quoted-boundary", MUST, "8.6.1.2.1, 8.7", "A quoted boundary of the legal characters is understood (200)",
       own=True, writes=True)  # fmt: skip
def quoted_boundary(visit: Visit) -> str:
    boundary = "---=_part/1:a'b(c)+d,e.f?g"
    response = visit.server.request(
        "POST", "/studies", accept=JSON, body=multipart.put_together([_extra(visit).file], boundary),
        headers={"Content-Type": multipart.content_type(boundary, quoted=True)},
    )  # fmt: skip
    return status(response, 200)


@check("stow.part-headers", MUST, "Table 8.6.1-1", "Parts with Content-Location, Content-Length and Content-Description are stored",
       own=True, writes=True)  # fmt: skip
def part_headers(visit: Visit) -> str:
    sample = _extra(visit)
    extra = {
        "Content-Location": sample.path,
        "Content-Length": str(len(sample.file)),
        "Content-Description": "an object of a conformance suite",
    }
    response = visit.server.request(
        "POST", "/studies", accept=JSON, body=multipart.put_together([sample.file], headers=extra),
        headers={"Content-Type": multipart.content_type()},
    )  # fmt: skip
    return status(response, 200)


@check("stow.part-transfer-syntax", MUST, "8.7.3.5.2, 8.7.9", "A part whose Content-Type names its transfer syntax is stored",
       own=True, writes=True)  # fmt: skip
def part_transfer_syntax(visit: Visit) -> str:
    sample = _extra(visit)
    kind = f"application/dicom; transfer-syntax={sample.dataset.file_meta.TransferSyntaxUID}"
    response = visit.server.request(
        "POST", "/studies", accept=JSON, body=multipart.put_together([sample.file], headers={"Content-Type": kind}),
        headers={"Content-Type": multipart.content_type()},
    )  # fmt: skip
    return status(response, 200)


@check(
    "stow.location",
    SHOULD,
    "Table 10.5.3-2",
    "An answer about a new resource has Location or Content-Location",
    writes=True,
)
def location(visit: Visit) -> str:
    headers = visit.deposit("one").response.headers
    demand("location" in headers or "content-location" in headers, "neither")
    return str(headers.get("location") or headers.get("content-location"))


@check("stow.single-part", MAY, "10.5.1, 8.7.3.5", "A body that is one application/dicom object, without multipart, is stored (200)",
       own=True, writes=True)  # fmt: skip
def single_part(visit: Visit) -> str:
    response = visit.server.request(
        "POST", "/studies", accept=JSON, body=_extra(visit).file, headers={"Content-Type": "application/dicom"}
    )
    return status(response, 200, offered=(400, 415))


def _apart(visit: Visit, kind: str, sample: Sample, *, with_bulk: bool = True) -> httpx.Response:
    """Store an instance as metadata of a kind and its pixels in a further part."""
    document = sample.dataset.to_json_dict(bulk_data_threshold=1 << 30, bulk_data_element_handler=lambda _: "")
    document = {tag: value for tag, value in document.items() if not tag.startswith("0099")}
    document |= {
        "7FE00010": {"vr": "OW", "BulkDataURI": "bulk/pixels"},
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
    }
    document = dict(sorted(document.items()))
    text = json.dumps([document]).encode() if kind == JSON else native(document)
    parts = [({"Content-Type": f"{kind}; transfer-syntax={EXPLICIT}"}, text)]
    if with_bulk:
        pixels = f"application/octet-stream; transfer-syntax={EXPLICIT}"
        parts.append(({"Content-Type": pixels, "Content-Location": "bulk/pixels"}, sample.frames[0]))
    body = b""
    for headers, content in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body += f"--c\r\n{lines}\r\n".encode() + content + b"\r\n"
    response = visit.server.request(
        "POST", "/studies", accept=JSON, body=body + b"--c--\r\n",
        headers={"Content-Type": multipart.content_type("c", kind)},
    )  # fmt: skip
    if response.status_code == 415 or (response.status_code == 400 and "multipart" in response.text.lower()):
        raise NotOffered(said(response))
    return response


@check(
    "stow.metadata-and-bulkdata", MUST, "10.5.1.4, 10.5.4 (default)",
    "An instance sent as DICOM JSON and its bulk data in further parts is stored (200)", own=True, writes=True,
)  # fmt: skip
def metadata_and_bulkdata(visit: Visit) -> str:
    return status(_apart(visit, JSON, _extra(visit)), 200)


@check(
    "stow.xml-and-bulkdata", MUST, "10.5.1.4, 10.5.4 (required), PS3.19 A.1",
    "An instance sent in the Native DICOM Model and its bulk data in further parts is stored (200)", own=True, writes=True,
)  # fmt: skip
def xml_and_bulkdata(visit: Visit) -> str:
    return status(_apart(visit, XML, _extra(visit)), 200)


@check(
    "stow.bulkdata-stored", MUST, "10.5.1.4, 10.5.2",
    "An instance sent as DICOM JSON and bulk data comes back with its attributes and pixels", own=True, writes=True,
)  # fmt: skip
def bulkdata_stored(visit: Visit) -> str:
    sample = _extra(visit)
    status(_apart(visit, JSON, sample), 200)
    response = visit.server.get(sample.path, f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}')
    status(response, 200)
    came = pydicom.dcmread(io.BytesIO(multipart.take_apart(response).parts[0].content))
    demand(came.PixelData == sample.frames[0], "other pixels")
    for keyword in ("PatientName", "StudyDate", "RescaleIntercept", "RequestAttributesSequence"):
        demand(came.get(keyword) == sample.dataset.get(keyword), f"{keyword} is {came.get(keyword)}")
    return "it does"


@check(
    "stow.bulkdata-missing", MUST, "10.5.1.4, Table 10.5.3-1",
    "An instance whose metadata names bulk data that is not in the request is not a success", own=True, writes=True,
)  # fmt: skip
def bulkdata_missing(visit: Visit) -> str:
    response = _apart(visit, JSON, _extra(visit), with_bulk=False)
    demand(400 <= response.status_code < 500, said(response))
    return said(response)

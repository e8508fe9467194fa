"""Retrieving objects (WADO-RS, PS3.18 10.4): studies, series and instances as application/dicom."""

from __future__ import annotations

import io

import httpx
import pydicom

from .. import dicomjson, multipart, objects
from ..check import MUST, SHOULD, Broken, NotOffered, check
from ..multipart import LEGAL_BOUNDARY, Body, Part
from ..objects import Sample, body_of
from ..visit import Visit, demand, said, status

DICOM = 'multipart/related; type="application/dicom"'
AS_STORED = DICOM + "; transfer-syntax=*"
EXPLICIT, IMPLICIT, BIG, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
NOBODY = "2.25.1"


def ask(visit: Visit, path: str, accept: str = AS_STORED) -> httpx.Response:
    """A retrieve request, made once."""
    return visit.once(f"{accept} {path}", lambda: visit.server.get(path, accept))


def body(visit: Visit, path: str, accept: str = AS_STORED) -> Body:
    """The parts of an answer that must succeed."""
    response = ask(visit, path, accept)
    status(response, 200)
    return multipart.take_apart(response)


def dataset(part: Part) -> pydicom.FileDataset:
    """The object in a part.

    Raises
    ------
    Broken
        It is none.
    """
    try:
        return pydicom.dcmread(io.BytesIO(part.content))
    except Exception as error:
        raise Broken(f"a part that is no DICOM file ({type(error).__name__})") from error


def _count(visit: Visit, path: str, wanted: list[Sample]) -> str:
    parts = body(visit, path).parts
    came = sorted(str(dataset(part).SOPInstanceUID) for part in parts)
    demand(came == sorted(s.instance for s in wanted), f"{len(came)} parts, not {len(wanted)}, or other instances")
    return f"{len(came)} parts"


@check("retrieve.instance", MUST, "Table 10.3-2, 10.4.3.1", "An instance is retrieved as multipart/related (200)")
def instance(visit: Visit) -> str:
    path = visit.target().path
    demand(len(body(visit, path).parts) == 1, f"{len(body(visit, path).parts)} parts")
    return said(ask(visit, path))


@check(
    "retrieve.series", MUST, "Table 10.3-2, 10.4.2", "A series is retrieved with each of its instances once", own=True
)
def series(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    return _count(visit, f"/studies/{sample.study}/series/{sample.series}", visit.samples.ct)


@check("retrieve.study", MUST, "Table 10.3-2, 10.4.2", "A study is retrieved with each of its instances once", own=True)
def study(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    return _count(visit, f"/studies/{sample.study}", visit.samples.of_study(sample.study))


@check("retrieve.type-parameter", MUST, "8.7.1, 8.7.3.5.1", 'The Content-Type has type="application/dicom"')
def type_parameter(visit: Visit) -> str:
    found = body(visit, visit.target().path)
    demand(found.type == "application/dicom", f"type {found.type}")
    return "it has"


@check("retrieve.boundary", MUST, "8.6.1.2.1", "The boundary has 1 to 70 of the legal characters")
def boundary(visit: Visit) -> str:
    found = body(visit, visit.target().path).boundary
    demand(LEGAL_BOUNDARY.fullmatch(found), repr(found))
    return repr(found)


@check("retrieve.closing", MUST, "8.6.1.2.1", "The body ends with the closing delimiter")
def closing(visit: Visit) -> str:
    demand(body(visit, visit.target().path).closed, "it does not")
    return "it does"


@check("retrieve.part-type", MUST, "8.6.1.2, Table 8.6.1-1", "Each part has Content-Type application/dicom")
def part_type(visit: Visit) -> str:
    kinds = {part.media_type for part in body(visit, visit.target().series_path).parts}
    demand(kinds == {"application/dicom"}, f"{kinds or 'no part'}")
    return "each has"


@check("retrieve.part-transfer-syntax", SHOULD, "8.7.9",
       "Where the Content-Type of a part names a transfer syntax, it is that of the object", own=True)  # fmt: skip
def part_transfer_syntax(visit: Visit) -> str:
    part = body(visit, visit.samples.rle.path).parts[0]
    named = multipart.media_type(part.headers.get("content-type", ""))[1].get("transfer-syntax")
    actual = str(dataset(part).file_meta.TransferSyntaxUID)
    demand(named in (None, actual), f"{named} named, {actual} in the object")
    return str(named or "none named")


@check("retrieve.part-location", SHOULD, "Table 8.6.1-1", "Each part has a Content-Location")
def part_location(visit: Visit) -> str:
    parts = body(visit, visit.target().series_path).parts
    lacking = sum("content-location" not in part.headers for part in parts)
    demand(parts and not lacking, f"{lacking} of {len(parts)} parts are without")
    return parts[0].headers["content-location"]


@check("retrieve.part-length", SHOULD, "Table 8.6.1-1", "Each part has a Content-Length, and it is right")
def part_length(visit: Visit) -> str:
    parts = body(visit, visit.target().path).parts
    for part in parts:
        came = part.headers.get("content-length", "none")
        demand(came == str(len(part.content)), f"{came}, and the part has {len(part.content)} bytes")
    return "each has"


@check(
    "retrieve.equal",
    MUST,
    "10.4.2, 10.5.2",
    "Each instance has the attributes that were stored (or says by Original Attributes what was changed)",
    own=True,
)
def equal(visit: Visit) -> str:
    for sample in visit.samples.all:
        came = dataset(body(visit, sample.path).parts[0])
        if "OriginalAttributesSequence" in came:
            continue
        document = came.to_json_dict(bulk_data_threshold=1 << 30, bulk_data_element_handler=lambda _: "")
        wrong = dicomjson.differences(sample.dataset, document)
        demand(not wrong, f"{sample.dataset.Modality}: {'; '.join(wrong[:3])}")
    return f"{len(visit.samples.all)} instances"


@check(
    "retrieve.identical",
    SHOULD,
    "8.7.3.5.2",
    "With transfer-syntax=* the data set of each instance comes byte for byte as it was stored",
    own=True,
)
def identical(visit: Visit) -> str:
    changed = []
    for sample in visit.samples.all:
        part = body(visit, sample.path).parts[0]
        dataset(part)
        if body_of(part.content) != body_of(sample.file):
            changed.append(str(sample.dataset.Modality))
    demand(not changed, f"other bytes: {', '.join(changed)}")
    return f"{len(visit.samples.all)} instances"


@check(
    "retrieve.file-meta",
    MUST,
    "8.7.3.1, PS3.10 7.1",
    "An object comes as a DICOM file: preamble, prefix, file meta information",
    own=True,
)
def file_meta(visit: Visit) -> str:
    part = body(visit, visit.samples.ct[0].path).parts[0]
    demand(part.content[128:132] == b"DICM", "no DICM after the preamble")
    meta = dataset(part).file_meta
    demand(
        str(meta.get("MediaStorageSOPInstanceUID")) == visit.samples.ct[0].instance,
        "another SOP Instance UID in the file meta information",
    )
    demand(meta.get("TransferSyntaxUID"), "no Transfer Syntax UID")
    return str(meta.TransferSyntaxUID)


@check(
    "retrieve.never-implicit",
    MUST,
    "8.7.3, 8.7.3.4",
    "Objects never come in implicit VR or big endian, whatever is accepted",
    own=True,
)
def never_implicit(visit: Visit) -> str:
    for accept in (AS_STORED, DICOM):
        for part in body(visit, visit.samples.ct[0].path, accept).parts:
            came = str(dataset(part).file_meta.TransferSyntaxUID)
            demand(came not in (IMPLICIT, BIG), f"{came} for Accept: {accept}")
    return "they do not"


def _pixels(visit: Visit, sample: Sample, accept: str, syntax: str) -> str:
    came = dataset(body(visit, sample.path, accept).parts[0])
    actual = str(came.file_meta.TransferSyntaxUID)
    demand(actual == syntax, f"{actual}")
    if syntax == EXPLICIT:
        demand(came.PixelData.rstrip(b"\0") == b"".join(sample.frames).rstrip(b"\0"), "other pixels")
    return actual


@check(
    "retrieve.default-syntax",
    MUST,
    "8.7.3, 8.7.3.4",
    "A lossless compressed instance comes in explicit VR little endian where no transfer syntax is named",
    own=True,
)
def default_syntax(visit: Visit) -> str:
    return _pixels(visit, visit.samples.rle, DICOM, EXPLICIT)


def _implicit(visit: Visit) -> Sample:
    """An instance stored in implicit VR little endian."""

    def store() -> Sample:
        sample = objects.implicit(visit.samples)
        visit.extra.append(sample.study)
        status(visit.store([sample.file]), 200)
        return sample

    return visit.once("implicit", store)


@check(
    "retrieve.default-implicit", MUST, "8.7.3, 8.7.3.4",
    "An instance stored in implicit VR comes in explicit VR little endian where no transfer syntax is named",
    own=True, writes=True,
)  # fmt: skip
def default_implicit(visit: Visit) -> str:
    return _pixels(visit, _implicit(visit), DICOM, EXPLICIT)


@check(
    "retrieve.wildcard-implicit", SHOULD, "8.7.3",
    "An instance stored in implicit VR comes in explicit VR for transfer-syntax=*", own=True, writes=True,
)  # fmt: skip
def wildcard_implicit(visit: Visit) -> str:
    came = str(dataset(body(visit, _implicit(visit).path, AS_STORED).parts[0]).file_meta.TransferSyntaxUID)
    demand(came not in (IMPLICIT, BIG), came)
    return came


@check(
    "retrieve.explicit",
    MUST,
    "8.7.3.4, 8.7.3.5.2",
    "A compressed instance comes decompressed for transfer-syntax=1.2.840.10008.1.2.1",
    own=True,
)
def explicit(visit: Visit) -> str:
    return _pixels(visit, visit.samples.rle, f"{DICOM}; transfer-syntax={EXPLICIT}", EXPLICIT)


@check(
    "retrieve.wildcard",
    MUST,
    "8.7.3.5.2",
    "transfer-syntax=* is understood: the compressed instance comes as it is, or in explicit VR little endian",
    own=True,
)
def wildcard(visit: Visit) -> str:
    came = str(dataset(body(visit, visit.samples.rle.path).parts[0]).file_meta.TransferSyntaxUID)
    demand(came in (RLE, EXPLICIT), came)
    return came


@check(
    "retrieve.compressed",
    SHOULD,
    "Table 8.7.3-2 (optional)",
    "The RLE instance comes in RLE where that is asked for",
    own=True,
)
def compressed(visit: Visit) -> str:
    response = ask(visit, visit.samples.rle.path, f"{DICOM}; transfer-syntax={RLE}")
    if response.status_code == 406:
        raise NotOffered(said(response))
    return _pixels(visit, visit.samples.rle, f"{DICOM}; transfer-syntax={RLE}", RLE)


@check("retrieve.quoted-syntax", MUST, "8.7 (mtp-value)", "The value of transfer-syntax may be quoted", own=True)
def quoted_syntax(visit: Visit) -> str:
    return _pixels(visit, visit.samples.rle, f'{DICOM}; transfer-syntax="{EXPLICIT}"', EXPLICIT)


@check(
    "retrieve.single-part",
    SHOULD,
    "10.4.4, 8.7.3.5",
    "An instance comes as one application/dicom body without multipart where that is accepted",
)
def single_part(visit: Visit) -> str:
    response = visit.server.get(visit.target().path, "application/dicom; transfer-syntax=*")
    if response.status_code == 406:
        raise NotOffered(said(response))
    status(response, 200)
    kind = multipart.media_type(response.headers.get("content-type", ""))[0]
    if kind == "multipart/related":
        raise NotOffered("multipart/related instead")
    demand(kind == "application/dicom" and response.content[128:132] == b"DICM", said(response))
    return said(response)


@check("retrieve.unknown-study", MUST, "Table 10.4.3-1", "A study that does not exist is answered with 404")
def unknown_study(visit: Visit) -> str:
    return status(visit.server.get(f"/studies/{NOBODY}", AS_STORED), 404)


@check("retrieve.unknown-series", MUST, "Table 10.4.3-1", "A series that does not exist is answered with 404")
def unknown_series(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.target().study_path}/series/{NOBODY}", AS_STORED), 404)


@check("retrieve.unknown-instance", MUST, "Table 10.4.3-1", "An instance that does not exist is answered with 404")
def unknown_instance(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.target().series_path}/instances/{NOBODY}", AS_STORED), 404)


@check(
    "retrieve.other-study",
    MUST,
    "Table 10.4.3-1",
    "An instance is not found below a study it does not belong to (404)",
    own=True,
)
def other_study(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    path = f"/studies/{visit.samples.report.study}/series/{sample.series}/instances/{sample.instance}"
    return status(visit.server.get(path, AS_STORED), 404)


@check("retrieve.malformed-uid", MUST, "Table 10.4.3-1", "A malformed UID in the path is answered with 400 or 404")
def malformed_uid(visit: Visit) -> str:
    return status(visit.server.get("/studies/not-a-uid", AS_STORED), 400, 404)


@check("retrieve.traversal", MUST, "Table 10.4.3-1", "Dots and slashes in a UID of the path lead nowhere (400 or 404)")
def traversal(visit: Visit) -> str:
    return status(visit.server.get("/studies/..%2F..%2Fetc%2Fpasswd", AS_STORED), 400, 404)


@check("retrieve.error-type", MUST, "Table 10.4.3-2", "An error answer with a body has a Content-Type")
def error_type(visit: Visit) -> str:
    response = visit.server.get(f"/studies/{NOBODY}", AS_STORED)
    demand(not response.content or response.headers.get("content-type"), said(response))
    return said(response)
